"""A training run in the host: borrow, train, show progress, write the run folder, give back."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import comfy.model_management as management
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ...bundles.manifest import Bundle, Entry, check_name
from ...training.adapters import AdapterConfig, build_adapters, export_adapters
from ...training.concepts import Concept, check_class_words, check_concepts, parse_caption
from ...training.data import TrainingData
from ...training.dataset.buckets import bucket_sizes, choose_crop
from ...training.dataset.latents import encode_latents
from ...training.dataset.order import Batches
from ...training.dataset.records import Dataset
from ...training.embeddings import initial_vectors
from ...training.loop import Parts, StepReport, TrainConfig, train
from ...training.objective import Prior
from ...training.plot import loss_plot
from .families import check_clip, check_vae, family_of
from .folders import checked_run_name, new_run_folder
from .latents import HostLatentCodec
from .models import HostDenoiser
from .text import HostTextEncoder

LOG = logging.getLogger(__name__)
SECONDS_BETWEEN_REPORTS = 0.5


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a graph asks to be trained."""

    dataset: Dataset
    config: TrainConfig
    concepts: tuple[Concept, ...] = ()
    adapter: AdapterConfig | None = None
    class_dataset: Dataset | None = None
    resolution: int = 512
    checkpointing: bool = True
    run_name: str = "concept"

    def checked(self) -> Request:
        """The request ready to run; ValueError, before any work, for what cannot be trained."""
        if self.adapter is None and not self.concepts:
            raise ValueError(
                "Nothing to train: connect concepts, an adapter such as LoRA, or both."
            )
        checked_run_name(self.run_name)
        for concept in self.concepts:
            check_name(concept.final_name)
        check_concepts(self.concepts, self.dataset)
        bucket_sizes(self.resolution)
        if self.config.objective.prior is Prior.PICTURES and self.class_dataset is None:
            raise ValueError(
                "The objective asks for class pictures: connect them to class_dataset, or choose "
                'the prior "base model".'
            )
        if self.config.objective.prior is Prior.BASE:
            check_class_words(self.concepts)
        return replace(self, concepts=self._lasting_concepts())

    def _lasting_concepts(self) -> tuple[Concept, ...]:
        """Without an adapter nothing can take over at the pivot, so vectors train to the end."""
        if self.adapter is not None:
            return self.concepts
        if all(concept.pivot == 0 for concept in self.concepts):
            raise ValueError(
                "Every concept has pivot 0 and there is no adapter: nothing would train."
            )
        return tuple(replace(c, pivot=1.0 if c.pivot else 0.0) for c in self.concepts)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run gives back."""

    bundle: Bundle
    losses: list[float]
    report: str
    folder: Path


@contextmanager
def gradients() -> Iterator[None]:
    """Leave the executor's inference mode once, for everything that is recorded."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def run_training(model: ModelPatcher, clip: CLIP, vae: VAE, request: Request) -> Trained:
    """Check the request, train it and return its bundle; the models come back as they were."""
    request = request.checked()
    check_clip(model, clip)
    check_vae(model, vae)
    with gradients():
        text = HostTextEncoder(clip)
        denoiser = HostDenoiser(
            model, checkpointing=request.checkpointing, companions=text.companions
        )
        parts = _make_parts(request, denoiser, text, HostLatentCodec(vae))
        folder = new_run_folder(request.run_name)
        started = time.monotonic()
        losses = _consume(parts, request.config, folder)
        bundle = _make_bundle(request, parts, family_of(model))
    report = _report(request, parts, losses, time.monotonic() - started, folder)
    _write_summary(folder, losses, report)
    return Trained(bundle=bundle, losses=losses, report=report, folder=folder)


def _make_parts(
    request: Request, denoiser: HostDenoiser, text: HostTextEncoder, codec: HostLatentCodec
) -> Parts:
    seed, prior = request.config.seed, request.class_dataset
    adapters = build_adapters(request.adapter, denoiser.layers(), seed) if request.adapter else {}
    wants_pictures = request.config.objective.prior is Prior.PICTURES
    return Parts(
        denoiser=denoiser,
        text=text,
        concepts=request.concepts,
        vectors=initial_vectors(request.concepts, text, seed),
        adapters=adapters,
        data=_make_data(request, request.dataset, codec, seed),
        prior_data=_make_data(request, prior, codec, seed + 1)
        if prior and wants_pictures
        else None,
    )


def _make_data(
    request: Request, dataset: Dataset, codec: HostLatentCodec, seed: int
) -> TrainingData:
    sizes = bucket_sizes(request.resolution)
    crops = [choose_crop(record.width, record.height, sizes) for record in dataset.records]
    latents: dict[int, Tensor] = {}
    with torch.no_grad():
        for index, latent in encode_latents(dataset, crops, codec, request.config.batch_size):
            management.throw_exception_if_processing_interrupted()
            latents[index] = latent
    return TrainingData(
        latents=[latents[index] for index in range(len(crops))],
        captions=[parse_caption(record.caption, request.concepts) for record in dataset.records],
        crops=crops,
        batches=Batches(
            [(crop.width, crop.height) for crop in crops],
            [record.repeats for record in dataset.records],
            request.config.batch_size,
            seed,
        ),
    )


def _consume(parts: Parts, config: TrainConfig, folder: Path) -> list[float]:
    """Drive the loop to its end; an interruption leaves through it, which gives the models back."""
    losses: list[Tensor] = []
    bar = comfy.utils.ProgressBar(config.steps)
    with (
        closing(train(parts, config)) as steps,
        tqdm(total=config.steps, desc=folder.name, unit="step") as terminal,
        open(folder / "report.jsonl", "w", encoding="utf-8") as journal,
    ):
        reporter = _Reporter(journal, config.steps)
        for report in steps:
            losses.append(report.loss)
            terminal.update()
            reporter.tell(report)
            bar.update_absolute(report.step + 1)
            management.throw_exception_if_processing_interrupted()
    # The one place where the run waits for all losses to be on the CPU.
    return torch.stack(losses).tolist()


class _Reporter:
    """Writes a line about the run now and then; every step would make the GPU wait for it."""

    def __init__(self, journal: object, steps: int):
        self._journal, self._steps = journal, steps
        self._started = self._last = time.monotonic()

    def tell(self, report: StepReport) -> None:
        now, done = time.monotonic(), report.step + 1
        if done not in (1, self._steps) and now - self._last < SECONDS_BETWEEN_REPORTS:
            return
        self._last = now
        line = {"step": done, "steps": self._steps, "loss": report.loss.item()}
        line["seconds"] = round(now - self._started, 3)
        self._journal.write(json.dumps(line) + "\n")
        self._journal.flush()


def _make_bundle(request: Request, parts: Parts, family: str) -> Bundle:
    lora = (
        export_adapters(request.adapter, parts.adapters, "diffusion_model")
        if request.adapter
        else {}
    )
    embeddings = {
        name: {key: rows.detach().to("cpu", copy=True) for key, rows in vectors.items()}
        for name, vectors in parts.vectors.items()
    }
    entries = [
        Entry(name=c.final_name, initial=c.initial, placeholder=c.placeholder)
        for c in request.concepts
    ]
    recipe = {
        "train": asdict(request.config),
        "concepts": [asdict(concept) for concept in request.concepts],
        "adapter": asdict(request.adapter) if request.adapter else None,
        "resolution": request.resolution,
        "dataset": {
            "name": request.dataset.name,
            "pictures": len(request.dataset.records),
            "fingerprint": request.dataset.fingerprint(),
        },
    }
    return Bundle(
        family=family, lora=lora, embeddings=embeddings, entries=tuple(entries), recipe=recipe
    )


def _report(
    request: Request, parts: Parts, losses: list[float], seconds: float, folder: Path
) -> str:
    """What was trained, on what and for how long, as text."""
    tail = losses[-max(1, len(losses) // 10) :]
    factors = sum(p.numel() for a in parts.adapters.values() for p in a.parameters())
    lines = [
        f"{len(losses)} steps on {len(request.dataset.records)} pictures in {seconds:.1f} s "
        f"({seconds / len(losses):.3f} s a step)",
        f"loss {sum(tail) / len(tail):.5f} over the last {len(tail)} steps",
        f"{len(parts.adapters)} layers adapted with {factors} parameters",
    ]
    for concept in request.concepts:
        pivot = concept.pivot_step(request.config.steps)
        lines.append(
            f'"{concept.placeholder}" is embedding:{concept.final_name}, '
            f"{concept.vectors} vectors, trained for {min(pivot, len(losses))} steps"
        )
    lines += [*request.dataset.skipped, f"run folder: {folder}"]
    return "\n".join(lines)


def _write_summary(folder: Path, losses: list[float], report: str) -> None:
    (folder / "report.txt").write_text(report + "\n", encoding="utf-8")
    picture: Image.Image = loss_plot(losses)
    picture.save(folder / "loss.png")
