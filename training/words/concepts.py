"""Concepts: the word in the captions, the name in the bundle, the vectors and the pivot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from ..dataset.captions.placeholders import split_caption
from ..dataset.captions.texts import texts_of
from ..dataset.records import Dataset
from ..ports import Caption, Mention
from ..randomness import generator

LISTED = 5
"""Names of images in a note."""
NEGATIVE = "-neg"
"""Suffix of the name of a concept's negative embedding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Concept:
    """One named thing to learn."""

    placeholder: str
    """The word that stands for the concept in the captions."""
    name: str = ""
    """Name in the bundle, typed after "embedding:" later; empty means the placeholder."""
    vectors: int = 2
    """Number of rows for each text encoder."""
    initial: str = ""
    """Phrase whose token rows the vectors start from; empty means noise of the table's norm."""
    class_word: str = ""
    """Class of the concept, for prior preservation; empty means `initial`."""
    pivot: float = 0.5
    """Share of the steps after which the rows freeze: 0 never trains, 1 never freezes."""
    negative_vectors: int = 0
    """Rows of a second embedding, `<name>-neg`, for the negative prompt; 0 means no second one."""
    output: bool = False
    """Whether the rows replace what the text encoders return, not what they read."""

    def __post_init__(self) -> None:
        if not self.placeholder.strip():
            raise ValueError("A concept has no placeholder: give the word that stands for it.")
        if self.placeholder != self.placeholder.strip():
            raise ValueError(f'The placeholder "{self.placeholder}" has blanks at its ends.')
        if self.vectors < 1:
            raise ValueError(f"vectors of {self.placeholder} is {self.vectors}: use at least 1.")
        if self.negative_vectors < 0:
            raise ValueError(
                f"negative_vectors of {self.placeholder} is {self.negative_vectors}: "
                "use 0 (none) or more."
            )
        if not 0 <= self.pivot <= 1:
            raise ValueError(f"pivot of {self.placeholder} is {self.pivot}: use 0 to 1.")

    @property
    def final_name(self) -> str:
        """The name in the bundle."""
        return self.name or self.placeholder

    @property
    def negative(self) -> Concept | None:
        """The negative embedding as a concept of its own. It starts from the same words, where
        both predictions agree and the guided one equals the plain one."""
        if not self.negative_vectors:
            return None
        return replace(
            self,
            placeholder=f"{self.placeholder}{NEGATIVE}",
            name=f"{self.final_name}{NEGATIVE}",
            vectors=self.negative_vectors,
            negative_vectors=0,
        )

    def pivot_step(self, steps: int) -> int:
        """The first step at which the rows no longer train; a pivot above 0 gives them one step."""
        return max(1, round(self.pivot * steps)) if self.pivot else 0


def pivot_steps(concepts: Sequence[Concept], steps: int) -> dict[str, int]:
    """The step at which each concept freezes, by name, without those that never freeze."""
    return {c.final_name: c.pivot_step(steps) for c in concepts if c.pivot < 1}


def parse_caption(text: str, concepts: Sequence[Concept]) -> Caption:
    """Replace every placeholder in a text by a mention of its concept."""
    names = {concept.placeholder: concept.final_name for concept in concepts}
    parts = split_caption(text, names)
    return tuple(Mention(names[part]) if found else part for found, part in parts)


def with_negatives(concepts: Iterable[Concept]) -> list[Concept]:
    """The concepts, each followed by its negative one, if it has one."""
    return [one for c in concepts for one in (c, c.negative) if one is not None]


def negative_captions(captions: Sequence[Caption], live: Container[str]) -> tuple[Caption, ...]:
    """The caption that each prediction is guided away from; () if no negative embedding trains.

    Dong et al. 2022 (arXiv 2211.11337, DreamArtist): the negative embeddings of the concepts in
    the caption. A sample without any is guided away from its own caption, which is no guidance.
    """
    found = [tuple(n for n in sorted(mentioned(c)) if n + NEGATIVE in live) for c in captions]
    if not any(found):
        return ()
    return tuple(
        _listed(names) if names else caption for names, caption in zip(found, captions, strict=True)
    )


def _listed(names: Sequence[str]) -> Caption:
    parts: list[str | Mention] = []
    for name in names:
        parts += [" "] if parts else []
        parts.append(Mention(name + NEGATIVE))
    return tuple(parts)


def class_caption(caption: Caption, concepts: Sequence[Concept]) -> Caption:
    """The caption with a class word in place of each concept, as the base model knows it."""
    words = {c.final_name: c.class_word or c.initial for c in concepts}
    parts = [words[part.concept] if isinstance(part, Mention) else part for part in caption]
    return ("".join(parts),)


def mentioned(caption: Caption) -> frozenset[str]:
    """Names of the concepts in a caption."""
    return frozenset(part.concept for part in caption if isinstance(part, Mention))


@dataclass(frozen=True, slots=True)
class ParsedDataset:
    """A dataset and every caption that a run may show with each of its pictures."""

    dataset: Dataset
    captions: tuple[tuple[Caption, ...], ...]
    """A row for each record."""

    def mentioned(self) -> list[frozenset[str]]:
        """The concepts that each picture's captions mention."""
        return [frozenset[str]().union(*map(mentioned, row)) for row in self.captions]

    def take(self, places: Collection[int]) -> ParsedDataset:
        """The records at these places alone."""
        rows = [place for place in range(len(self.captions)) if place in places]
        records = tuple(self.dataset.records[place] for place in rows)
        captions = tuple(self.captions[place] for place in rows)
        return ParsedDataset(replace(self.dataset, records=records), captions)


def parse_dataset(dataset: Dataset, concepts: Sequence[Concept], seed: int) -> ParsedDataset:
    """Draw and parse all captions of a run, once: what is checked is what is trained."""
    rows = (texts_of(record, seed) for record in dataset.records)
    captions = tuple(tuple(parse_caption(text, concepts) for text in row) for row in rows)
    return ParsedDataset(dataset, captions)


def unnamed(concepts: Sequence[Concept], parsed: ParsedDataset) -> list[str]:
    """A note on the captions that name none of the concepts, which teach no name anything."""
    rows = zip(parsed.dataset.records, parsed.mentioned(), strict=True)
    names = [record.path.name for record, found in rows if not found]
    if not concepts or not names:
        return []
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    words = ", ".join(concept.placeholder for concept in concepts)
    return [
        f"{len(names)} of {len(parsed.captions)} captions do not contain {words}: "
        f"{', '.join(names[:LISTED])}{rest}"
    ]


def check_concepts(concepts: Sequence[Concept], parsed: ParsedDataset) -> None:
    """Raise ValueError, naming concept or picture, when names clash or captions lack them."""
    for label, values in {
        "placeholder": [concept.placeholder for concept in concepts],
        "name": [concept.final_name for concept in with_negatives(concepts)],
    }.items():
        double = [value for value, count in Counter(values).items() if count > 1]
        if double:
            raise ValueError(f'Two concepts have the {label} "{double[0]}": rename one of them.')
    for record, captions in zip(parsed.dataset.records, parsed.captions, strict=True):
        if concepts and not any(captions):
            raise ValueError(
                f"Caption missing for {record.path.name}: add {record.path.stem}.txt beside it, or "
                "give Load Dataset a default caption with the placeholder."
            )
    shown = frozenset[str]().union(*parsed.mentioned())
    for concept in concepts:
        if concept.final_name not in shown:
            raise ValueError(
                f'The placeholder "{concept.placeholder}" is in no caption of '
                f"{parsed.dataset.name}: write it into the captions, or correct the concept's "
                "placeholder."
            )


def hold_out(parsed: ParsedDataset, count: int, seed: int) -> tuple[ParsedDataset, ParsedDataset]:
    """Some of the pictures, and all others; every concept keeps a picture to train on."""
    names = parsed.mentioned()
    left = Counter(name for of_picture in names for name in of_picture)
    order: list[int] = torch.randperm(len(names), generator=generator(seed, "held out")).tolist()  # pyright: ignore
    chosen = set[int]()
    for place in order:
        if len(chosen) == min(count, len(names) - 1):
            break
        if all(left[name] > 1 for name in names[place]):
            chosen.add(place)
            left.subtract(names[place])
    if not chosen:
        raise ValueError(
            "No image can be held out for validation, since every concept needs one to train "
            "on: add images, or connect a dataset of their own to Validation."
        )
    return parsed.take(chosen), parsed.take(set(range(len(names))) - chosen)


def check_class_words(concepts: Sequence[Concept]) -> None:
    """Raise ValueError if prior preservation has no word for a concept's class."""
    for concept in concepts:
        if not (concept.class_word or concept.initial):
            raise ValueError(
                f'Concept "{concept.placeholder}" has neither class_word nor initial: prior '
                "preservation from the base model needs the word for its class, such as dog."
            )


def with_class_words(concepts: Sequence[Concept], dataset: Dataset) -> tuple[Concept, ...]:
    """Give concepts without a class word the one that their pictures are labeled with."""
    words = {r.concept: r.class_word for r in dataset.records if r.concept and r.class_word}
    return tuple(
        concept
        if concept.class_word
        else replace(concept, class_word=words.get(concept.placeholder, ""))
        for concept in concepts
    )
