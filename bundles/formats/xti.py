"""Extended textual inversion of kohya (`train_textual_inversion_XTI`): a vector for each block."""

from __future__ import annotations

import re

from . import Content, Format, Source

_BLOCK = re.compile(r"(?:IN|OUT)\d\d|MID")


def _recognizes(source: Source) -> bool:
    return bool(source.tensors) and all(_BLOCK.fullmatch(key) for key in source.tensors)


def _read(source: Source) -> Content:
    raise ValueError(
        "it is an extended textual inversion (XTI), with different vectors for each block of the "
        "UNet, which no CLIP can take: train an ordinary embedding."
    )


FORMAT = Format(title="an extended textual inversion (XTI)", recognizes=_recognizes, read=_read)
