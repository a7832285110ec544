"""A bundle applied to a MODEL and CLIP: the LoRA as host patches, the names in its tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.lora_convert
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from comfy.weight_adapter.lora import LoRAAdapter
from torch import Tensor

from ....bundles.bundle import Bundle, few, short
from ....bundles.layers.diffusers_keys import layer_of
from ....bundles.layers.family import guess_family
from ....bundles.layers.generic import KOHYA_FAMILIES
from ....bundles.layers.peft_keys import PEFT_PREFIX, magnitude_layer
from ....bundles.load import load_bundle
from ....bundles.lowrank import PAIRS, UNDERSCORED, check_alphas, check_numbers
from ....bundles.table_picture import data_uri
from ....training.dataset.pictures.pixels import to_picture
from ..denoiser.families import check_bundle, family_of
from ..text.resolve import NameRules, bind_names
from .fit import PEFT_DORA, UNEQUAL, is_empty, misfit, shapes_of

_DENOISER = "diffusion_model."
_FOREIGN = "None of the bundle's LoRA fits this model: the bundle belongs to another model family."


def read_back(files: Sequence[Path]) -> Bundle:
    """Files that were saved together, as one bundle."""
    whole = load_bundle(files[0])
    if whole.lora or len(files) == 1:
        return replace(whole, notes=())
    parts = [load_bundle(file) for file in files]
    embeddings = {name: vectors for part in parts for name, vectors in part.embeddings.items()}
    entries = tuple(entry for part in parts for entry in part.entries)
    return replace(whole, embeddings=embeddings, entries=entries, notes=())


def add_lora(
    model: ModelPatcher,
    clip: CLIP,
    lora: Mapping[str, Tensor],
    *,
    strength_model: float,
    strength_clip: float,
) -> list[str]:
    """Patch clones with a LoRA as the host's loader does; returns notes about what it left out.

    Raises ValueError if most of the LoRA does not fit, which the host's loader would only log.
    """
    if not lora or not (strength_model or strength_clip):
        return []
    check_alphas(lora)
    check_numbers(lora)
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    keys = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, keys)
    converted = comfy.lora_convert.convert_lora(dict(lora))
    patches, left = _patches(converted, keys)
    halves = _halves(left, keys)
    unknown = _unknown_kinds([key for key in left if key not in halves], keys, patches)
    if not patches and not unknown:
        raise ValueError(next(map(_lacking, halves.values()), _FOREIGN))
    fitting, notes = _fitting(model, clip, patches)
    model.add_patches(fitting, strength_model)
    clip.add_patches(fitting, strength_clip)
    known = {*halves, *(key for members in unknown.values() for key in members)}
    strangers = [key for key in left if key not in known]
    halved = [f"{_lacking(up)} The layer is left out." for up in halves.values()]
    return [*_unapplied(unknown), *halved, *notes, *_strangers(strangers)]


def _fitting(
    model: ModelPatcher, clip: CLIP, patches: Mapping[Any, Any]
) -> tuple[dict[Any, Any], list[str]]:
    """The patches that can be applied, and sentences about the others."""
    empty = [_weight(target) for target, patch in patches.items() if is_empty(patch)]
    filled = {target: patch for target, patch in patches.items() if not is_empty(patch)}
    misfits = _misfits(model, clip, filled)
    notes = _left_out({_weight(target): reason for target, reason in misfits.items()})
    if empty:
        notes.append(f"{len(empty)} layers of rank 0 change nothing: {few(empty)}.")
    return {target: patch for target, patch in filled.items() if target not in misfits}, notes


def _weight(target: Any) -> str:
    """The name of the weight that a patch changes, which may be a part of it."""
    return target if isinstance(target, str) else target[0]


def _misfits(model: ModelPatcher, clip: CLIP, patches: Mapping[Any, Any]) -> dict[Any, str]:
    """Why some patches cannot be applied; ValueError if that is true of most."""
    shapes = shapes_of(clip.cond_stage_model) | shapes_of(model.model)
    reasons = {target: misfit(target, patch, shapes) for target, patch in patches.items()}
    misfits = {target: reason for target, reason in reasons.items() if reason}
    # The diffusion model decides, since a text encoder can be another size within a family.
    denoiser = [target for target in patches if _weight(target).startswith(_DENOISER)]
    deciding = denoiser or [*patches]
    wrong = [target for target in deciding if target in misfits]
    if 2 * len(wrong) > len(deciding):
        reason = misfits[wrong[0]]
        cure = "the file is damaged, copy it again"
        if reason != UNEQUAL:
            cure = "the bundle belongs to another model family"
        raise ValueError(f"The bundle's LoRA for {_weight(wrong[0])} {reason}: {cure}.")
    return misfits


def _left_out(misfits: Mapping[str, str]) -> list[str]:
    """Sentences about layers that do not fit, one for each reason."""
    by_reason: dict[str, list[str]] = {}
    for weight, reason in misfits.items():
        by_reason.setdefault(reason, []).append(weight)
    return [
        f"The bundle's LoRA for {few(weights)} {reason}: it is left out."
        for reason, weights in by_reason.items()
    ]


def _lacking(key: str) -> str:
    return (
        f"The bundle's LoRA lacks {key}, a part of a layer that it changes: the file is damaged, "
        "copy it again."
    )


def _halves(left: Sequence[str], keys: Mapping[str, Any]) -> dict[str, str]:
    """By the key of a `down` that has no `up`, and so makes no patch, that of the `up`."""
    ends = [(f".{up}", f".{down}") for up, down in PAIRS] + [UNDERSCORED]
    others = {
        key: key.removesuffix(down) + up
        for key in left
        for up, down in ends
        if key.endswith(down) and key.removesuffix(down) in keys
    }
    return {key: up for key, up in others.items() if up not in left}


class _TrackedLora(dict[str, Tensor]):
    """A LoRA that records which of its tensors the host's loader reads."""

    def __init__(self, lora: Mapping[str, Tensor]) -> None:
        super().__init__(lora)
        self.taken: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        if key not in self:
            raise ValueError(_lacking(key))
        self.taken.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        if key not in self:
            return default
        return self[key]


def _patches(
    lora: Mapping[str, Tensor], keys: Mapping[str, Any]
) -> tuple[dict[Any, Any], list[str]]:
    """The host's patches, and the keys of the tensors that it did not use."""
    lora = _with_family_prefix(lora, keys)
    names = loader_names(lora)
    read = _TrackedLora({names[key]: tensor for key, tensor in lora.items()})
    patches = as_peft_dora(comfy.lora.load_lora(read, keys, log_missing=False), lora)
    return patches, [key for key in lora if names[key] not in read.taken]


def _unknown_kinds(
    left: Sequence[str], keys: Mapping[str, Any], patches: Mapping[Any, Any]
) -> dict[str, list[str]]:
    """By layer the tensors of adapters that the host does not have, and so makes no patch of."""
    unknown: dict[str, list[str]] = {}
    for key in left:
        layer = _known_layer(key, keys)
        if layer and not _is_patched(keys[layer], patches):
            unknown.setdefault(layer, []).append(key)
    return unknown


def _is_patched(weight: Any, patches: Mapping[Any, Any]) -> bool:
    """Whether a layer's weight has a patch, or its bias; some weights are a part of one."""
    if weight in patches:
        return True
    return isinstance(weight, str) and f"{weight.removesuffix('.weight')}.bias" in patches


def _known_layer(key: str, keys: Mapping[str, Any]) -> str:
    """The longest beginning of a key that names a layer for the host, "" where none does."""
    layer = key.rpartition(".")[0]
    while layer and layer not in keys:
        layer = layer.rpartition(".")[0]
    return layer


def _unapplied(unknown: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence about layers whose kind of adapter the host does not have."""
    if not unknown:
        return []
    ends = {key.removeprefix(f"{layer}.") for layer, members in unknown.items() for key in members}
    named = ", ".join([*unknown][:3])
    others = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
    return [
        f"ComfyUI cannot apply adapters saved as {', '.join(sorted(ends))}, so these layers are "
        f"left unchanged: {named}{others}."
    ]


def _strangers(left: Sequence[str]) -> list[str]:
    """A sentence about all other tensors that the host did not use."""
    if not left:
        return []
    return [f"{len(left)} LoRA tensors fit no layer of these models, such as {short(left[0])}."]


def _with_family_prefix(
    lora: Mapping[str, Tensor], keys: Mapping[str, Any]
) -> Mapping[str, Tensor]:
    """PEFT's names of a transformer's layers, with the prefix that the family's loader expects."""
    adapter = [key for key in lora if key.startswith(PEFT_PREFIX)]

    def behind(prefix: str) -> dict[str, str]:
        return {key: prefix + key.removeprefix(PEFT_PREFIX) for key in adapter}

    def matches(prefix: str) -> int:
        return sum(layer_of(key) in keys for key in behind(prefix).values())

    best = behind(max((PEFT_PREFIX, "transformer.", "diffusion_model.", ""), key=matches))
    return {best.get(key, key): tensor for key, tensor in lora.items()}


def apply_bundle(
    model: ModelPatcher,
    clip: CLIP,
    bundle: Bundle,
    *,
    strength_model: float = 1.0,
    strength_clip: float = 1.0,
    rules: NameRules | None = None,
    origin: str = "",
) -> tuple[ModelPatcher, CLIP, list[str], list[str]]:
    """(MODEL, CLIP, names, notes): clones with the LoRA, and with the names bound to that CLIP.

    With both strengths at 0 the LoRA is ignored, and the names are bound anyway.
    """
    unsure = _unsure_family(model, bundle)
    # One clone each: the host loses track when a chain of clones is dropped at once.
    new_clip, names, notes = bind_names(clip, bundle, rules or NameRules(), origin)
    new_model = model.clone()
    notes += add_lora(
        new_model, new_clip, bundle.lora, strength_model=strength_model, strength_clip=strength_clip
    )
    return new_model, new_clip, names, [*bundle.notes, *unsure, *notes]


def _unsure_family(model: ModelPatcher, bundle: Bundle) -> list[str]:
    """A note about names that another family than the MODEL's has the encoders for, if any.

    ValueError for a bundle that was surely made for another family.
    """
    own, shown = family_of(model), guess_family({}, bundle.embeddings)
    # Names alone do not tell SD1.5 from Flux, whose CLIP-L is the same; the UNets' families are
    # told apart by their encoders.
    if bundle.lora or not shown or bundle.family != shown or own in KOHYA_FAMILIES:
        check_bundle(model, bundle.family)
        return []
    return [
        f"Vectors for {', '.join(_encoders(bundle))} alone are usually made for {shown}, and the "
        f"MODEL is {own}: they fit its text encoders, which may read them differently."
    ]


def _encoders(bundle: Bundle) -> list[str]:
    return sorted({key for vectors in bundle.embeddings.values() for key in vectors})


class PeftDora(LoRAAdapter):
    """PEFT's DoRA: W' = m (W + s B A) / |W + s B A|, m for each output (arXiv 2402.09353, eq. 5).

    At a strength below 1 the weight is on the line from W to W', as with the host's own DoRA.
    """

    name = PEFT_DORA

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Callable[[Tensor], Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Converts the lengths for this weight into the host's form and lets the host compute."""
        up, down, alpha, mid, lengths, reshape = self.weights
        plain = LoRAAdapter(self.loaded_keys, (up, down, alpha, mid, None, reshape))
        options = (strength_model, offset, function, *args)
        changed = plain.calculate_weight(weight.clone(), key, 1.0, *options, **kwargs)
        column = (-1, *[1] * (weight.ndim - 1))
        own = function(lengths.to(weight.device, torch.float32).reshape(column))
        scale = own * _divisor(weight).reshape(column) / _norms(changed.float()).reshape(column)
        host = LoRAAdapter(self.loaded_keys, (up, down, alpha, mid, scale, reshape))
        return host.calculate_weight(weight, key, strength, *options, **kwargs)


def _divisor(weight: Tensor) -> Tensor:
    """The norms by which the host divides lengths, in the host's precision."""
    return (_norms(weight) + torch.finfo(weight.dtype).eps).float()


def _norms(weight: Tensor) -> Tensor:
    """The Euclidean norm of each row, (out,), and a tiny number for a row of zeros."""
    return weight.flatten(1).norm(dim=1).clamp_min(torch.finfo(weight.dtype).tiny)


def loader_names(lora: Mapping[str, Tensor]) -> dict[str, str]:
    """The key that the host's loader reads for each tensor.

    PEFT's lengths pass under the key of the host's own DoRA; `as_peft_dora` then converts them.
    """
    layers = {key: magnitude_layer(key) for key in lora}
    named = {key: f"{layer}.dora_scale" if layer else key for key, layer in layers.items()}
    return {key: name if name == key or name not in lora else key for key, name in named.items()}


def as_peft_dora(patches: Mapping[Any, Any], lora: Mapping[str, Tensor]) -> dict[Any, Any]:
    """The host's patches, with those that have lengths of PEFT as `PeftDora`."""
    lengths = {id(tensor): key for key, tensor in lora.items() if magnitude_layer(key)}
    return {target: _as_peft_dora(patch, lengths) for target, patch in patches.items()}


def _as_peft_dora(patch: Any, lengths: Mapping[int, str]) -> Any:
    if not isinstance(patch, LoRAAdapter) or id(patch.weights[4]) not in lengths:
        return patch
    up, magnitude = patch.weights[0], patch.weights[4]
    if magnitude.numel() != up.shape[0]:
        raise ValueError(
            f"{lengths[id(magnitude)]} holds {magnitude.numel()} lengths for {up.shape[0]} "
            "outputs: the file is damaged, copy it again."
        )
    return PeftDora(patch.loaded_keys, patch.weights)


def with_thumbnails(bundle: Bundle, pictures: Tensor | None) -> Bundle:
    """The bundle with thumbnails: the first for the file, the others for its names in order."""
    if pictures is None:
        return bundle
    # The levels that Save Image writes: the same pictures always gave the same header.
    first, *others = [data_uri(to_picture(pixels, truncate=True)) for pixels in pictures]
    of_name = dict(zip(bundle.names, others, strict=False))
    entries = [
        replace(entry, thumbnail=of_name.get(name, entry.thumbnail))
        for name, entry in bundle.entry_of.items()
    ]
    return replace(bundle, thumbnail=first, entries=tuple(entries))
