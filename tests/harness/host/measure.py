"""What tests of borrowed models measure: gradients, what backward keeps, and what is in memory."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.host.runner import Loaded
from pack.nodes.host.denoiser.port import HostDenoiser
from pack.nodes.host.run.drive import gradients
from pack.nodes.host.text.port import HostTextEncoder
from pack.training.adapters import build_adapters
from pack.training.adapters.lora import LoraConfig
from pack.training.adapters.targets import Targets
from pack.training.ports import Caption, Crop, Mention, Noised
from pack.training.words.concepts import Concept
from pack.training.words.vectors import Rows, initial_vectors

TOK = Mention("TOK")
CONCEPT = Concept(placeholder="TOK", initial="dog", vectors=2)
SHORT: Caption = ("a photo of ", TOK, " in a garden")
LONG: Caption = ("a photo of ", TOK, " with " + "many red and green things " * 18)
"""More than one chunk of 75 tokens."""
WEIGHTED: Caption = ("a (", TOK, ":1.3) in a garden")


def draw(*key: int) -> torch.Generator:
    """A generator of its own for every use in a test."""
    return torch.Generator().manual_seed(sum(1009**n * k for n, k in enumerate(key, start=1)))


@dataclass(frozen=True, kw_only=True)
class Ports:
    """A text encoder and a denoiser in use, with what trains in them."""

    text: HostTextEncoder
    denoiser: HostDenoiser
    vectors: Rows
    adapters: dict[str, nn.Module]

    def parameters(self) -> list[nn.Parameter]:
        """All that trains: rows first, then the factors."""
        rows = [one for parts in self.vectors.values() for one in parts.values()]
        return rows + [one for a in self.adapters.values() for one in a.parameters()]

    def predict(self, batch: Batch, *, weights: bool = False) -> Tensor:
        """The network's raw output for a batch, through tokenizer, encoder and UNet."""
        conditions = self.text.encode(batch.captions, weights=weights)
        return self.denoiser.predict(batch.noised(self.denoiser), conditions, batch.crops)

    def gradients(self, batch: Batch, **options: bool) -> list[Tensor]:
        """The gradient of `probe` in everything that trains, zero where it does not reach."""
        return self.gradients_of(probe(self.predict(batch, **options)))

    def gradients_of(self, value: Tensor) -> list[Tensor]:
        """By backward, because recomputed blocks add to `.grad` and are no graph's leaves."""
        for parameter in self.parameters():
            parameter.grad = None
        value.backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters()]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures of one bucket with their noise, captions and crops."""

    latents: Tensor
    noise: Tensor
    positions: Tensor
    captions: tuple[Caption, ...]
    crops: tuple[Crop, ...]

    def noised(self, denoiser: HostDenoiser) -> Noised:
        return denoiser.noised(self.latents, self.noise, self.positions)

    def single(self, place: int) -> Batch:
        """One picture of the batch alone."""
        one = slice(place, place + 1)
        return Batch(
            latents=self.latents[one],
            noise=self.noise[one],
            positions=self.positions[one],
            captions=self.captions[one],
            crops=self.crops[one],
        )


def make_batch(captions: Sequence[Caption], *, height: int = 64, width: int = 64) -> Batch:
    """Random raw latents of a picture size, with another crop for each."""
    count = len(captions)
    shape = (count, 4, height // 8, width // 8)
    return Batch(
        latents=5 * torch.randn(shape, generator=draw(1, height)),
        noise=torch.randn(shape, generator=draw(2, width)),
        positions=torch.linspace(0.2, 0.8, count, dtype=torch.float64),
        captions=tuple(captions),
        crops=tuple(
            Crop(
                width=width,
                height=height,
                left=8 * n,
                top=3 * n,
                original_width=width + 100 * n,
                original_height=height + 10 * n,
            )
            for n in range(count)
        ),
    )


@contextmanager
def borrowed(
    loaded: Loaded,
    *,
    model: object = None,
    rank: int = 0,
    checkpointing: bool = False,
    targets: Targets = Targets.ATTENTION,
) -> Iterator[Ports]:
    """The host's models in training hands, with one concept and a LoRA whose `up` is not zero."""
    with gradients():
        text = HostTextEncoder(loaded.clip)
        denoiser = HostDenoiser(
            model or loaded.model, checkpointing=checkpointing, companions=text.companions
        )
        vectors = initial_vectors([CONCEPT], text, seed=0)
        config = LoraConfig(rank=rank or 1, alpha=rank or 1, targets=targets)
        adapters = build_adapters(config, denoiser.layers(), 0) if rank else {}
        for adapter in adapters.values():
            nn.init.normal_(adapter.up, std=0.02, generator=draw(3))
        with text.attach(vectors), denoiser.attach(adapters):
            yield Ports(text=text, denoiser=denoiser, vectors=vectors, adapters=adapters)


@contextmanager
def varied(*modules: nn.Module) -> Iterator[None]:
    """Scales and biases, ones and zeros in the tiny checkpoints, are random in the meantime."""
    flat = [
        one for one in weights_of(*modules).values() if one.ndim == 1 and one.is_floating_point()
    ]
    before = [weight.clone() for weight in flat]
    with torch.inference_mode():
        for number, weight in enumerate(flat):
            noise = 0.3 * torch.randn(weight.shape, generator=draw(9, number))
            weight.copy_(weight.float() + noise)
    try:
        yield
    finally:
        with torch.inference_mode():
            for weight, values in zip(flat, before, strict=True):
                weight.copy_(values)


def probe(output: Tensor) -> Tensor:
    """A random linear function of a network's output, in fp64."""
    weights = torch.randn(output.shape, generator=draw(4), dtype=torch.float64)
    return (output.double() * weights).sum()


@torch.no_grad()
def slope(
    function: Callable[[], Tensor],
    parameters: Sequence[nn.Parameter],
    directions: Sequence[Tensor],
    step: float,
) -> float:
    """The central difference of a function along a direction of its parameters."""
    start = [parameter.clone() for parameter in parameters]
    values = []
    for sign in (1, -1):
        for parameter, at, direction in zip(parameters, start, directions, strict=True):
            parameter.copy_(at + sign * step * direction)
        values.append(function().item())
    for parameter, at in zip(parameters, start, strict=True):
        parameter.copy_(at)
    return (values[0] - values[1]) / (2 * step)


def disagreement(
    function: Callable[[], Tensor],
    parameters: Sequence[nn.Parameter],
    grads: Sequence[Tensor],
    *,
    step: float,
    tries: int = 2,
) -> float:
    """The worst difference to finite differences along random directions, in gradient norms.

    Along a Gaussian direction the slope of a function is about as large as its gradient.
    `step` is a share of the parameters' own root mean square.
    """
    numbers = sum(p.numel() for p in parameters)
    scale = step * (sum(p.square().sum().item() for p in parameters) / numbers) ** 0.5
    norm = sum(grad.square().sum().item() for grad in grads) ** 0.5
    worst = 0.0
    for number in range(tries):
        seeds = draw(5, number)
        directions = [torch.randn(p.shape, generator=seeds) for p in parameters]
        wanted = slope(function, parameters, directions, scale)
        found = sum(torch.sum(g * d).item() for g, d in zip(grads, directions, strict=True))
        worst = max(worst, abs(found - wanted) / norm)
    return worst


def relative(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The norm of the difference of two lists of tensors over the norm of the second."""
    pairs = list(zip(found, wanted, strict=True))
    difference = sum((a.double() - b.double()).square().sum().item() for a, b in pairs)
    return (difference / sum(b.double().square().sum().item() for _, b in pairs)) ** 0.5


@contextmanager
def kept_for_backward() -> Iterator[list[Tensor]]:
    """The tensors that autograd saves in the meantime."""
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind some tensors, each counted once."""
    return sum({address(one): one.untyped_storage().nbytes() for one in tensors}.values())


def left_behind(*roots: nn.Module) -> list[str]:
    """Modules whose forward is not that of their class.

    The host's own bypass LoRA leaves that very method on the instance, which is the same.
    """
    named = (pair for root in roots for pair in root.named_modules())
    return [
        name
        for name, module in named
        if getattr(module.forward, "__func__", None) is not type(module).forward
    ]


def address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def weights_of(*modules: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer of some modules."""
    return {
        f"{number}.{name}": tensor
        for number, module in enumerate(modules)
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }


def weights_among(tensors: Iterable[Tensor], weights: dict[str, Tensor]) -> set[str]:
    """Names of the weights that some tensors share memory with or hold a cast copy of."""
    names = {address(weight): name for name, weight in weights.items()}
    by_size: dict[int, list[str]] = {}
    for name, weight in weights.items():
        by_size.setdefault(weight.numel(), []).append(name)
    known: dict[str, Tensor] = {}
    found: set[str] = set()
    for tensor in tensors:
        if address(tensor) in names:
            found.add(names[address(tensor)])
            continue
        for name in by_size.get(tensor.numel(), []):
            if name not in known:
                known[name] = signature(weights[name])
            if torch.allclose(signature(tensor), known[name], rtol=1e-9, atol=0):
                found.add(name)
    return found


def signature(tensor: Tensor) -> Tensor:
    """Two sums that a copy shares in every dtype that holds the values, transposed or not."""
    values = tensor.detach().float()
    return torch.stack([values.sum(dtype=torch.float64), values.norm(dtype=torch.float64)])


def live_tensors() -> list[Tensor]:
    """Every tensor that Python knows of."""
    gc.collect()
    # Asking only for the type keeps the host's lazy modules asleep.
    return [one for one in gc.get_objects() if issubclass(type(one), Tensor)]


def digest(*modules: nn.Module) -> dict[str, str]:
    """A hash of every weight's bytes."""
    return {
        name: hashlib.sha1(raw_bytes(tensor), usedforsecurity=False).hexdigest()
        for name, tensor in weights_of(*modules).items()
    }


def raw_bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else memoryview(b"")
