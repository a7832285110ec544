"""Conditioning of captions: with a graph while their concepts train, constant afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from ..ports import Caption, Conditioning, TextEncoder
from .concepts import mentioned


class StepConditions:
    """The conditioning of one step, with a single backward pass through the encoders at its end.

    Until then the micro steps see leaves that accumulate gradients, so however many there are,
    each caption goes through the encoders once forward and once backward.
    """

    def __init__(self, kept: Mapping[Caption, Conditioning], fresh: Mapping[Caption, Conditioning]):
        self._kept, self._fresh = kept, fresh
        self._leaves = {caption: one.leaves() for caption, one in fresh.items()}

    def of(self, captions: Sequence[Caption]) -> list[Conditioning]:
        """The conditioning of each caption."""
        return [self._leaves[c] if c in self._leaves else self._kept[c] for c in captions]

    def backward(self) -> None:
        """Send the accumulated gradients through the encoders to what is trained."""
        pairs = [
            (tensor, grad)
            for caption, one in self._fresh.items()
            for name, tensor in one.tensors.items()
            if (grad := self._leaves[caption].tensors[name].grad) is not None
        ]
        if pairs:
            tensors, grads = zip(*pairs, strict=True)
            torch.autograd.backward(tensors, grads)


class Conditions:
    """Encodes captions and stores the results that can no longer change."""

    def __init__(self, text: TextEncoder, live: Iterable[str], *, adapted: bool = False):
        self._text = text
        self._live = set(live)
        self._adapted = adapted
        self._kept: dict[Caption, Conditioning] = {}
        self._base: dict[Caption, Conditioning] = {}
        self.complete = False

    def of_step(self, captions: Iterable[Caption]) -> StepConditions:
        """The captions of a step, each distinct one once, those that still change in one batch."""
        distinct = [c for c in dict.fromkeys(captions) if c not in self._kept]
        moving = [c for c in distinct if self._adapted or mentioned(c) & self._live]
        self._keep([c for c in distinct if not self._adapted and not mentioned(c) & self._live])
        fresh = dict(zip(moving, self._text.encode(moving), strict=True)) if moving else {}
        return StepConditions(self._kept, fresh)

    def of_base(self, captions: Sequence[Caption], adapted: StepConditions) -> list[Conditioning]:
        """Captions encoded without the encoders' adapters, if there are any."""
        if not self._adapted:
            return adapted.of(captions)
        for caption in captions:
            if caption not in self._base:
                with torch.no_grad():
                    (encoded,) = self._text.encode([caption], adapted=False)
                self._base[caption] = encoded.detach()
        return [self._base[caption] for caption in captions]

    def _keep(self, captions: Sequence[Caption]) -> None:
        # One at a time: in a batch the last bits depend on the company, and a run that
        # continues has other captions left to encode than one that was never stopped.
        for caption in captions:
            with torch.no_grad():
                (encoded,) = self._text.encode([caption])
            self._kept[caption] = encoded.detach()

    def freeze(self, concept: str) -> None:
        """A concept no longer trains: captions without another live concept are constant now."""
        self._live.discard(concept)

    def complete_with(self, captions: Iterable[Caption]) -> None:
        """Encode every caption that the run may still need, then release the encoders."""
        self._keep([c for c in dict.fromkeys(captions) if c not in self._kept])
        self._text.release()
        self.complete = True
