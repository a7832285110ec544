"""What the engine needs of a host: a denoiser, a text encoder and a latent codec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from .adapters.base import Adapter


@dataclass(frozen=True, slots=True)
class Mention:
    """A place in a caption where the trained rows of a concept stand."""

    concept: str


Caption = tuple[str | Mention, ...]
"""Text and mentions in order; hashable, so that equal captions are encoded once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Convolution:
    """How a convolution moves over its input: a number for each axis, as torch names them."""

    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A frozen Linear or convolution that can be adapted."""

    name: str
    shape: tuple[int, ...]
    """Weight shape: (out, in) or (out, in / groups, *kernel)."""
    weight: Callable[[], Tensor] | None = None
    """Fetches the frozen weight in fp32 on the CPU; None if the host has no such tensor."""
    conv: Convolution | None = None
    """None for a Linear."""
    lend: Callable[[Tensor], AbstractContextManager[tuple[Tensor, Tensor | None]]] | None = None
    """Weight and bias in the dtype and on the device of a tensor, valid within the context."""
    kept: MutableMapping[str, Tensor] | None = None
    """Cache across runs for what is slow to compute from the weight, if there is one."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """A text encoder's result for one caption: named tensors with a batch axis of 1."""

    tensors: Mapping[str, Tensor]

    def detach(self) -> Conditioning:
        """The same values without their graph, to be used in later steps."""
        return Conditioning({name: tensor.detach() for name, tensor in self.tensors.items()})

    def leaves(self) -> Conditioning:
        """The same values as leaves of a new graph, which accumulate the gradients."""
        leaves = {
            name: tensor.detach().requires_grad_(tensor.requires_grad)
            for name, tensor in self.tensors.items()
        }
        return Conditioning(leaves)


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """The part of a resized picture that is trained, in pixels."""

    width: int
    """Size of the crop, which is its bucket."""
    height: int
    left: int
    """Offset of the crop in the resized picture."""
    top: int
    original_width: int
    """Size of the upright picture on disk."""
    original_height: int

    @property
    def resized(self) -> tuple[int, int]:
        """(width, height) of the smallest picture of the same shape that covers the crop."""
        scale = max(self.width / self.original_width, self.height / self.original_height)
        width = round(self.original_width * scale)
        height = round(self.original_height * scale)
        return max(width, self.width), max(height, self.height)


@dataclass(frozen=True, kw_only=True, slots=True)
class Noised:
    """A batch ready for the denoiser, in the host's own parametrization."""

    noisy: Tensor
    """(batch, channels, height, width)"""
    sigma: Tensor
    """(batch,) the host's noise level"""
    target: Tensor
    """like noisy: the output that the network should give"""
    snr: Tensor
    """(batch,) signal power over noise power of `noisy`"""
    gain: Tensor
    """(batch,) d(denoised) / d(output): how far an error of the output shows in the picture"""


class Denoiser(Protocol):
    """A diffusion model that is borrowed for training and given back as it was."""

    @property
    def is_flow(self) -> bool:
        """Whether it is a flow matching model, which has no signal-to-noise schedule."""
        ...

    def layers(self) -> Sequence[Layer]:
        """Every adaptable layer, in the order of the forward pass."""
        ...

    def attach(self, adapters: Mapping[str, Adapter]) -> AbstractContextManager[None]:
        """Call `adapters[name].around` in place of each named layer until the context ends."""
        ...

    def noised(self, latents: Tensor, noise: Tensor, positions: Tensor) -> Noised:
        """Noise raw codec latents at schedule positions in [0, 1), 0 being the cleanest."""
        ...

    def predict(
        self,
        noised: Noised,
        conditions: Sequence[Conditioning],
        crops: Sequence[Crop],
        *,
        adapted: bool = True,
    ) -> Tensor:
        """The network's raw output in fp32, each sample under its own conditioning."""
        ...

    def save_memory(self) -> bool:
        """From now on use less memory and more time; False if nothing more can be saved."""
        ...

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether an error means that the device is out of memory."""
        ...


class TextEncoder(Protocol):
    """Text encoders that are borrowed for training; `encode` is differentiable in the vectors."""

    def norms(self) -> Mapping[str, float]:
        """Median row norm of each encoder's token table, by encoder key such as "clip_l"."""
        ...

    def rows(self, phrase: str) -> Mapping[str, Tensor]:
        """The token table's rows of a phrase, (tokens, width) for each encoder key."""
        ...

    def output_rows(self, phrase: str) -> Mapping[str, Tensor]:
        """What the encoders return for the words of a phrase, (tokens, width) by encoder key.

        In fp32 on the CPU. ValueError where it is not known which rows of the result those are.
        """
        ...

    def attach(
        self,
        vectors: Mapping[str, Mapping[str, Tensor]],
        adapters: Mapping[str, Adapter] = ...,
        outputs: Mapping[str, Mapping[str, Tensor]] = ...,
    ) -> AbstractContextManager[None]:
        """Let `Mention(name)` stand for `vectors[name][encoder key]` until the context ends.

        Rows of `outputs` replace what the encoder returns for a mention, in place of being read
        by it; `adapters[name].around` stands for each named layer meanwhile.
        """
        ...

    def encode(self, captions: Sequence[Caption], *, adapted: bool = True) -> list[Conditioning]:
        """Encode captions through the host's own tokenizer and encoders, under autograd."""
        ...

    def release(self) -> None:
        """Let the host unload the encoders: no caption will be encoded any more."""
        ...


class LatentCodec(Protocol):
    """The autoencoder: pictures in, raw latents out."""

    def together(self, width: int, height: int) -> int:
        """How many pictures of a size are encoded at once; constant for a device."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """(batch, height, width, 3) in 0..1 -> (batch, channels, height / 8, width / 8)."""
        ...
