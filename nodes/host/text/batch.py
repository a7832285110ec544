"""Several captions through the host's text encoders in one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from comfy.sd import CLIP
from comfy.sd1_clip import SDClipModel
from torch import Tensor

Tokens = dict[str, Any]
Output = tuple[Any, ...]
"""What an encoder returns for n chunks: (n, length, width), pooled (n, width) or None, extras"""


class BatchEncoder:
    """Calls every encoder of a CLIP once for a whole list of captions.

    How the encoders' outputs are put together is the business of the host's wrapper, which
    takes one caption. So it is called twice for each: once to see what it asks of the
    encoders, with empty answers, and once to be handed its part of the batch.
    """

    def __init__(self, clip: CLIP):
        self._clip = clip
        self._encoders = [m for m in clip.cond_stage_model.modules() if isinstance(m, SDClipModel)]
        self._examples: dict[SDClipModel, Output] = {}

    def encode(self, captions: Sequence[Tokens]) -> list[dict[str, Any]]:
        """The host's result for each caption, as `encode_from_tokens` gives it for one."""
        if len(captions) == 1 or not self._examples:
            return [self._single(captions[0]), *(self.encode(captions[1:]) if captions[1:] else [])]
        asked = self._ask(captions)
        answers = {encoder: _answer(encoder, chunks) for encoder, chunks in asked.items()}
        with self._replaced(lambda encoder: _Player(answers[encoder])):
            return [self._wrapped(tokens) for tokens in captions]

    def _wrapped(self, tokens: Tokens) -> dict[str, Any]:
        return self._clip.encode_from_tokens(tokens, return_pooled=True, return_dict=True)

    def _single(self, tokens: Tokens) -> dict[str, Any]:
        """One caption the plain way; what its encoders return shows the shape of their answers."""
        with self._replaced(lambda encoder: _Watcher(encoder, self._examples)):
            return self._wrapped(tokens)

    def _ask(self, captions: Sequence[Tokens]) -> dict[SDClipModel, list[list[Any]]]:
        """For each encoder the chunks that every caption needs from it."""
        asked: dict[SDClipModel, list[list[Any]]] = {e: [] for e in self._encoders}
        with (
            torch.no_grad(),
            self._replaced(lambda encoder: _Recorder(self._examples[encoder], asked[encoder])),
        ):
            for tokens in captions:
                self._wrapped(tokens)
        return asked

    @contextmanager
    def _replaced(self, make: Callable[[SDClipModel], Callable[..., Output]]) -> Iterator[None]:
        for encoder in self._encoders:
            encoder.forward = make(encoder)
        try:
            yield
        finally:
            for encoder in self._encoders:
                del encoder.forward


class _Watcher:
    """Lets an encoder work and keeps the shapes of what it returns."""

    def __init__(self, encoder: SDClipModel, examples: dict[SDClipModel, Output]):
        self._encoder, self._examples = encoder, examples
        self._forward = type(encoder).forward

    def __call__(self, chunks: list[Any]) -> Output:
        output = self._forward(self._encoder, chunks)
        self._examples[self._encoder] = _map(output, lambda tensor: tensor.detach()[:1])
        return output


class _Recorder:
    """Notes the chunks that are asked for and answers with zeros of the right shape."""

    def __init__(self, example: Output, asked: list[list[Any]]):
        self._example, self._asked = example, asked

    def __call__(self, chunks: list[Any]) -> Output:
        self._asked.append(chunks)
        count, length = len(chunks), len(chunks[0])

        def zeros(tensor: Tensor) -> Tensor:
            # (n, width) pooled, (n, length) mask and (n, ..., length, width) states
            if tensor.ndim == 2:
                size = tensor.shape[1:] if tensor.is_floating_point() else (length,)
            else:
                size = (*tensor.shape[1:-2], length, tensor.shape[-1])
            return tensor.new_zeros(count, *size)

        return _map(self._example, zeros)


class _Player:
    """Hands out the parts of a batch in the order in which they were asked for."""

    def __init__(self, parts: list[Output]):
        self._parts = iter(parts)

    def __call__(self, chunks: list[Any]) -> Output:
        return next(self._parts)


def _answer(encoder: SDClipModel, asked: list[list[Any]]) -> list[Output]:
    """The encoder's output for every request, from one call when all chunks are equally long."""
    chunks = [chunk for request in asked for chunk in request]
    if len({len(chunk) for chunk in chunks}) != 1:
        return [encoder(request) for request in asked]
    whole, parts, start = encoder(chunks), [], 0
    for request in asked:
        part = slice(start, start + len(request))
        parts.append(_map(whole, lambda tensor, part=part: tensor[part]))
        start += len(request)
    return parts


def _map(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nest of tuples and dicts with every tensor changed."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, tuple):
        return tuple(_map(part, change) for part in output)
    if isinstance(output, dict):
        return {name: _map(part, change) for name, part in output.items()}
    return output
