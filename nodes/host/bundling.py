"""A bundle applied to host models: the LoRA as the host's own patches, the names by an overlay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.lora_convert
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from comfy.weight_adapter.lora import LoRAAdapter
from torch import Tensor

from ...bundles.containers import load_bundle
from ...bundles.manifest import Bundle, check_name
from .families import check_bundle
from .overlay import NamedVectors, leaves, named, with_names


@dataclass(frozen=True, kw_only=True, slots=True)
class NameSetting:
    """What to do with one name of a bundle: "old = new : strength", or "-old" to leave it out."""

    new_name: str = ""
    strength: float = 1.0
    on: bool = True


def read_back(files: Sequence[Path]) -> Bundle:
    """What files that were saved together hold, as one bundle."""
    parts = [load_bundle(file) for file in files]
    lora = {key: tensor for part in parts for key, tensor in part.lora.items()}
    embeddings = {name: vectors for part in parts for name, vectors in part.embeddings.items()}
    return replace(parts[0], lora=lora, embeddings=embeddings, notes=())


def parse_names(text: str) -> dict[str, NameSetting]:
    """Settings by name, a line each: `old = new : strength`, parts optional; `-old` is off."""
    settings: dict[str, NameSetting] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("-"):
            settings[line[1:].strip()] = NameSetting(on=False)
            continue
        names, separator, number = line.rpartition(":")
        old, _, new = (names if separator else line).partition("=")
        settings[old.strip()] = NameSetting(
            new_name=new.strip(), strength=_number(number, line) if separator else 1.0
        )
    return settings


def _number(text: str, line: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f'"{line}" in names is not understood: write old = new : strength, '
            "such as cat = tom : 0.8"
        )
    return number


def chosen_vectors(
    bundle: Bundle, settings: Mapping[str, NameSetting]
) -> dict[str, Mapping[str, Tensor]]:
    """The bundle's vectors under their new names, scaled; ValueError for an unknown name."""
    unknown = [name for name in settings if name not in bundle.embeddings]
    if unknown:
        raise ValueError(
            f'The bundle has no name "{unknown[0]}": '
            f"it has {', '.join(bundle.embeddings) or 'none'}."
        )
    chosen: dict[str, Mapping[str, Tensor]] = {}
    for name, vectors in bundle.embeddings.items():
        setting = settings.get(name, NameSetting())
        if not setting.on:
            continue
        new = setting.new_name or name
        if new != name:
            check_name(new)
        if new in chosen:
            raise ValueError(f'Two names of the bundle become "{new}": give them different names.')
        chosen[new] = {key: rows * setting.strength for key, rows in vectors.items()}
    return chosen


def add_lora(
    model: ModelPatcher,
    clip: CLIP,
    lora: Mapping[str, Tensor],
    *,
    strength_model: float,
    strength_clip: float,
) -> None:
    """Give clones the LoRA as host patches; ValueError when it does not fit them.

    The same steps as the host's LoRA loader, which reports misfits only as log lines.
    """
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    keys = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, keys)
    patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(lora)), keys)
    if lora and not patches:
        raise ValueError(
            "None of the bundle's LoRA fits this model: the bundle belongs to another model family."
        )
    _check_shapes(model, patches)
    patched = {
        *model.add_patches(patches, strength_model),
        *clip.add_patches(patches, strength_clip),
    }
    misfit = [key for key in patches if key not in patched]
    if misfit:
        raise ValueError(f"The bundle's weights for {misfit[0]} do not fit this model.")


def _check_shapes(model: ModelPatcher, patches: Mapping[Any, Any]) -> None:
    """Raise ValueError for low-rank factors of another size than their layer.

    The host logs a line for each of these when it samples, and leaves the layer as it is.
    """
    weights = model.model.state_dict()
    for key, patch in patches.items():
        if key not in weights or not isinstance(patch, LoRAAdapter):
            continue
        up, down, _, mid, _, reshape = patch.weights
        made = (up.shape[0], down[0].numel())
        layer = (weights[key].shape[0], weights[key][0].numel())
        if mid is None and reshape is None and made != layer:
            raise ValueError(
                f"The bundle's LoRA for {key} is made for a layer of {made[0]} x {made[1]}, which "
                f"is {layer[0]} x {layer[1]} here: the bundle belongs to another model family."
            )


def apply_names(
    clip: CLIP, vectors: Mapping[str, Mapping[str, Tensor]], origin: str
) -> tuple[CLIP, list[str]]:
    """A clone of the CLIP that knows the names, and a sentence for each encoder left out."""
    if not vectors:
        return clip.clone(), []
    encoders = leaves(clip)
    notes: list[str] = []
    entries: list[NamedVectors] = []
    for name, parts in vectors.items():
        if not parts.keys() <= encoders.keys():
            raise ValueError(
                f'"{name}" has vectors for {", ".join(parts)} and this CLIP has '
                f"{', '.join(encoders)}: "
                "the bundle belongs to another model family."
            )
        notes += [f"{name} has no vectors for {key}." for key in encoders if key not in parts]
        entries.append(named(name, parts, origin))
    return with_names(clip, entries), notes


def apply_bundle(
    model: ModelPatcher,
    clip: CLIP,
    bundle: Bundle,
    *,
    strength_model: float = 1.0,
    strength_clip: float = 1.0,
    names: Mapping[str, NameSetting] | None = None,
    origin: str = "",
) -> tuple[ModelPatcher, CLIP, list[str], list[str]]:
    """(MODEL, CLIP, names, notes): the LoRA at its strengths, the names on that CLIP alone."""
    check_bundle(model, bundle.family)
    vectors = chosen_vectors(bundle, names or {})
    # One clone each: a chain of them that is dropped at once leaves the host's books in disorder.
    made_clip, notes = apply_names(clip, vectors, origin)
    made = model.clone()
    add_lora(
        made, made_clip, bundle.lora, strength_model=strength_model, strength_clip=strength_clip
    )
    return made, made_clip, list(vectors), [*bundle.notes, *notes]
