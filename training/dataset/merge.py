"""Datasets merged into one, split by a query, and described."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from .query import parse_query
from .records import Dataset, Record


def merge_datasets(datasets: Sequence[Dataset]) -> Dataset:
    """All pictures in the order of the datasets; datasets of the same name are numbered."""
    if not datasets:
        raise ValueError("There is no dataset to merge: connect at least one.")
    if len(datasets) == 1:
        return datasets[0]
    names = [dataset.name for dataset in datasets]
    labels = [
        f"{name} ({names[:i].count(name) + 1})" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]
    pairs = list(zip(labels, datasets, strict=True))
    records = [
        replace(record, key=f"{label}/{record.name}")
        for label, dataset in pairs
        for record in dataset.records
    ]
    return Dataset(
        name=" + ".join(labels),
        records=tuple(records),
        skipped=tuple(text for dataset in datasets for text in dataset.skipped),
        notes=tuple(text for dataset in datasets for text in dataset.notes),
    )


def split_dataset(dataset: Dataset, query: str) -> tuple[Dataset, Dataset]:
    """The pictures that a query selects, and the others; ValueError for a wrong query."""
    test = parse_query(query)
    passes = [test(record) for record in dataset.records]
    pairs = list(zip(dataset.records, passes, strict=True))
    selected = tuple(record for record, passed in pairs if passed)
    others = tuple(record for record, passed in pairs if not passed)
    return replace(dataset, records=selected), replace(
        dataset, records=others, skipped=(), notes=()
    )


TRAITS = {
    "rotated": "rotated by their EXIF tag, which ComfyUI's own loader and kohya ignore",
    "alpha": "with transparency",
    "animated": "animated; the first frame is used",
    "profile": "with a color profile, converted to sRGB",
    "deep": "with 16 bits, scaled to 8",
    "cmyk": "in CMYK, converted to sRGB",
}


def describe(dataset: Dataset) -> str:
    """A report of counts, sources of captions, traits, oddities and files that were left out."""
    records = dataset.records
    sources = Counter(record.caption_source for record in records if record.caption)
    listed = ", ".join(f"{source or 'given'} {n}" for source, n in sources.most_common())
    lines = [
        f"{dataset.name}: {len(records)} images, {sum(r.repeats for r in records)} an epoch",
        f"captions: {sum(sources.values())}" + (f" ({listed})" if listed else ""),
    ]
    masks = sum(record.mask is not None for record in records)
    lines += [f"masks: {masks}"] if masks else []
    lines += concepts_of(records)
    traits = Counter(trait for record in records for trait in record.traits)
    lines += [f"{traits[name]} {text}" for name, text in TRAITS.items() if traits[name]]
    return "\n".join([*lines, *dataset.notes, *dataset.skipped])


def concepts_of(records: Sequence[Record]) -> list[str]:
    """One line for each concept that labels pictures."""
    counts = Counter((r.concept, r.class_word) for r in records if r.concept)
    return [
        f'concept "{concept}"' + (f", a {word}" if word else "") + f": {n} images"
        for (concept, word), n in counts.items()
    ]
