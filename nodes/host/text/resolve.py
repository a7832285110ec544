"""A bundle's names bound to one CLIP: renames, strengths, triggers and clashes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePath

from comfy.sd import CLIP
from torch import Tensor

from ....bundles.bundle import Bundle, Entry, check_name, short
from ....bundles.encoders import check_finite
from ....training.words.vectors import spread_rows
from .port import HostTextEncoder
from .tokenizer import NamedVectors, encoder_tokenizers, named, overlaid_names, with_names


class StrengthMode(str, Enum):
    """How a name's strength s changes its vectors v: s v, or start + s (v - start)."""

    SCALE = "scale the vectors"
    FROM_INITIAL = "move from the initial word"


class Clash(str, Enum):
    """What happens to a name that the CLIP already knows from another bundle."""

    ERROR = "stop with an error"
    PREFIX = "add the prefix"
    REPLACE = "replace the earlier one"
    KEEP = "keep the earlier one"


@dataclass(frozen=True, kw_only=True, slots=True)
class NameSetting:
    """One line of Load Bundle's names: "old = new : strength", or "-old" to leave the name out."""

    new_name: str = ""
    strength: float = 1.0
    on: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class NameRules:
    """How all names of a bundle are bound to a CLIP."""

    settings: Mapping[str, NameSetting] = field(default_factory=dict[str, NameSetting])
    strength_mode: StrengthMode = StrengthMode.SCALE
    bare_triggers: bool = False
    clash: Clash = Clash.ERROR
    prefix: str = ""
    fallback: str = ""


def parse_names(text: str) -> dict[str, NameSetting]:
    """Settings by name from lines `old = new : strength`, parts optional; `-old` is off."""
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


def chosen_names(bundle: Bundle, settings: Mapping[str, NameSetting]) -> dict[str, str]:
    """New names by old names of all that are on; ValueError for one that is unknown or taken."""
    unknown = [name for name in settings if name not in bundle.names]
    if unknown:
        raise bundle.unknown_name(unknown[0])
    chosen: dict[str, str] = {}
    for name in bundle.names:
        setting = settings.get(name, NameSetting())
        if not setting.on:
            continue
        new = setting.new_name or name
        if new != name:
            check_name(new)
        if new in chosen.values():
            raise ValueError(
                f'Two names of the bundle become "{short(new)}": give them different names.'
            )
        chosen[name] = new
    return chosen


def bind_names(
    clip: CLIP, bundle: Bundle, rules: NameRules, origin: str
) -> tuple[CLIP, list[str], list[str]]:
    """(a clone of the CLIP that knows the names, the names, notes).

    Raises ValueError for vectors of another model family, for NaN, and for a name that is taken.
    """
    chosen = chosen_names(bundle, rules.settings)
    if not chosen:
        return clip.clone(), [], []
    known, notes = overlaid_names(clip), list[str]()
    taken = {word: entry.name for entry in known.values() for word in entry.bare}
    entries: list[NamedVectors] = []
    for old, new in chosen.items():
        final = _resolve_clash(new, known, rules, origin, notes)
        if final is None:
            continue
        bare = _bare_words(bundle.entry_of[old], final, taken, notes) if rules.bare_triggers else ()
        taken |= dict.fromkeys(bare, final)
        entry = _bound(clip, bundle, old, final, rules, origin, bare)
        notes += _gaps(clip, entry)
        entries.append(entry)
    clone = with_names(clip, entries, replace=rules.clash is Clash.REPLACE)
    return clone, [entry.name for entry in entries], notes


def _resolve_clash(
    name: str, known: Mapping[str, NamedVectors], rules: NameRules, origin: str, notes: list[str]
) -> str | None:
    """The final name under the rule for clashes; None if the earlier name is kept."""
    if name not in known:
        return name
    other = known[name].origin or "another bundle"
    if rules.clash is Clash.KEEP:
        notes.append(f'"{short(name)}" is already loaded from {other}: this one is left out.')
        return None
    if rules.clash is Clash.PREFIX:
        final = f"{rules.prefix or PurePath(origin).stem + '_'}{name}"
        notes.append(f'"{short(name)}" of {other} stays; this one becomes "{short(final)}".')
        return final
    if rules.clash is Clash.REPLACE:
        notes.append(f'"{short(name)}" replaces the one of {other}.')
    return name


def _bare_words(
    entry: Entry, name: str, taken: Mapping[str, str], notes: list[str]
) -> tuple[str, ...]:
    """Words that stand for the name without `embedding:`: itself and its placeholder."""
    words = dict.fromkeys(filter(None, (name, entry.placeholder)))
    lost = [word for word in words if taken.get(word, name) != name]
    notes += [f'"{word}" alone stands for "{taken[word]}", not for "{name}".' for word in lost]
    return tuple(word for word in words if word not in lost)


def _bound(
    clip: CLIP,
    bundle: Bundle,
    old: str,
    new: str,
    rules: NameRules,
    origin: str,
    bare: tuple[str, ...],
) -> NamedVectors:
    vectors = dict(bundle.embeddings.get(old, {}))
    outputs = dict(bundle.outputs.get(old, {}))
    for rows in (*vectors.values(), *outputs.values()):
        check_finite(old, rows)
    _check_encoders(clip, new, {*vectors, *outputs})
    entry = bundle.entry_of[old]
    strength = rules.settings.get(old, NameSetting()).strength
    return named(
        new,
        _strengthened(clip, vectors, entry, strength, rules.strength_mode),
        origin,
        bare=bare,
        fallback=rules.fallback or entry.initial,
        outputs={key: rows * strength for key, rows in outputs.items()},
    )


def _strengthened(
    clip: CLIP, vectors: Mapping[str, Tensor], entry: Entry, strength: float, mode: StrengthMode
) -> dict[str, Tensor]:
    if strength == 1 or mode is StrengthMode.SCALE:
        return {key: rows * strength for key, rows in vectors.items()}
    if not entry.initial:
        raise ValueError(
            f'The bundle does not name the initial word of "{short(entry.name)}", so there is '
            f'nothing to move from: set the strength mode to "{StrengthMode.SCALE.value}".'
        )
    start = HostTextEncoder(clip).rows(entry.initial)
    bases = {key: spread_rows(start[key], len(rows)) for key, rows in vectors.items()}
    return {key: bases[key] + strength * (rows - bases[key]) for key, rows in vectors.items()}


def _check_encoders(clip: CLIP, name: str, keys: set[str]) -> None:
    encoders = encoder_tokenizers(clip)
    if not keys <= encoders.keys():
        raise ValueError(
            f'"{short(name)}" has vectors for {", ".join(sorted(keys))} and this CLIP has '
            f"{', '.join(encoders)}: the bundle belongs to another model family."
        )


def _gaps(clip: CLIP, entry: NamedVectors) -> list[str]:
    missing = [
        key for key in encoder_tokenizers(clip) if key not in {*entry.vectors, *entry.outputs}
    ]
    reads = f', which reads "{entry.fallback}" instead' if entry.fallback else ""
    return [f"{short(entry.name)} has no vectors for {key}{reads}." for key in missing]
