"""Bundles made from bundles: packed from files, renamed, and merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum

from torch import Tensor

from .bundle import Bundle, Entry, Vectors, check_name, few, short
from .layers.aliases import one_spelling
from .lowrank import (
    Layers,
    LoraFile,
    LowRank,
    Stored,
    compact,
    decompose,
    joined,
    layer_tensors,
    merge,
    restored,
    split_lora,
    store,
    trim,
)
from .metadata import merged_header


class NameClash(str, Enum):
    """What happens to a name that several of the bundles have."""

    ERROR = "stop with an error"
    NUMBER = "add a number"
    KEEP = "keep the first"


def pack(lora: Bundle | None, embeddings: Sequence[Bundle]) -> Bundle:
    """A LoRA with its names and those of other files; ValueError if a name is repeated."""
    bundles = [*([lora] if lora else []), *embeddings]
    if not bundles:
        raise ValueError("There is nothing to pack: choose a LoRA or an embedding.")
    loras = [bundle for bundle in embeddings if bundle.lora]
    if loras:
        names = ", ".join(map(short, loras[0].names)) or "without names"
        raise ValueError(
            f"One of the embedding files is a LoRA ({names}): merge it with Merge Bundles instead."
        )
    return replace(_union(bundles, NameClash.ERROR), lora=dict(lora.lora) if lora else {})


def rename(bundle: Bundle, names: Mapping[str, str]) -> Bundle:
    """The bundle with new names (new by old) in the same order; ValueError for an unfit one."""
    for old, new in names.items():
        if old not in bundle.names:
            raise bundle.unknown_name(old)
        check_name(new)
    final = {name: names.get(name, name) for name in bundle.names}
    repeated = [name for name in final.values() if list(final.values()).count(name) > 1]
    if repeated:
        raise ValueError(f'Two names become "{short(repeated[0])}": give them different names.')
    return replace(
        bundle,
        embeddings={final[name]: vectors for name, vectors in bundle.embeddings.items()},
        outputs={final[name]: vectors for name, vectors in bundle.outputs.items()},
        entries=tuple(replace(e, name=final.get(e.name, e.name)) for e in bundle.entries),
    )


def warnings_for_name(name: str, others: Sequence[str] = ()) -> list[str]:
    """What other programs make of a name that is allowed here."""
    warnings: list[str] = []
    shown = short(name)
    if " " in name:
        warnings.append(
            f'"{shown}" holds a blank, where ComfyUI without Load Bundle cuts the name.'
        )
    marks = sorted(set(name) & set('<>()[]{},:|"'))
    if marks:
        warnings.append(
            f'"{shown}" holds {" ".join(marks)}, which mean something else in some prompts.'
        )
    if name.isascii() and name.isalpha() and name.islower() and len(name) > 2:
        warnings.append(
            f'A1111 takes every "{shown}" in a prompt for this name, even as an ordinary word.'
        )
    longer = [other for other in others if other != name and other.startswith(name)]
    if longer:
        warnings.append(
            f'"{short(longer[0])}" begins with "{shown}", and some programs confuse the two.'
        )
    return warnings


def merge_bundles(
    bundles: Sequence[Bundle], weights: Sequence[float], clash: NameClash, rank: int = 0
) -> Bundle:
    """The weighted sum of the LoRAs and the union of the names.

    The sum is exact: the factors of a layer are joined side by side, so ranks add up, though not
    beyond what a layer of its size can have. With `rank` each layer is cut to that many directions,
    the best ones (Eckart and Young 1936). ValueError for bundles of different families and for
    layers without factors.
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
    notes = [note for file in files for note in _left_out(file)]
    merged = _merge_layers(_respelled(files, family), weights, rank)
    title = ", ".join(filter(None, (bundle.source for bundle in bundles)))
    union = _union(bundles, clash)
    return replace(
        union,
        family=family,
        lora=merged,
        header=merged_header([bundle.header for bundle in bundles], title),
        notes=(*union.notes, *notes),
    )


def _left_out(file: LoraFile) -> Iterator[str]:
    """Sentences about what changes nothing and is not merged."""
    if file.empty:
        yield f"{len(file.empty)} layers of rank 0 change nothing and are left out: " + (
            f"{few(file.empty)}."
        )
    alphas = _lone_alphas(file)
    if alphas:
        yield f"{len(alphas)} alphas without a layer are left out: {few(alphas)}."


def _lone_alphas(file: LoraFile) -> list[str]:
    """Alphas of layers that have no other tensor."""
    stems = {key.rpartition(".")[0] for key in file.others if not key.endswith(".alpha")}
    layers = {key: key.removesuffix("alpha") for key in file.others if key.endswith(".alpha")}
    return [
        key
        for key, layer in layers.items()
        if not any(f"{stem}.".startswith(layer) for stem in stems)
    ]


def _respelled(files: Sequence[LoraFile], family: str) -> list[Layers]:
    """One spelling for all, so that equal layers meet; ValueError for layers without factors."""
    for file in files:
        lone = _lone_alphas(file)
        strange = [key for key in file.others if key not in lone]
        if strange:
            raise ValueError(
                f"{strange[0]} does not belong to a pair of low-rank factors, as with "
                "LoHa, LoKr, DoRA and full deltas, so it cannot be merged: turn it into a plain "
                "LoRA first."
            )
    spellings = one_spelling([list(file.layers) for file in files], family)
    return [file.layers.renamed(spelling) for file, spelling in zip(files, spellings, strict=True)]


def _merge_layers(
    files: Sequence[Layers], weights: Sequence[float], rank: int
) -> dict[str, Tensor]:
    """The tensors of the sum, formed one layer at a time."""
    stored: dict[str, Stored] = {}
    for name in dict.fromkeys(name for file in files for name in file):
        pairs = zip(files, weights, strict=True)
        made = _merged(name, [(file, weight) for file, weight in pairs if name in file], rank)
        stored |= {key: store(tensor) for key, tensor in made.items()}
        del made
    return restored(stored)


def _merged(name: str, weighted: Sequence[tuple[Layers, float]], rank: int) -> dict[str, Tensor]:
    weights = [weight for _, weight in weighted]
    parts = [file.factors(name) for file, _ in weighted]
    most = min(parts[0].up.shape[0], parts[0].down[:1].numel())
    total = sum(part.down.shape[0] for part in parts)
    if not rank and total <= most and all(part.mid is None for part in parts):
        return joined(name, parts, weights)
    whole = merge([file[name] for file, _ in weighted], weights)
    return layer_tensors(name, _cut(whole, rank))


def _cut(layer: LowRank, rank: int) -> LowRank:
    """At most `rank` directions, or 0 for as many as a layer of this size can have."""
    if rank:
        return trim(decompose(layer), rank).low_rank()
    most = min(layer.up.shape[0], layer.down.shape[1])
    return compact(layer) if layer.rank > most else layer


def _union(bundles: Sequence[Bundle], clash: NameClash) -> Bundle:
    embeddings: dict[str, Vectors] = {}
    outputs: dict[str, Vectors] = {}
    entries: dict[str, Entry] = {}
    notes: list[str] = []
    for bundle in bundles:
        for name in bundle.names:
            final = _final_name(name, entries, clash, notes)
            if final is None:
                continue
            entries[final] = replace(bundle.entry_of[name], name=final)
            if name in bundle.embeddings:
                embeddings[final] = bundle.embeddings[name]
            if name in bundle.outputs:
                outputs[final] = bundle.outputs[name]
    return replace(
        bundles[0],
        family=next((bundle.family for bundle in bundles if bundle.family), ""),
        embeddings=embeddings,
        outputs=outputs,
        entries=tuple(entries.values()),
        notes=tuple([*(note for bundle in bundles for note in bundle.notes), *notes]),
    )


def _final_name(
    name: str, taken: Mapping[str, Entry], clash: NameClash, notes: list[str]
) -> str | None:
    """What a name becomes under the rule for clashes; None if it is left out."""
    if name not in taken:
        return name
    if clash is NameClash.ERROR:
        raise ValueError(
            f'Two of the bundles hold the name "{short(name)}": rename one of them first.'
        )
    if clash is NameClash.KEEP:
        notes.append(f'The later "{short(name)}" is left out.')
        return None
    number = next(n for n in range(2, len(taken) + 3) if f"{name}_{n}" not in taken)
    notes.append(f'The later "{short(name)}" is called "{short(name)}_{number}".')
    return f"{name}_{number}"
