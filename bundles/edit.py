"""Bundles made of bundles: packed from files, renamed, and merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum

from torch import Tensor

from .bundle import Bundle, Entry, check_name
from .layers.aliases import one_spelling
from .lowrank import LoraFile, LowRank, compact, decompose, join_lora, merge, split_lora, trim


class NameClash(str, Enum):
    """What happens to a name that two of the bundles have."""

    ERROR = "stop with an error"
    NUMBER = "add a number"
    KEEP = "keep the first"


def pack(lora: Bundle | None, embeddings: Sequence[Bundle]) -> Bundle:
    """A LoRA (and its names) with the names of other files; ValueError where a name is twice."""
    parts = [*([lora] if lora else []), *embeddings]
    if not parts:
        raise ValueError("There is nothing to pack: choose a LoRA or an embedding.")
    extra = [part for part in embeddings if part.lora]
    if extra:
        names = ", ".join(extra[0].names) or "without names"
        raise ValueError(
            f"One of the embedding files is a LoRA ({names}): merge it with Merge Bundles instead."
        )
    return replace(_union(parts, NameClash.ERROR), lora=dict(lora.lora) if lora else {})


def rename(bundle: Bundle, names: Mapping[str, str]) -> Bundle:
    """The bundle with other names, in the same order; ValueError for an unknown or bad one."""
    for old, new in names.items():
        if old not in bundle.names:
            known = ", ".join(bundle.names) or "none"
            raise ValueError(f'The bundle has no name "{old}": it has {known}.')
        check_name(new)
    made = {name: names.get(name, name) for name in bundle.names}
    twice = [name for name in made.values() if list(made.values()).count(name) > 1]
    if twice:
        raise ValueError(f'Two names become "{twice[0]}": give them different names.')
    return replace(
        bundle,
        embeddings={made[name]: vectors for name, vectors in bundle.embeddings.items()},
        outputs={made[name]: vectors for name, vectors in bundle.outputs.items()},
        entries=tuple(replace(e, name=made.get(e.name, e.name)) for e in bundle.entries),
    )


def warnings_for_name(name: str, others: Sequence[str] = ()) -> list[str]:
    """What other programs make of a name that is allowed here."""
    found: list[str] = []
    if " " in name:
        found.append(f'"{name}" holds a blank: ComfyUI without Load Bundle cuts the name there.')
    marks = sorted(set(name) & set('<>()[]{},:|"'))
    if marks:
        found.append(
            f'"{name}" holds {" ".join(marks)}, which prompts give a meaning to elsewhere.'
        )
    if name.isascii() and name.isalpha() and name.islower() and len(name) > 2:
        found.append(f'A1111 takes every "{name}" in a prompt for this name, also as a plain word.')
    longer = [other for other in others if other != name and other.startswith(name)]
    if longer:
        found.append(f'"{name}" is how "{longer[0]}" begins, which some programs confuse.')
    return found


def merge_bundles(
    bundles: Sequence[Bundle], weights: Sequence[float], clash: NameClash, rank: int = 0
) -> Bundle:
    """The weighted sum of the LoRA halves, and the union of the names.

    Exact: the factors of a layer stand side by side, so ranks add up (rank 0, in no more
    directions than there are). With `rank` each layer is cut to that many directions, the best
    ones (Eckart and Young 1936). ValueError for other families, or layers that are no factors.
    """
    if len(bundles) != len(weights) or not bundles:
        raise ValueError(
            f"There are {len(bundles)} bundles and {len(weights)} weights: match them."
        )
    families = list(dict.fromkeys(bundle.family for bundle in bundles if bundle.family))
    if len(families) > 1:
        raise ValueError(
            f"The bundles are made for {' and '.join(families)}: only bundles of one family merge."
        )
    family = families[0] if families else ""
    files = [split_lora(bundle.lora) for bundle in bundles]
    merged = _merge_layers(_alike(files, family), weights, rank)
    made = _union(bundles, clash)
    title = ", ".join(filter(None, (bundle.source for bundle in bundles)))
    header = {"modelspec.merged_from": title} if title else {}
    return replace(
        made, family=family, lora=join_lora(merged) if merged.layers else {}, header=header
    )


def _alike(files: Sequence[LoraFile], family: str) -> list[LoraFile]:
    """One spelling for all, so that equal layers meet; ValueError for what has no factors."""
    for file in files:
        if file.rest:
            raise ValueError(
                f"{next(iter(file.rest))} is no pair of low-rank factors (LoHa, LoKr, DoRA and "
                "full deltas are none), so it cannot be merged: turn it into a plain LoRA first."
            )
    names = one_spelling([list(file.layers) for file in files], family)
    return [
        replace(file, layers={known[stem]: layer for stem, layer in file.layers.items()})
        for file, known in zip(files, names, strict=True)
    ]


def _merge_layers(files: Sequence[LoraFile], weights: Sequence[float], rank: int) -> LoraFile:
    names = dict.fromkeys(name for file in files for name in file.layers)
    layers: dict[str, LowRank] = {}
    for name in names:
        held = [
            (f.layers[name], w) for f, w in zip(files, weights, strict=True) if name in f.layers
        ]
        whole = merge([layer for layer, _ in held], [weight for _, weight in held])
        layers[name] = _cut(whole, rank)
    return LoraFile(layers=layers, rest={})


def _cut(layer: LowRank, rank: int) -> LowRank:
    """At most `rank` directions; without one, no more than a layer of that size can have."""
    if rank:
        return trim(decompose(layer), rank).low_rank()
    most = min(layer.up.shape[0], layer.down.shape[1])
    return compact(layer) if layer.rank > most else layer


def _union(parts: Sequence[Bundle], clash: NameClash) -> Bundle:
    embeddings: dict[str, Mapping[str, Tensor]] = {}
    outputs: dict[str, Mapping[str, Tensor]] = {}
    entries: dict[str, Entry] = {}
    notes: list[str] = []
    for part in parts:
        for name in part.names:
            final = _free(name, entries, clash, notes)
            if final is None:
                continue
            entries[final] = replace(part.entry_of[name], name=final)
            if name in part.embeddings:
                embeddings[final] = part.embeddings[name]
            if name in part.outputs:
                outputs[final] = part.outputs[name]
    family = next((part.family for part in parts if part.family), "")
    first = parts[0]
    return replace(
        first,
        family=family,
        embeddings=embeddings,
        outputs=outputs,
        entries=tuple(entries.values()),
        notes=tuple([*(note for part in parts for note in part.notes), *notes]),
    )


def _free(name: str, taken: Mapping[str, Entry], clash: NameClash, notes: list[str]) -> str | None:
    """The name under the rule for clashes; None where the first one is kept."""
    if name not in taken:
        return name
    if clash is NameClash.ERROR:
        raise ValueError(f'Two of the bundles hold the name "{name}": rename one of them first.')
    if clash is NameClash.KEEP:
        notes.append(f'The later "{name}" is left out.')
        return None
    number = next(n for n in range(2, len(taken) + 3) if f"{name}_{n}" not in taken)
    notes.append(f'The later "{name}" is called "{name}_{number}".')
    return f"{name}_{number}"
