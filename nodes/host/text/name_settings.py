"""What a user says of a bundle's names: other words, strengths, and what happens on a clash."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from ....bundles.bundle import Bundle, check_name


class StrengthMode(str, Enum):
    """What a name's strength s does with its vectors v: s v, or start + s (v - start)."""

    SCALE = "scale the vectors"
    FROM_INITIAL = "move from the initial word"


class Clash(str, Enum):
    """What happens to a name that the CLIP knows already from another bundle."""

    ERROR = "stop with an error"
    PREFIX = "add the prefix"
    REPLACE = "replace the earlier one"
    KEEP = "keep the earlier one"


@dataclass(frozen=True, kw_only=True, slots=True)
class NameSetting:
    """What to do with one name of a bundle: "old = new : strength", or "-old" to leave it out."""

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


def chosen_names(bundle: Bundle, settings: Mapping[str, NameSetting]) -> dict[str, str]:
    """New name by old name of all that are on; ValueError for a name that is unknown or taken."""
    unknown = [name for name in settings if name not in bundle.names]
    if unknown:
        raise ValueError(
            f'The bundle has no name "{unknown[0]}": it has {", ".join(bundle.names) or "none"}.'
        )
    chosen: dict[str, str] = {}
    for name in bundle.names:
        setting = settings.get(name, NameSetting())
        if not setting.on:
            continue
        new = setting.new_name or name
        if new != name:
            check_name(new)
        if new in chosen.values():
            raise ValueError(f'Two names of the bundle become "{new}": give them different names.')
        chosen[name] = new
    return chosen
