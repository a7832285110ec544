"""Several datasets as one, or one as those pictures that are wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from .query import parse_query
from .records import Dataset, Record


def merge(datasets: Sequence[Dataset]) -> Dataset:
    """All pictures in the order of the datasets; places that would be the same get a number."""
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


def split(dataset: Dataset, query: str) -> tuple[Dataset, Dataset]:
    """The pictures that a query picks, and the others; ValueError when the query is wrong."""
    test = parse_query(query)
    kept = [test(record) for record in dataset.records]
    return _picked(dataset, kept, True), _picked(dataset, kept, False)


def _picked(dataset: Dataset, kept: Sequence[bool], wanted: bool) -> Dataset:
    pairs = zip(dataset.records, kept, strict=True)
    records = tuple(record for record, keep in pairs if keep is wanted)
    if wanted:
        return replace(dataset, records=records)
    return replace(dataset, records=records, skipped=(), notes=())


TRAITS = {
    "rotated": "turned upright by their EXIF tag, which ComfyUI's own loader and kohya ignore",
    "alpha": "with transparency",
    "animated": "animated, of which the first frame is used",
    "profile": "with a color profile, converted to sRGB",
    "deep": "with 16 bits, scaled to 8",
    "cmyk": "in CMYK, converted to sRGB",
}


def describe(dataset: Dataset) -> str:
    """What was loaded, in lines: counts, sources of captions, traits, what is odd or left out."""
    records = dataset.records
    sources = Counter(record.caption_source for record in records if record.caption)
    listed = ", ".join(f"{source or 'given'} {n}" for source, n in sources.most_common())
    lines = [
        f"{dataset.name}: {len(records)} pictures, {sum(r.repeats for r in records)} an epoch",
        f"captions: {sum(sources.values())}" + (f" ({listed})" if listed else ""),
    ]
    masks = sum(record.mask is not None for record in records)
    lines += [f"masks: {masks}"] if masks else []
    lines += concepts_of(records)
    traits = Counter(trait for record in records for trait in record.traits)
    lines += [f"{traits[name]} {text}" for name, text in TRAITS.items() if traits[name]]
    return "\n".join([*lines, *dataset.notes, *dataset.skipped])


def concepts_of(records: Sequence[Record]) -> list[str]:
    """A line for each concept that pictures are labelled with."""
    counts = Counter((r.concept, r.class_word) for r in records if r.concept)
    return [
        f'concept "{concept}"' + (f", a {word}" if word else "") + f": {n} pictures"
        for (concept, word), n in counts.items()
    ]
