"""Toy parts that fulfil the engine's Protocols: a few numbers each, open to the tests."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pack.training.adapters import TEXT, Adapter, build_adapters, build_chosen, choose_layers
from pack.training.adapters.adapted import Adapters
from pack.training.adapters.lora import LoraConfig
from pack.training.config import TrainConfig
from pack.training.data import TrainingData
from pack.training.dataset.batches import Batches
from pack.training.dataset.pictures.buckets import cover, nearest_bucket
from pack.training.loop import train
from pack.training.parts import Parts
from pack.training.ports import Caption, Conditioning, Crop, Layer, Mention, Noised
from pack.training.randomness import generator
from pack.training.trained import Trained
from pack.training.words.concepts import Concept, parse_caption, with_negatives
from pack.training.words.vectors import Rows, Vectors, initial_vectors

QUERY, VALUE, FEED = "block.attn1.to_q", "block.attn2.to_v", "block.ff"
CAPTIONS = ("a TOK", "the TOK in snow", "a hill", "red TOK")
MIX = "clip_l.layers.0.self_attn.v_proj"
NONE: Mapping[str, nn.Module] = {}
NO_ROWS: Mapping[str, Mapping[str, Tensor]] = {}
LORA = LoraConfig(rank=2, alpha=3.0)


class ToyText:
    """Two encoders that average the rows of a caption's words, and a record of what was asked."""

    def __init__(self) -> None:
        draw = generator("toy text")
        widths = {"clip_l": 3, "clip_g": 5}
        self.tables = {key: torch.randn(32, width, generator=draw) for key, width in widths.items()}
        self.vectors: Mapping[str, Mapping[str, Tensor]] = {}
        self.encoded: list[Caption] = []
        self.recorded: list[bool] = []
        self.adapters: Mapping[str, nn.Module] = NONE
        self.released, self.attached = 0, 0

    def norms(self) -> dict[str, float]:
        return {key: table.norm(dim=-1).median().item() for key, table in self.tables.items()}

    def rows(self, phrase: str) -> dict[str, Tensor]:
        ids = [zlib.crc32(word.encode()) % 32 for word in phrase.split()]
        return {key: table[torch.tensor(ids).long()] for key, table in self.tables.items()}

    def output_rows(self, phrase: str) -> dict[str, Tensor]:
        return {key: rows.tanh() for key, rows in self.rows(phrase).items()}

    @contextmanager
    def attach(
        self,
        vectors: Mapping[str, Mapping[str, Tensor]],
        adapters: Mapping[str, nn.Module] = NONE,
        outputs: Mapping[str, Mapping[str, Tensor]] = NO_ROWS,
    ) -> Iterator[None]:
        self.vectors, self.adapters, self.attached = vectors, adapters, self.attached + 1
        try:
            yield
        finally:
            self.attached -= 1

    def layers(self) -> list[Layer]:
        return [Layer(name=MIX, shape=(8, 8))]

    def encode(self, captions: Sequence[Caption], *, adapted: bool = True) -> list[Conditioning]:
        assert self.attached and not self.released, "encode after release"
        self.encoded += captions
        self.recorded += [torch.is_grad_enabled()] * len(captions)
        mix = self.adapters.get(MIX) if adapted else None
        pooled = [self.pooled(caption) for caption in captions]
        return [
            Conditioning({"cond": mix.around(lambda x: x, one) if mix else one}) for one in pooled
        ]

    def pooled(self, caption: Caption) -> Tensor:
        """(1, 8): the tanh of each encoder's mean row, side by side, a zero row among them."""
        means: list[Tensor] = []
        for key, table in self.tables.items():
            spelled = [
                self.vectors[part.concept][key]
                if isinstance(part, Mention)
                else self.rows(part)[key]
                for part in caption
            ]
            means.append(torch.cat([torch.zeros(1, table.shape[1]), *spelled]).mean(dim=0))
        return torch.cat(means)[None].tanh()

    def spelled(self, part: str | Mention) -> Mapping[str, Tensor]:
        return self.vectors[part.concept] if isinstance(part, Mention) else self.rows(part)

    def release(self) -> None:
        self.released += 1


@dataclass(frozen=True)
class Prediction:
    """One call of the toy denoiser."""

    noised: Noised
    conditions: list[Tensor]
    crops: Sequence[Crop]
    output: Tensor
    adapted: bool
    with_gradient: bool


class ToyDenoiser:
    """Three matrices that guess the noise in latents of (4, 2, 2); sigma runs from 0.1 to 10."""

    def __init__(self, *, is_flow: bool = False) -> None:
        draw = generator("toy denoiser")
        shapes = {QUERY: (4, 4), VALUE: (4, 8), FEED: (4, 4)}
        self.weights = {n: torch.randn(*shape, generator=draw) for n, shape in shapes.items()}
        self.adapters: Mapping[str, nn.Module] = {}
        self.predictions: list[Prediction] = []
        self.is_flow, self.attached, self.saves_memory = is_flow, 0, False

    def save_memory(self) -> bool:
        before, self.saves_memory = self.saves_memory, True
        return not before

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, torch.OutOfMemoryError)

    def layers(self) -> list[Layer]:
        return [Layer(name=name, shape=tuple(w.shape)) for name, w in self.weights.items()]

    @contextmanager
    def attach(self, adapters: Mapping[str, nn.Module]) -> Iterator[None]:
        self.adapters, self.attached = adapters, self.attached + 1
        try:
            yield
        finally:
            self.attached -= 1

    def noised(self, latents: Tensor, noise: Tensor, positions: Tensor) -> Noised:
        sigma = (0.1 * 100**positions).float()
        noisy = latents + sigma[:, None, None, None] * noise
        return Noised(noisy=noisy, sigma=sigma, target=noise, snr=sigma**-2, gain=-sigma)

    def predict(
        self,
        noised: Noised,
        conditions: Sequence[Conditioning],
        crops: Sequence[Crop],
        *,
        adapted: bool = True,
    ) -> Tensor:
        assert self.attached and len(conditions) == len(crops) == len(noised.noisy)
        each = [c.tensors["cond"] for c in conditions]
        output = torch.stack(
            [self.guess(x, cond, adapted) for x, cond in zip(noised.noisy, each, strict=True)]
        )
        call = Prediction(noised, each, crops, output, adapted, torch.is_grad_enabled())
        self.predictions.append(call)
        return output

    def guess(self, x: Tensor, cond: Tensor, adapted: bool) -> Tensor:
        """(channels, height, width) and (1, 8) -> (channels, height, width)."""
        hidden = self.layer(QUERY, x.movedim(0, -1), adapted) + self.layer(VALUE, cond, adapted)
        return self.layer(FEED, hidden.tanh(), adapted).movedim(-1, 0)

    def layer(self, name: str, x: Tensor, adapted: bool) -> Tensor:
        def base(y: Tensor) -> Tensor:
            return y @ self.weights[name].T

        acts = adapted and name in self.adapters
        return self.adapters[name].around(base, x) if acts else base(x)


def crop_at(left: int) -> Crop:
    return Crop(width=16, height=16, left=left, top=0, original_width=32, original_height=16)


def nearest_crop(width: int, height: int, sizes: Sequence[tuple[int, int]]) -> Crop:
    """The centered crop of a picture in the bucket of the nearest aspect ratio."""
    return cover(width, height, nearest_bucket(width, height, sizes))


def toy_data(
    captions: Sequence[str],
    concepts: Sequence[Concept] = (),
    *,
    batch_size: int = 2,
    seed: int = 0,
    key: str = "toy",
) -> TrainingData:
    """One random latent a caption, all in one bucket; another key gives other pictures."""
    count = len(captions)
    return TrainingData(
        latents=[torch.randn(4, 2, 2, generator=generator(key, i)) for i in range(count)],
        captions=[parse_caption(caption, concepts) for caption in captions],
        crops=[crop_at(i) for i in range(count)],
        batches=Batches(["square"] * count, [1] * count, batch_size, seed),
    )


def toy_parts(
    *concepts: Concept,
    captions: Sequence[str] = CAPTIONS,
    lora: LoraConfig | None = LORA,
    prior: TrainingData | None = None,
    batch_size: int = 2,
    seed: int = 0,
    is_flow: bool = False,
) -> Parts:
    """Everything a run needs, the same at every call."""
    text, denoiser = ToyText(), ToyDenoiser(is_flow=is_flow)
    return Parts(
        denoiser=denoiser,
        text=text,
        data=toy_data(captions, concepts, batch_size=batch_size, seed=seed),
        concepts=concepts,
        trained=toy_trained(concepts, lora, denoiser, text, seed),
        prior_data=prior,
    )


def toy_trained(
    concepts: Sequence[Concept],
    lora: LoraConfig | None,
    denoiser: ToyDenoiser,
    text: ToyText,
    seed: int,
) -> list[Trained]:
    """The vectors of the concepts, and the adapters of a LoRA."""
    things: list[Trained] = [Vectors(initial_vectors(with_negatives(concepts), text, seed), text)]
    if lora:
        layers = build_adapters(lora, denoiser.layers(), seed)
        texts = text_adapters(lora, text, seed) if lora.text_encoder else {}
        things.append(Adapters(lora, layers, texts))
    return things


def vectors_of(parts: Parts) -> Rows:
    """The trained rows of each concept."""
    return next(thing.rows for thing in parts.trained if isinstance(thing, Vectors))


def adapters_of(parts: Parts) -> Mapping[str, Adapter]:
    """The adapters of the toy denoiser's layers."""
    return next((one.layers for one in parts.trained if isinstance(one, Adapters)), {})


def text_adapter_of(parts: Parts) -> Adapter:
    """The one adapter of the toy text encoders."""
    (adapter,) = next(
        one.text_layers.values() for one in parts.trained if isinstance(one, Adapters)
    )
    return adapter


def text_adapters(lora: LoraConfig, text: ToyText, seed: int) -> Mapping[str, Adapter]:
    """Adapters of the toy encoders."""
    return build_chosen(lora, choose_layers(lora, [], text.layers())[TEXT], seed, TEXT)


def losses(parts: Parts, config: TrainConfig) -> list[float]:
    """Run to the end and give the loss of every step."""
    return [report.loss.item() for report in train(parts, config)]


def trained(parts: Parts) -> dict[str, Tensor]:
    """A copy of every number that a run may change, by a readable name."""
    vectors = {
        f"{name}.{key}": rows
        for name, part in vectors_of(parts).items()
        for key, rows in part.items()
    }
    factors = {
        f"{name}.{key}": factor
        for name, adapter in adapters_of(parts).items()
        for key, factor in adapter.named_parameters()
    }
    return {name: value.detach().clone() for name, value in (vectors | factors).items()}


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """Whether two copies agree bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def of_concept(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The part of a copy that belongs to one concept."""
    return {key: value for key, value in state.items() if key.startswith(f"{name}.clip")}
