"""Conditioning of captions: with a graph while their concepts train, once for all after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from .concepts import mentioned
from .ports import Caption, Conditioning, TextEncoder


class Conditions:
    """Encodes captions, and keeps what can no longer change."""

    def __init__(self, text: TextEncoder, live: Iterable[str]):
        self._text = text
        self._live = set(live)
        self._kept: dict[Caption, Conditioning] = {}
        self.settled = False

    def of(self, captions: Sequence[Caption]) -> list[Conditioning]:
        """One conditioning a caption; equal captions are encoded once and share their graph."""
        distinct = list(dict.fromkeys(c for c in captions if c not in self._kept))
        constant = [c for c in distinct if not mentioned(c) & self._live]
        moving = [c for c in distinct if mentioned(c) & self._live]
        self._keep(constant)
        fresh = dict(zip(moving, self._text.encode(moving), strict=True)) if moving else {}
        return [fresh[c] if c in fresh else self._kept[c] for c in captions]

    def _keep(self, captions: Sequence[Caption]) -> None:
        # One at a time: in a batch the last bits depend on the company, and a run that
        # continues has other captions left to encode than one that was never stopped.
        for caption in captions:
            with torch.no_grad():
                (encoded,) = self._text.encode([caption])
            self._kept[caption] = encoded.detach()

    def freeze(self, concept: str) -> None:
        """A concept no longer trains: captions without another live one are constant now."""
        self._live.discard(concept)

    def settle(self, captions: Iterable[Caption]) -> None:
        """Encode all that the run can still ask for, a last time, and release the encoder."""
        self._keep([c for c in dict.fromkeys(captions) if c not in self._kept])
        self._text.release()
        self.settled = True
