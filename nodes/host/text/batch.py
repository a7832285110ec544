"""A list of captions through the host's text encoders in one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from comfy.sd import CLIP
from comfy.sd1_clip import SDClipModel
from torch import Tensor

Tokens = dict[str, Any]
EncoderForward = Callable[[list[Any]], Any]
EncoderOutput = tuple[Any, ...]
"""An encoder's result for n chunks: (n, length, width), pooled (n, width) or None, extras."""


class BatchEncoder:
    """Calls every encoder of a CLIP once for a whole list of captions.

    The host's wrapper combines the outputs of the encoders, and it takes one caption at a time. So
    it runs twice for each caption: first with encoders that record their input and return zeros,
    then with encoders that return their part of the batch.
    """

    def __init__(self, clip: CLIP):
        self._clip = clip
        self._encoders = [m for m in clip.cond_stage_model.modules() if isinstance(m, SDClipModel)]
        self._examples: dict[SDClipModel, EncoderOutput] = {}

    def encode(self, captions: Sequence[Tokens]) -> list[dict[str, Any]]:
        """The result of the host's `encode_from_tokens` for each caption."""
        if len(captions) == 1 or not self._examples:
            return [self._single(captions[0]), *(self.encode(captions[1:]) if captions[1:] else [])]
        requests = self._requests(captions)
        answers = {encoder: _answer(encoder, chunks) for encoder, chunks in requests.items()}
        with self._replaced(lambda encoder: _Player(answers[encoder])):
            return [self._wrapped(tokens) for tokens in captions]

    def _wrapped(self, tokens: Tokens) -> dict[str, Any]:
        encoded: Any = self._clip.encode_from_tokens(tokens, return_pooled=True, return_dict=True)
        return encoded

    def _single(self, tokens: Tokens) -> dict[str, Any]:
        """Encode one caption as usual and remember the shapes of what its encoders return."""
        with self._replaced(lambda encoder: _ExampleTaker(encoder, self._examples)):
            return self._wrapped(tokens)

    def _requests(self, captions: Sequence[Tokens]) -> dict[SDClipModel, list[list[Any]]]:
        """The chunks of every call of an encoder that the captions need."""
        requests: dict[SDClipModel, list[list[Any]]] = {e: [] for e in self._encoders}
        with (
            torch.no_grad(),
            self._replaced(lambda encoder: _Recorder(self._examples[encoder], requests[encoder])),
        ):
            for tokens in captions:
                self._wrapped(tokens)
        return requests

    @contextmanager
    def _replaced(
        self, make: Callable[[SDClipModel], Callable[..., EncoderOutput]]
    ) -> Iterator[None]:
        for encoder in self._encoders:
            encoder.forward = make(encoder)
        try:
            yield
        finally:
            for encoder in self._encoders:
                del encoder.forward


class _ExampleTaker:
    """Runs an encoder and keeps an example of what it returns."""

    def __init__(self, encoder: SDClipModel, examples: dict[SDClipModel, EncoderOutput]):
        self._encoder, self._examples = encoder, examples
        self._forward = type(encoder).forward

    def __call__(self, chunks: list[Any]) -> EncoderOutput:
        output = self._forward(self._encoder, chunks)
        self._examples[self._encoder] = _map(output, lambda tensor: tensor.detach()[:1])
        return output


class _Recorder:
    """Records the chunks of each call and returns zeros of the right shape."""

    def __init__(self, example: EncoderOutput, requests: list[list[Any]]):
        self._example, self._requests = example, requests

    def __call__(self, chunks: list[Any]) -> EncoderOutput:
        self._requests.append(chunks)
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
    """Returns the parts of a batch in the order of the recorded calls."""

    def __init__(self, parts: list[EncoderOutput]):
        self._parts = iter(parts)

    def __call__(self, chunks: list[Any]) -> EncoderOutput:
        return next(self._parts)


def _answer(encoder: SDClipModel, requests: list[list[Any]]) -> list[EncoderOutput]:
    """The encoder's output for every request, from one call if all chunks have the same length."""
    chunks = [chunk for request in requests for chunk in request]
    if len({len(chunk) for chunk in chunks}) != 1:
        return [encoder(request) for request in requests]
    whole, parts, start = encoder(chunks), [], 0
    for request in requests:
        part = slice(start, start + len(request))
        parts.append(_map(whole, lambda tensor, part=part: tensor[part]))
        start += len(request)
    return parts


def _map(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nested tuples and dicts with every tensor changed."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, tuple):
        return tuple(_map(part, change) for part in output)
    if isinstance(output, dict):
        return {name: _map(part, change) for name, part in output.items()}
    return output
