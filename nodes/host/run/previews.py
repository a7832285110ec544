"""Previews of a run while it trains, sampled by the host with the training clone itself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as management
import torch
from comfy.sd import VAE
from PIL import Image

from ....training.dataset.pictures.pixels import to_picture
from ....training.run import Run
from ....training.words.concepts import Concept, with_negatives
from ..denoiser.port import HostDenoiser
from ..disk import Disk
from ..images import save_picture
from ..sampling import HostConditioning, Sampling, decode, sample
from ..text.port import HostTextEncoder


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewConfig:
    """What to draw, and how often."""

    prompts: tuple[str, ...]
    """With placeholders, or names after "embedding:", where a concept belongs"""
    negative: str
    seeds: tuple[int, ...]
    sampling: Sampling
    every: int
    """Steps between previews"""
    without: bool
    """Whether each prompt is also drawn with each concept's own words in its place"""
    time_share: float
    """The share of the run's time that previews may take; those that would take more are skipped"""

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("The previews have no prompt: write at least one line into it.")
        if self.every < 1:
            raise ValueError(f"every is {self.every}: use at least 1.")


@dataclass(frozen=True, slots=True)
class PreviewShot:
    """One picture to draw."""

    label: str
    """The file name, without step and suffix"""
    prompt: str
    seed: int
    without: str
    """The concept that is left out; "" for none"""


Models = tuple[HostDenoiser, HostTextEncoder, VAE]


class Previewer:
    """Draws the same prompts from the same seeds each time."""

    def __init__(
        self,
        config: PreviewConfig,
        concepts: Sequence[Concept],
        models: Models,
    ):
        self._config = config
        self._denoiser, self._text, self._vae = models
        named = with_negatives(concepts)
        self._triggers = {concept.placeholder: concept.final_name for concept in concepts}
        self._own = {one.final_name: one.class_word or one.initial for one in named}
        self._encoded: dict[tuple[str, str], HostConditioning] = {}
        self._lasting = False
        self._started, self._spent, self._cost = time.monotonic(), 0.0, 0.0

    def is_due(self, step: int) -> bool:
        """Whether previews are due after this step and fit into their share of the time."""
        if step % self._config.every:
            return False
        allowed = self._config.time_share * (time.monotonic() - self._started)
        return self._spent + self._cost <= allowed

    def render(self, run: Run, step: int, folder: Path, disk: Disk) -> list[dict[str, Any]]:
        """Draw and save a picture for each shot; returns what each shows, with its file's name."""
        began, rendered = time.monotonic(), list[dict[str, Any]]()
        lasting = not run.live and not run.adapts_text
        if not (lasting and self._lasting):
            # What could have changed since is encoded anew, once for all seeds.
            self._encoded.clear()
        self._lasting = lasting
        with torch.no_grad(), run.averaged():
            for shot in self._shots():
                picture = self._render(shot)
                path = folder / f"step_{step:08}_{shot.label}.jpg"
                if disk.write("A preview", path, save_picture, picture, quality=92):
                    about = {"prompt": shot.prompt, "seed": shot.seed, "without": shot.without}
                    rendered.append({"file": path.name, "row": shot.label, **about})
        self._cost = time.monotonic() - began
        self._spent += self._cost
        return rendered

    def _render(self, shot: PreviewShot) -> Image.Image:
        conditions = (
            self._conditions(shot.prompt, shot.without),
            self._conditions(self._config.negative, ""),
        )
        with self._denoiser.sampling() as model:
            latent = sample(model, conditions, self._config.sampling, shot.seed, stop_on_cancel)
        # The levels that Save Image writes for the same sample.
        return to_picture(decode(self._vae, latent)[0], truncate=True)

    def _conditions(self, prompt: str, without: str) -> HostConditioning:
        """As the graph encodes the prompt."""
        key = prompt, without
        if key not in self._encoded:
            replaced = {without: self._own[without]} if without else {}
            self._encoded[key] = self._text.encode_prompt(prompt, self._triggers, replaced)
        return self._encoded[key]

    def _shots(self) -> Iterator[PreviewShot]:
        """Each prompt and seed with all its concepts and, if set so, without each in turn."""
        for number, prompt in enumerate(self._config.prompts, start=1):
            names = self._text.names_in(prompt, self._triggers) if self._config.without else []
            for seed in self._config.seeds:
                label = f"p{number}_s{seed}"
                yield PreviewShot(label, prompt, seed, "")
                for place, name in enumerate(names, start=1):
                    yield PreviewShot(f"{label}_without{place}", prompt, seed, name)


def stop_on_cancel(*_: Any) -> None:
    """The sampler's callback, by which Cancel ends a preview within one step."""
    management.throw_exception_if_processing_interrupted()
