"""A training run in the host: borrow, train, show progress, keep checkpoints, give back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import comfy.model_management as management
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from torch import Tensor
from tqdm.auto import tqdm

from ...bundles.manifest import Bundle
from ...bundles.reading import load_bundle
from ...training.loop import Parts, StepReport, train
from ...training.plot import loss_plot
from ...training.state import RunState
from .events import send_event
from .families import check_clip, check_vae, family_of
from .latents import HostLatentCodec
from .live import LiveRun, going_live
from .models import HostDenoiser
from .parts import make_bundle, make_parts
from .request import Request
from .run_folder import RunFolder, find_run_folder, model_digest, read_lines
from .text import HostTextEncoder

SECONDS_BETWEEN_REPORTS = 0.5


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
    """Check the request, train it and return its bundle; the models come back as they were.

    A run that was stopped goes on from its checkpoint; one that is finished is read again.
    """
    request = request.checked()
    check_clip(model, clip)
    check_vae(model, vae)
    with gradients():
        folder = find_run_folder(request.run_name, identity(request, model, clip, vae))
        if folder.bundle.exists():
            return _read(folder)
        with going_live(LiveRun(folder.path.name, request.node, request.config.steps)) as live:
            return _train(model, clip, vae, request, folder, live)


def _train(
    model: ModelPatcher, clip: CLIP, vae: VAE, request: Request, folder: RunFolder, live: LiveRun
) -> Trained:
    """Train from the folder's checkpoint, if any, to the end, and leave the result there."""
    text = HostTextEncoder(clip)
    denoiser = HostDenoiser(model, checkpointing=request.checkpointing, companions=text.companions)
    parts = make_parts(request, denoiser, text, HostLatentCodec(vae))
    started, state = time.monotonic(), folder.load()
    folder.create()
    losses = _consume(parts, request, folder, state, live)
    bundle = make_bundle(request, parts, family_of(model), model_digest(model))
    seconds, begun = time.monotonic() - started, state.step if state else 0
    report = _report(request, parts, losses, seconds, begun, folder.path)
    folder.finish(bundle, report, loss_plot(losses))
    return Trained(bundle=bundle, losses=losses, report=report, folder=folder.path)


def identity(request: Request, model: ModelPatcher, clip: CLIP, vae: VAE) -> dict[str, Any]:
    """What makes a run the same run: the recipe and the weights it is trained on."""
    patchers = {"model": model, "clip": clip.patcher, "vae": vae.patcher}
    digests = {name: model_digest(patcher) for name, patcher in patchers.items()}
    return {"recipe": request.recipe(), "models": digests}


def _read(folder: RunFolder) -> Trained:
    """A finished run as it left its folder."""
    state = folder.load()
    losses = list(state.losses) if state else []
    report = f"This run was finished before.\n{folder.report.read_text(encoding='utf-8').strip()}"
    return Trained(
        bundle=load_bundle(folder.bundle), losses=losses, report=report, folder=folder.path
    )


def _consume(
    parts: Parts, request: Request, folder: RunFolder, start: RunState | None, live: LiveRun
) -> list[float]:
    """Drive the loop to its end; however it ends, the last whole step is kept.

    An interruption leaves through the loop, which gives the models back.
    """
    config = request.config
    bar = comfy.utils.ProgressBar(config.steps)
    begun = start.step if start else 0
    keeper = _Keeper(folder, request.checkpoint_every, start)
    with (
        tqdm(total=config.steps, initial=begun, desc=folder.path.name, unit="step") as terminal,
        open(folder.journal, "a", encoding="utf-8") as journal,
        keeper,
        closing(train(parts, config, start)) as steps,
    ):
        reporter = _Reporter(journal, live)
        for report in steps:
            keeper.take(report)
            terminal.update()
            reporter.tell(report)
            bar.update_absolute(report.step + 1)
            management.throw_exception_if_processing_interrupted()
    return keeper.losses()


class _Keeper:
    """Keeps the losses, and the run's state every so many steps and when the run ends or breaks."""

    def __init__(self, folder: RunFolder, every: int, start: RunState | None):
        self._folder, self._every = folder, every
        self._before = list(start.losses) if start else []
        self._losses: list[Tensor] = []
        self._last: StepReport | None = None

    def __enter__(self) -> _Keeper:
        return self

    def __exit__(self, *_: object) -> None:
        if self._last is not None:
            self._save(self._last)

    def take(self, report: StepReport) -> None:
        self._losses.append(report.loss)
        self._last = report
        if self._every and (report.step + 1) % self._every == 0:
            self._save(report)

    def losses(self) -> list[float]:
        """Of all steps so far; waits for the device to have computed them."""
        return self._before + (torch.stack(self._losses).tolist() if self._losses else [])

    def _save(self, report: StepReport) -> None:
        self._folder.save(replace(report.state(), losses=tuple(self.losses())))
        self._last = None


class _Reporter:
    """Writes a line about the run now and then; every step would make the GPU wait for it."""

    def __init__(self, journal: TextIO, live: LiveRun):
        self._journal, self._live = journal, live
        self._written = len(read_lines(Path(journal.name)))
        self._started = self._last = time.monotonic()

    def tell(self, report: StepReport) -> None:
        now, done = time.monotonic(), report.step + 1
        if done not in (1, self._live.steps) and now - self._last < SECONDS_BETWEEN_REPORTS:
            return
        self._last = now
        line = {"step": done, "steps": self._live.steps, "loss": report.loss.item()}
        line["seconds"] = round(now - self._started, 3)
        self._journal.write(json.dumps(line) + "\n")
        self._journal.flush()
        self._live.latest = line
        place = {"run": self._live.name, "node": self._live.node, "index": self._written}
        send_event("report", {**place, "report": line})
        self._written += 1


def _report(
    request: Request, parts: Parts, losses: list[float], seconds: float, begun: int, folder: Path
) -> str:
    """What was trained, on what and for how long, as text."""
    done = max(len(losses) - begun, 1)
    tail = losses[-max(1, len(losses) // 10) :]
    factors = sum(p.numel() for a in parts.adapters.values() for p in a.parameters())
    lines = [
        f"{len(losses)} steps on {len(request.dataset.records)} pictures"
        + (f", {done} of the steps now," if begun else "")
        + f" in {seconds:.1f} s ({seconds / done:.3f} s a step)",
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
