"""Which layers are adapted, and with which rank: a preset, refined by lines of patterns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from ..ports import Layer
from ..search_pattern import SearchPattern


class Targets(str, Enum):
    """Presets: the usual sets of layers, by what they do."""

    ATTENTION = "attention"
    ATTENTION_MLP = "attention and mlp"
    LINEAR = "all linear"
    CONVOLUTIONS = "with convolutions"
    CROSS_KV = "cross-attention keys and values"
    PATTERNS = "patterns only"


# Names of the host's model families. A block of attention, then one of its projections; the
# projections of some families are fused (qkv), those of Flux's single blocks with the MLP too.
_ATTENTION = re.compile(
    r"(^|\.)\w*(attn|[aA]ttention)\w*\.(\w+\.)?"
    r"((to_|add_|w[12])?(q|k|v|qkv|kv|o|out)(_t|_img|_proj|_linear)*|to_add_out|output_proj|proj)"
    r"(\.0)?$|(^|\.)single_blocks\.\d+\.linear[12]$"
)
_MLP = re.compile(r"(^|\.)(ff|ffn|ff_context|feed_forward|\w*mlp|DenseReluDense)\.([\w.]+\.)?\w+$")
# Layers that see no picture and no text, though their names end alike.
_NO_BLOCK = re.compile(r"embed|modulation|adaLN", re.IGNORECASE)
_CROSS_KV = re.compile(
    r"(^|\.)(attn2|\w*cross_attn\w*)\.(to_)?(k|v|kv)(_img|_proj|_linear)?$|(^|\.)add_[kv]_proj$"
)
# The first and last convolution have as few channels as the latents: a low rank is no saving.
_ENDS = re.compile(
    r"(^|\.)(input_blocks\.0\.0|out\.\d|conv_in|conv_out|x_embedder\.proj|\w*patch_embedding\w*)$"
)


def matches(layer: Layer, targets: Targets, *, of_text: bool = False) -> bool:
    """Whether a preset includes the layer; text encoders have no cross-attention."""
    if targets is Targets.PATTERNS:
        return False
    if len(layer.shape) > 2:
        return targets is Targets.CONVOLUTIONS and not _ENDS.search(layer.name)
    if targets in (Targets.LINEAR, Targets.CONVOLUTIONS):
        return True
    if targets is Targets.CROSS_KV and not of_text:
        return _CROSS_KV.search(layer.name) is not None
    attention = _ATTENTION.search(layer.name) is not None
    mlp = _MLP.search(layer.name) is not None and _NO_BLOCK.search(layer.name) is None
    return attention or (mlp and targets is Targets.ATTENTION_MLP)


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line: its layers get this rank and alpha, or are excluded."""

    text: str
    find: SearchPattern
    rank: int | None = None
    alpha: float | None = None
    out: bool = False

    @property
    def gives_size(self) -> bool:
        """Whether it gives a rank, an alpha or both."""
        return (self.rank, self.alpha) != (None, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A layer to adapt and the pattern that chose it; None if the preset did."""

    layer: Layer
    pattern: Pattern | None = None


def parse_patterns(text: str) -> list[Pattern]:
    """Lines `pattern`, `pattern = rank`, `pattern = rank : alpha` or `-pattern`."""
    return [_parse(line) for line in filter(None, map(str.strip, text.splitlines()))]


def _parse(line: str) -> Pattern:
    body, equals, sizes = line.removeprefix("-").rpartition("=")
    find, numbers = (body, sizes) if equals else (line.removeprefix("-"), "")
    rank, _, alpha = (part.strip() for part in numbers.partition(":"))
    try:
        return Pattern(
            text=line,
            find=SearchPattern(find.strip()),
            rank=int(rank) if rank else None,
            alpha=float(alpha) if alpha else None,
            out=line.startswith("-"),
        )
    except (ValueError, re.error) as error:
        raise ValueError(
            f'The line "{line}" of patterns is not understood ({error}): write a regular '
            "expression, then = rank : alpha if you like, such as attn2 = 32 : 16"
        ) from error


def choose(
    layers: Mapping[str, Sequence[Layer]], targets: Targets, text: str
) -> dict[str, list[Choice]]:
    """The layers of each part ("diffusion_model", "text_encoders") that get an adapter.

    Patterns are searched in the name as it is saved, `<part>.<layer>`; the first line that finds
    a layer decides. ValueError when a line finds none, or nothing at all is left.
    """
    patterns = parse_patterns(text)
    used: set[str] = set()
    chosen: dict[str, list[Choice]] = {}
    for part, every in layers.items():
        chosen[part] = []
        for layer in every:
            name = f"{part}.{layer.name}"
            hits = [pattern for pattern in patterns if pattern.find.found_in(name)]
            used |= {hit.text for hit in hits}
            preset = matches(layer, targets, of_text=part == TEXT)
            if hits and not hits[0].out:
                chosen[part].append(Choice(layer=layer, pattern=hits[0]))
            elif not hits and preset:
                chosen[part].append(Choice(layer=layer))
    _check(chosen, layers, [pattern for pattern in patterns if pattern.text not in used])
    return chosen


MODEL, TEXT = "diffusion_model", "text_encoders"
"""Prefixes of saved layer names."""


def _check(
    chosen: Mapping[str, Sequence[Choice]],
    layers: Mapping[str, Sequence[Layer]],
    unused: Sequence[Pattern],
) -> None:
    names = [f"{part}.{layer.name}" for part, every in layers.items() for layer in every]
    example = f" Its layers have names such as {names[len(names) // 2]}." if names else ""
    if unused:
        raise ValueError(
            f'The pattern "{unused[0].text}" matches no layer of this model: correct it or take '
            f"it out.{example}"
        )
    if not any(chosen.values()):
        raise ValueError(
            f"The adapter matches no layer of this model: choose other targets.{example}"
        )
