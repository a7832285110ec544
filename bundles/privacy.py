"""How much a bundle's file says about how it was made, by whom and on what."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import cast

from .bundle import Bundle
from .metadata import PHRASE
from .table_picture import data_uri, from_uri

Recipe = Mapping[str, object]


class Metadata(str, Enum):
    """What a file holds in addition to what loading needs.

    Loading needs the weights, the names with the words that they stand for and started from, the
    triggers, the family and the alphas: they are in every file.
    """

    EVERYTHING = "everything"
    RECIPE = "recipe without paths and folder names"
    NAMES = "nothing beyond names and family"


# A slash or a drive at the start of a word; the slashes of https:// follow a letter.
_PATH = re.compile(r"(?:^|[\s\"'=,;(\[{])(?:file:|~?/[^/\s]|~[\\/]|[A-Za-z]:[\\/]|\\\\\w)")

_SETTINGS = ("train", "concepts", "adapter", "resolution", "base_model")
_DATASETS = ("dataset", "class_dataset")
_COUNT = "pictures"
_OF_DATASETS = re.compile(r"((class_|validation\.)?dataset\.(?!pictures$)|continues\.run$).*")
"""Settings in the list of what changed when a run was continued, with dotted names"""
_UNNAMED = {"step", "what", "steps", "concept", "why"}
_MOST_LEVELS = 20
"""Of objects and lists in each other; a recipe of ours has five"""

# Of what other trainers write, settings that are numbers and words of the trainer's own. Names of
# files and folders, tags of captions, comments and dates are not among them.
_PLAIN_FIELDS = frozenset(
    f"ss_{name}"
    for name in (
        *("v2", "base_model_version", "network_module", "network_dim", "network_alpha"),
        *("network_args", "network_dropout", "learning_rate", "unet_lr", "text_encoder_lr"),
        *("optimizer", "lr_scheduler", "lr_warmup_steps", "lr_scheduler_num_cycles"),
        *("lr_scheduler_power", "epoch", "num_epochs", "steps", "max_train_steps", "seed"),
        *("num_train_images", "num_reg_images", "num_batches_per_epoch", "total_batch_size"),
        *("batch_size_per_device", "gradient_accumulation_steps", "gradient_checkpointing"),
        *("mixed_precision", "full_fp16", "full_bf16", "fp8_base", "lowram", "cache_latents"),
        *("resolution", "enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_no_upscale"),
        *("clip_skip", "max_token_length", "keep_tokens", "shuffle_caption", "flip_aug"),
        *("color_aug", "random_crop", "caption_dropout_rate", "caption_tag_dropout_rate"),
        *("caption_dropout_every_n_epochs", "prior_loss_weight", "max_grad_norm", "loss_type"),
        *("huber_c", "huber_schedule", "min_snr_gamma", "debiased_estimation", "noise_offset"),
        *("adaptive_noise_scale", "multires_noise_iterations", "multires_noise_discount"),
        *("ip_noise_gamma", "zero_terminal_snr", "scale_weight_norms", "weighting_scheme"),
        *("logit_mean", "logit_std", "mode_scale", "timestep_sampling", "sigmoid_scale"),
        *("discrete_flow_shift", "guidance_scale", "model_prediction_type", "apply_t5_attn_mask"),
        *(
            "sd_model_hash",
            "new_sd_model_hash",
            "vae_hash",
            "new_vae_hash",
            "sd_scripts_commit_hash",
        ),
    )
)
_OF_PIXELS = frozenset(
    (
        *("jfif", "jfif_version", "jfif_unit", "jfif_density", "adobe", "adobe_transform"),
        *("progressive", "progression", "dpi", "gamma", "srgb", "transparency", "interlace"),
    )
)
"""What Pillow finds in a picture besides texts and profiles"""
# What an author declares about the file, to whoever gets it.
_DECLARED = frozenset(f"modelspec.{name}" for name in ("author", "description", "license", "tags"))
_FOR_LOADING = frozenset(
    {
        PHRASE,
        "modelspec.prediction_type",
        "ss_base_model_version",
        "ss_network_module",
        "ss_network_dim",
        "ss_network_alpha",
    }
)


def without_private(bundle: Bundle, metadata: Metadata) -> Bundle:
    """The bundle as its file may hold it under a choice."""
    if metadata is Metadata.EVERYTHING:
        return bundle
    bundle = replace(bundle, workflow="", source="")
    if metadata is Metadata.RECIPE:
        fields = _PLAIN_FIELDS | _DECLARED | _FOR_LOADING
        recipe = _plain_recipe(bundle.recipe)
        return replace(
            bundle,
            recipe=recipe,
            header=_plain_header(bundle.header, fields),
            thumbnail=_plain_thumbnail(bundle.thumbnail),
            entries=tuple(
                replace(entry, thumbnail=_plain_thumbnail(entry.thumbnail))
                for entry in bundle.entries
            ),
        )
    return replace(
        bundle,
        recipe={},
        header=_plain_header(bundle.header, _FOR_LOADING),
        thumbnail="",
        entries=tuple(replace(entry, thumbnail="") for entry in bundle.entries),
        dated=False,
    )


def named_parts(recipe: Recipe) -> dict[str, object]:
    """The parts of a recipe in which `without_private` leaves something out."""
    return {key: recipe[key] for key in (*_DATASETS, "validation", "continues") if key in recipe}


def _plain_recipe(recipe: Recipe) -> Recipe:
    """Settings, counts and the digest of the model; anything unknown may be anyone's text."""
    plain = {key: _pathless(recipe[key]) for key in _SETTINGS if key in recipe}
    plain |= {key: _counted(recipe[key]) for key in _DATASETS if key in recipe}
    if "validation" in recipe:
        validation = _fields(recipe["validation"])
        plain["validation"] = {
            key: _counted(value) if key == "dataset" else _pathless(value)
            for key, value in validation.items()
        }
    if "continues" in recipe:
        plain["continues"] = _chosen(recipe["continues"], {"step"})
    events = recipe.get("events")
    if isinstance(events, list):
        plain["events"] = [_plain_event(event) for event in cast("list[object]", events)]
    return plain


def _plain_event(event: object) -> dict[str, object]:
    fields = _fields(event)
    plain = _chosen(fields, _UNNAMED)
    if "changed" in fields:
        changed = _fields(_pathless(fields["changed"]))
        plain["changed"] = {k: v for k, v in changed.items() if not _OF_DATASETS.fullmatch(k)}
    return plain


def _counted(dataset: object) -> dict[str, object] | None:
    """The number of a dataset's pictures; a fingerprint would confirm a guess of which they are."""
    return None if dataset is None else _chosen(dataset, {_COUNT})


def _chosen(value: object, keys: set[str]) -> dict[str, object]:
    return {key: _pathless(part) for key, part in _fields(value).items() if key in keys}


def _fields(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _pathless(value: object, levels: int = _MOST_LEVELS) -> object:
    """A JSON value without the texts that hold an absolute path."""
    if isinstance(value, str):
        return "" if _PATH.search(value) else value
    if not isinstance(value, dict | list | tuple):
        return value
    if not levels:
        return None
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        return {k: _pathless(v, levels - 1) for k, v in fields.items() if not _PATH.search(k)}
    return [_pathless(part, levels - 1) for part in cast("Sequence[object]", value)]


def _plain_thumbnail(uri: str) -> str:
    """A picture without the camera's or a program's texts, which may hold a whole workflow."""
    image = from_uri(uri) if uri else None
    if image is None:
        return ""
    if image.info.keys() <= _OF_PIXELS:
        return uri
    image.info.clear()
    return data_uri(image)


def _plain_header(header: Mapping[str, str], fields: frozenset[str]) -> dict[str, str]:
    return {key: text for key, text in header.items() if key in fields and not _PATH.search(text)}
