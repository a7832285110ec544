"""The problems to look for in a dataset before a run spends an hour on it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median

from ...ports import Crop
from ..captions.placeholders import placeholder_pattern
from ..captions.refusals import is_unfinished, opens_like_boilerplate, refuses
from ..pictures.crops import MUCH_KEPT, enlargement, kept_share
from ..records import Record, listed
from .measure import Measures, distance
from .variety import Variety

# Holes that other programs fill while training. {a|b} is a choice for Vary Captions.
HOLE = re.compile(r"\{[^{}|]*\}|\[(?:trigger|name|filewords)\]", re.IGNORECASE)
# Thai to Khmer, Chinese, Japanese and Korean.
SEPARATE = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff"
    r"\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f"
    r"\U00020000-\U0003ffff]"
)


class Level(str, Enum):
    """The severity of a finding."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem and the pictures that have it."""

    flag: str
    level: Level
    text: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """A dataset with everything that the checks need."""

    records: Sequence[Record]
    measures: Sequence[Measures]
    crops: Sequence[Crop]
    placeholders: Sequence[str] = ()
    count_tokens: Callable[[str], int] | None = None
    window: int = 75
    clusters: Sequence[Sequence[int]] = ()
    """Indices of pictures that are nearly the same."""
    compared: Sequence[int] = ()
    """Indices of the pictures that `variety` compares."""
    variety: Variety | None = None

    def names(self, test: Callable[[Record, Measures, Crop], bool]) -> tuple[str, ...]:
        """Names of the pictures for which a test holds."""
        rows = zip(self.records, self.measures, self.crops, strict=True)
        return tuple(r.name for r, m, c in rows if test(r, m, c))


def all_findings(material: Material) -> list[Finding]:
    """All findings, errors first."""
    every = (
        *(picture_findings, twin_findings, alike_findings),
        *(face_findings, caption_findings, count_findings),
    )
    findings = [finding for check in every for finding in check(material)]
    order = list(Level)
    return sorted(findings, key=lambda finding: order.index(finding.level))


def picture_findings(m: Material) -> Iterator[Finding]:
    """Size, crop, sharpness, light, borders, transparency, masks."""
    small = m.names(lambda r, s, c: enlargement(c) > 1 / 0.7)
    yield from _warn("small", "much smaller than their bucket: use larger images", small)
    rather = m.names(lambda r, s, c: 1 < enlargement(c) <= 1 / 0.7)
    yield from _warn("smallish", "enlarged a little to fill their bucket", rather)
    cropped = m.names(lambda r, s, c: kept_share(c) < MUCH_KEPT)
    yield from _warn("crop", "cropped by more than a quarter: see Prepare Images", cropped)
    yield from _blurred(m, {*small, *rather})
    dark = m.names(lambda r, s, c: 0 < s.light < 0.08)
    yield from _note("dark", "very dark", dark)
    yield from _note("bright", "very bright", m.names(lambda r, s, c: s.light > 0.95))
    flat = m.names(lambda r, s, c: s.contrast < 0.01 and bool(s.likeness))
    yield from _warn("flat", "of a single color", flat)
    border = m.names(lambda r, s, c: s.border > 0.05 and s.contrast >= 0.01)
    yield from _note("border", "with a border of one color", border)
    clear = m.names(lambda r, s, c: s.opaque < 0.2)
    yield from _warn("transparent", "mostly transparent", clear)
    for name, text in {"animated": "animated: only the first frame is used"}.items():
        yield from _note(name, text, tuple(r.name for r in m.records if name in r.traits))
    black = m.names(lambda r, s, c: s.mask is not None and 0 <= s.mask < 0.002)
    yield from _warn("black_mask", "with a mask that is black all over", black)
    broken = m.names(lambda r, s, c: s.mask is not None and s.mask < 0)
    yield from _error("broken_mask", "with a mask that cannot be read", broken)
    yield from _watermarks(m)


def _blurred(m: Material, excused: set[str]) -> Iterator[Finding]:
    """Blur relative to the set, which may be soft on purpose, except in small pictures."""
    usual = median([s.sharpness for s in m.measures] or [0.0])
    blurred = m.names(
        lambda r, s, c: (
            s.sharpness < 0.15 * usual
            and s.sharpness < 80
            and s.contrast >= 0.01
            and r.name not in excused
        )
    )
    yield from _warn("blur", "much less sharp than the others", blurred)


def _watermarks(m: Material) -> Iterator[Finding]:
    """Corners that are the same in many pictures that otherwise differ."""
    marked = set[str]()
    for corner in range(4):
        rows = [
            (record.name, measure.corners[corner], measure.likeness)
            for record, measure in zip(m.records, m.measures, strict=True)
            if len(measure.corners) > corner and measure.corners[corner]
        ]
        needed = max(3, len(m.records) // 10)
        common = [text for text, n in Counter(row[1] for row in rows).items() if n >= needed]
        for text in common:
            same = [row for row in rows if distance(row[1], text) <= 4]
            apart = any(distance(a[2], b[2]) > 40 for a, b in zip(same, same[1:], strict=False))
            marked |= {row[0] for row in same} if apart else set()
    yield from _note(
        "watermark", "with the same corner, perhaps a watermark", tuple(sorted(marked))
    )


def twin_findings(m: Material) -> Iterator[Finding]:
    """Exact copies, and clusters of pictures that are nearly the same."""
    by_content: dict[str, list[int]] = defaultdict(list)
    for index, measure in enumerate(m.measures):
        if measure.content:
            by_content[measure.content].append(index)
    extra = set[int]()
    for group in by_content.values():
        if len(group) > 1:
            # Of the same file, a copy that somebody has captioned.
            group = sorted(group, key=lambda i: not m.records[i].caption.strip())
            extra |= set(group[1:])
            names = [m.records[i].name for i in group]
            text = f"{listed(names, between=' = ')}: the same file; {names[0]} is kept"
            yield Finding("copy", Level.WARNING, text, tuple(names[1:]))
    for group in m.clusters:
        others = [i for i in group if i not in extra]
        if len(others) > 1:
            best, why = _best(m, others)
            names = [m.records[i].name for i in (best, *(i for i in group if i != best))]
            text = f"{listed(names)}: nearly the same image; {names[0]} is {why}"
            yield Finding("near_copy", Level.WARNING, text, tuple(names[1:]))


def _best(m: Material, group: Sequence[int]) -> tuple[int, str]:
    """The one of nearly the same pictures to keep, and why.

    The largest; of these one that is as sharp as any, in proportion to its contrast, so that a
    brighter copy is not taken for a sharper one; of these the one whose light is unchanged.
    """
    area = {i: m.records[i].width * m.records[i].height for i in group}
    edges = {i: m.measures[i].sharpness / max(m.measures[i].contrast, 1e-6) ** 2 for i in group}
    large = [i for i in group if area[i] == max(area.values())]
    sharp = [i for i in large if edges[i] >= 0.7 * max(edges[i] for i in large)]
    tones = {i: m.measures[i].tones for i in sharp}
    are_known = all(value > 0 for value in tones.values())
    unchanged = [i for i in sharp if not are_known or tones[i] >= max(tones.values()) - 0.05]
    left = sorted(unchanged, key=lambda i: (not m.records[i].caption.strip(), -edges[i]))
    stages = {
        "the largest": large,
        "the sharpest": sharp,
        "the one with unchanged light": unchanged,
    }
    reason = next((why for why, some in stages.items() if len(some) == 1), "as good as any")
    return left[0], reason


def alike_findings(m: Material) -> Iterator[Finding]:
    """Pictures of the same moment, which are not copies but teach little more than one of them."""
    close = m.variety.close if m.variety else ()
    names = tuple(m.records[m.compared[i]].name for i in close)
    yield from _note("alike", "much like another one, perhaps of the same moment or pose", names)


def face_findings(m: Material) -> Iterator[Finding]:
    """With boxes of a detector: several subjects, or one that is very small or cut off."""
    several = tuple(r.name for r in m.records if len(r.boxes or ()) > 1)
    yield from _warn(
        "faces", "with more than one face or subject: crop, or mask the others", several
    )
    far = tuple(
        r.name
        for r in m.records
        if r.boxes and max(b.width * b.height for b in r.boxes) < 0.05 * r.width * r.height
    )
    yield from _warn("far", "with the subject on less than 5 % of the area", far)
    cut = m.names(lambda r, s, c: bool(r.boxes) and _kept_of_subject(r, c) < 0.5)
    yield from _warn(
        "cut", "whose subject the crop cuts off: choose face box in Prepare Images", cut
    )
    none = tuple(r.name for r in m.records if r.boxes is not None and not r.boxes)
    yield from _note("no_face", "without any face or subject found", none)


def _kept_of_subject(record: Record, crop: Crop) -> float:
    """The share of the largest box's area that the crop keeps."""
    box = max(record.boxes or (), key=lambda b: b.width * b.height)
    width, height = crop.resized
    across = _shared(box.left, box.width, crop.left, crop.width, width / record.width)
    down = _shared(box.top, box.height, crop.top, crop.height, height / record.height)
    return across * down


def _shared(start: int, length: int, crop: int, size: int, scale: float) -> float:
    """The share of an interval of the picture that an interval of its resized version covers."""
    first, last = max(start * scale, crop), min((start + length) * scale, crop + size)
    return max(last - first, 0) / (length * scale)


def caption_findings(m: Material) -> Iterator[Finding]:
    """Captions that are missing, too long, unfinished, repeated, refusals or boilerplate."""
    missing = tuple(r.name for r in m.records if not r.caption.strip())
    kind = _error if m.placeholders else _warn
    yield from kind(
        "no_caption", "without a caption: run Caption Dataset or Label Dataset", missing
    )
    if m.placeholders:
        yield from _placeholders(m)
    count = m.count_tokens or rough_tokens
    long = tuple(r.name for r in m.records if count(r.caption) > m.window)
    about = "" if m.count_tokens else "about "
    yield from _warn(
        "long_caption",
        f"with a caption of more than {about}{m.window} tokens: "
        "ComfyUI encodes it in pieces, other programs cut it off",
        long,
    )
    holes = tuple(r.name for r in m.records if HOLE.search(r.caption))
    yield from _warn("hole", "whose caption has a hole such as {name} or [trigger]: fill it", holes)
    refused = tuple(r.name for r in m.records if refuses(r.caption))
    yield from _error("refusal", "whose caption is a refusal or an error text", refused)
    opened = tuple(r.name for r in m.records if opens_like_boilerplate(r.caption))
    yield from _note("boilerplate", 'whose caption starts like "This image shows"', opened)
    cut = tuple(r.name for r in m.records if is_unfinished(r.caption))
    yield from _note("unfinished", "whose caption ends within a sentence: raise max_tokens", cut)
    counts = Counter(r.caption.strip() for r in m.records if r.caption.strip())
    double = tuple(r.name for r in m.records if counts[r.caption.strip()] > 1)
    yield from _note("same_caption", "that share their caption with another image", double)


def _placeholders(m: Material) -> Iterator[Finding]:
    for placeholder in m.placeholders:
        pattern = placeholder_pattern([placeholder])
        if not any(pattern.search(record.caption) for record in m.records):
            text = f'The placeholder "{placeholder}" is in no caption: see Label Dataset.'
            yield Finding("placeholder", Level.ERROR, text)
    pattern = placeholder_pattern(m.placeholders)
    without = tuple(r.name for r in m.records if r.caption and not pattern.search(r.caption))
    yield from _warn("no_placeholder", "whose caption has no placeholder", without)
    count = m.count_tokens or rough_tokens
    matches = ((r, pattern.search(r.caption)) for r in m.records)
    late = tuple(r.name for r, at in matches if at and count(r.caption[: at.end()]) > m.window)
    yield from _warn(
        "late_placeholder", f"whose placeholder comes after the first {m.window} tokens", late
    )


def count_findings(m: Material) -> Iterator[Finding]:
    """Too few pictures of a concept, or no pictures at all."""
    if not m.records:
        yield Finding("empty", Level.ERROR, "There is no image left to train on.")
    for concept, count in Counter(record.concept for record in m.records).items():
        of = f' of "{concept}"' if concept else ""
        if count < 5:
            text = f"Only {count} images{of}: 10 to 30 different ones teach a subject well."
            yield Finding("few", Level.WARNING, text)


def rough_tokens(text: str) -> int:
    """An estimate of a caption's tokens without an encoder: one per word and per 8 letters.

    Letters of scripts without blanks, and of Korean, count as one token each.
    """
    separate = len(SEPARATE.findall(text))
    words = SEPARATE.sub(" ", text).replace(",", " , ").split()
    return separate + sum(1 + len(word) // 8 for word in words)


def _finding(level: Level, flag: str, text: str, names: tuple[str, ...]) -> Iterator[Finding]:
    if names:
        yield Finding(flag, level, f"{len(names)} {text}", names)


def _warn(flag: str, text: str, names: tuple[str, ...]) -> Iterator[Finding]:
    return _finding(Level.WARNING, flag, text, names)


def _note(flag: str, text: str, names: tuple[str, ...]) -> Iterator[Finding]:
    return _finding(Level.INFO, flag, text, names)


def _error(flag: str, text: str, names: tuple[str, ...]) -> Iterator[Finding]:
    return _finding(Level.ERROR, flag, text, names)
