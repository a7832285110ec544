"""Conditioning of captions: with a graph while their concepts train, once for all after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from .concepts import mentioned
from .ports import Caption, Conditioning, TextEncoder

AT_ONCE = 16
"""Constant captions that are encoded together: a run may have thousands."""


class Conditions:
    """Encodes captions, and keeps what can no longer change."""

    def __init__(self, text: TextEncoder, live: Iterable[str]):
        self._text = text
        self._live = set(live)
        self._kept: dict[Caption, Conditioning] = {}

    def of(self, captions: Sequence[Caption]) -> list[Conditioning]:
        """One conditioning a caption; equal captions are encoded once and share their graph."""
        distinct = list(dict.fromkeys(c for c in captions if c not in self._kept))
        constant = [c for c in distinct if not mentioned(c) & self._live]
        moving = [c for c in distinct if mentioned(c) & self._live]
        self._keep(constant)
        fresh = dict(zip(moving, self._text.encode(moving), strict=True)) if moving else {}
        return [fresh[c] if c in fresh else self._kept[c] for c in captions]

    def _keep(self, captions: Sequence[Caption]) -> None:
        for start in range(0, len(captions), AT_ONCE):
            part = captions[start : start + AT_ONCE]
            with torch.no_grad():
                encoded = self._text.encode(part)
            self._kept.update((c, e.detach()) for c, e in zip(part, encoded, strict=True))

    def freeze(self, concept: str, captions: Iterable[Caption]) -> None:
        """A concept no longer trains; after the last one every caption is encoded a last time.

        `captions` are all that the run can still ask for; the encoder is released with them.
        """
        self._live.discard(concept)
        if not self._live:
            self.settle(captions)

    def settle(self, captions: Iterable[Caption]) -> None:
        """Encode all captions of a run without trainable vectors and release the encoder."""
        self._keep([c for c in dict.fromkeys(captions) if c not in self._kept])
        self._text.release()
