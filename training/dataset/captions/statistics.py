"""Statistics of captions; a phrase in nearly all of them is absorbed by the concept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from ..records import Record
from .placeholders import placeholder_pattern
from .refusals import opens_like_boilerplate
from .tags import looks_like_tags, same_tag, split_tags

FUSED = 0.8
LONGEST = 4
FUNCTION_WORDS = """a an the of in on at to and or with is are by for from it its as this that there
be was his her their into over under up down he she they"""
NEVER_AT_AN_END = frozenset(FUNCTION_WORDS.split())


@dataclass(frozen=True, slots=True)
class Phrase:
    """A tag or run of words, with the number and share of captions that contain it."""

    text: str
    captions: int
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """How often captions contain phrases and placeholders."""

    captions: int
    phrases: tuple[Phrase, ...]
    """The most frequent first, without parts of a longer phrase that is as frequent."""
    lone: int
    """Number of phrases that are in one caption only."""
    coverage: tuple[tuple[str, int], ...]
    """Each placeholder with the number of captions that contain it."""
    words: tuple[int, ...]
    """Number of words in each caption."""
    boilerplate: int

    @property
    def fused(self) -> tuple[Phrase, ...]:
        """Phrases in at least 80 % of the captions, which the concept absorbs."""
        return tuple(p for p in self.phrases if p.share >= FUSED and p.captions > 1)


def caption_statistics(records: Sequence[Record], placeholders: Sequence[str] = ()) -> Statistics:
    """Document frequencies of tags, or of runs of one to four words, without placeholders."""
    captions = [record.caption for record in records if record.caption.strip()]
    pattern = placeholder_pattern(placeholders)
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(set(phrases_of(pattern.sub(" , ", caption))))
    shown = [Phrase(t, n, n / len(captions)) for t, n in _maximal(counts) if n > 1]
    return Statistics(
        captions=len(captions),
        phrases=tuple(sorted(shown, key=lambda p: (-p.captions, p.text))),
        lone=sum(count == 1 for count in counts.values()),
        coverage=tuple(
            (word, sum(bool(placeholder_pattern([word]).search(c)) for c in captions))
            for word in placeholders
        ),
        words=tuple(len(record.caption.split()) for record in records),
        boilerplate=sum(opens_like_boilerplate(caption) for caption in captions),
    )


def phrases_of(caption: str) -> Iterator[str]:
    """Tags of a tag list, else runs of words in a clause without function words at their ends."""
    if looks_like_tags(caption):
        yield from (same_tag(tag) for tag in split_tags(caption))
        return
    for clause in re.split(r"[,.;:!?()\n]+", caption.casefold()):
        words = re.findall(r"[\w'-]+", clause)
        for size in range(1, LONGEST + 1):
            for start in range(len(words) - size + 1):
                run = words[start : start + size]
                if run[0] not in NEVER_AT_AN_END and run[-1] not in NEVER_AT_AN_END:
                    yield " ".join(run)


def _maximal(counts: Counter[str]) -> Iterator[tuple[str, int]]:
    """Leave out "red" if every "red" is part of "red hat"."""
    parts: dict[str, int] = {}
    for text, count in counts.items():
        words = text.split()
        for size in range(1, len(words)):
            for start in range(len(words) - size + 1):
                part = " ".join(words[start : start + size])
                parts[part] = max(parts.get(part, 0), count)
    yield from ((t, n) for t, n in counts.items() if parts.get(t, 0) < n)


def statistics_report(statistics: Statistics, rows: int = 40) -> str:
    """The statistics as text: coverage, absorbed phrases, a table of the most frequent ones."""
    lines = [f"{statistics.captions} of {len(statistics.words)} images have a caption"]
    lines += [f'"{word}" is in {count} captions' for word, count in statistics.coverage]
    if statistics.words:
        middle = sorted(statistics.words)[len(statistics.words) // 2]
        shortest, longest = min(statistics.words), max(statistics.words)
        lines.append(f"words: {shortest} to {longest}, median {middle}")
    if statistics.boilerplate:
        lines.append(f'{statistics.boilerplate} start like "This image shows"')
    lines.append(f"{statistics.lone} phrases are in one caption only")
    for phrase in statistics.fused:
        lines.append(
            f'fused: "{phrase.text}" is in {phrase.share:.0%}: the concept absorbs it. Remove it '
            "with Edit Captions if it belongs to the concept; otherwise vary it."
        )
    lines += ["", f"{'captions':>8}  {'share':>6}  phrase"]
    lines += [f"{p.captions:>8}  {p.share:>6.0%}  {p.text}" for p in statistics.phrases[:rows]]
    return "\n".join(lines)


def length_plot(words: Sequence[int], window: int = 75) -> Image.Image:
    """A histogram of caption lengths in words, 640 x 240."""
    picture = Image.new("RGB", (640, 240), "white")
    draw = ImageDraw.Draw(picture)
    width = max(1, -(-(max(words, default=0) + 1) // 30))
    counts = Counter(count // width for count in words)
    bins, most = max(counts, default=0) + 1, max(counts.values(), default=1)
    step = 600 / bins
    for index, count in counts.items():
        left = 20 + index * step
        top = 210 - 180 * count / most
        color = (220, 120, 60) if index * width > window else (70, 130, 200)
        draw.rectangle((left, top, left + max(step - 2, 1), 210), fill=color)
        draw.text((left, top - 12), str(count), fill="black")
    draw.text((20, 216), f"words in a caption, {width} per bar, 0 to {bins * width}", fill="black")
    return picture
