"""One cell of the benchmark: a subject, a method and a seed, trained, scored and kept as a row."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pack.bundles.bundle import Bundle
from pack.bundles.save import Container, save_bundle
from pack.nodes.host.bundle.apply import apply_bundle
from pack.nodes.host.run.drive import run_training
from pack.nodes.host.run.request import Request
from pack.nodes.host.text.name_settings import NameRules, parse_names
from pack.training.dataset.folder.read import read_folder
from pack.training.objective import Prior
from world.concepts import write_folder
from world.sampling import FLOW_SCHEDULER, SETTINGS, Models, sample

from .bases import FLOW, SECOND
from .methods import METHODS, Method, differing
from .remembered import PICTURES, base_pictures
from .scores import base_right, count, fidelity, thinned, transferred, variety
from .subjects import LOOK, STYLE, STYLE_PICTURES, SUBJECTS, Asked, prompts_for

STRIP = 8
RENAMED = 8
"""Samples of each concept of a set under another name."""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What is trained and scored for one row of the table."""

    subject: str
    method: str
    seed: int
    budget: float = 1.0
    """Share of the subject's steps"""

    @property
    def name(self) -> str:
        """The cell's part of file names."""
        return f"{self.subject}_{self.method}_{self.budget:g}_{self.seed}"

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return round(SUBJECTS[self.subject].steps * self.budget)

    def definition(self, samples: int) -> str:
        """A digest of all that the row depends on by choice; another one makes the row anew."""
        parts = [self.name, chosen(METHODS[self.method]), self.steps]
        parts += [SUBJECTS[self.subject].batch, samples, SETTINGS, SECOND, PICTURES]
        parts += [FLOW, FLOW_SCHEDULER] if METHODS[self.method].flow else []
        subject = SUBJECTS[self.subject]
        parts += [STYLE_PICTURES, LOOK] if STYLE in subject.concepts else [subject.seen]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def chosen(method: Method) -> dict[str, Any]:
    """All that a method sets, the benchmark's own defaults included.

    Of what it sets for the pack only what differs from the pack's defaults, and of itself nothing
    that is switched off, so that a new setting leaves what was measured as it is.
    """
    pairs = ((field.name, getattr(method, field.name)) for field in fields(method))
    return {
        name: differing(value, type(value)()) if is_dataclass(value) else differing(value, None)
        for name, value in pairs
        if value
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What a cell works with."""

    base: Models
    second: Models | None
    """What the bundle is carried over to; None where that is not the question"""
    work: Path
    samples: int
    """Of each kind: with the concept, and of the base's own prompts"""


def run_cell(cell: Cell, bench: Bench) -> tuple[Row, Tensor]:
    """Train and score one cell: its row, and the first pictures (n, 64, 64, 3) of it."""
    bundle, seconds = train(cell, bench)
    method, subject = METHODS[cell.method], SUBJECTS[cell.subject]
    prompts = prompts_for(method.triggers(subject), per_concept(cell, bench))
    trained = applied(bench.base, bundle)
    words = [one.prompt for one in prompts]
    pictures = sample(trained, words, unwanted=method.unwanted(subject))
    scores = count(pictures, prompts)
    right, leaked = base_right(trained, bench.samples)
    row = {
        "subject": cell.subject,
        "method": cell.method,
        "seed": cell.seed,
        "budget": cell.budget,
        "steps": cell.steps,
        "samples": bench.samples,
        **scores,
        "variety": variety(pictures, prompts),
        "base_kept": right,
        "base_leakage": leaked,
        **transfer(bundle, bench, prompts),
        "bytes": size_of(bundle, bench.work / f"{cell.name}.safetensors"),
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "definition": cell.definition(bench.samples),
    }
    if len(subject.concepts) > 1:
        row["concepts"] = by_concept(pictures, prompts)
        row["renamed"] = renamed(bundle, bench, cell)
    return row, shown(pictures, prompts)


def per_concept(cell: Cell, bench: Bench) -> int:
    """Samples of each concept: all for one, and fewer of each, but at least 20, for several."""
    return max(bench.samples // len(SUBJECTS[cell.subject].concepts), min(bench.samples, 20))


def train(cell: Cell, bench: Bench) -> tuple[Bundle, float]:
    """The bundle and the seconds of its training, of which a finished run says none."""
    method, subject = METHODS[cell.method], SUBJECTS[cell.subject]
    pictures = bench.work / f"{cell.subject}_{cell.seed}_{int(method.embeddings)}_pictures"
    write_folder(subject.pictures(method.words(subject), cell.seed), pictures)
    remembered = None if method.prior is Prior.NONE else base_pictures(bench.base, bench.work)
    request = Request(
        dataset=read_folder(pictures),
        class_dataset=remembered,
        config=method.config(cell.steps, subject.batch, cell.seed),
        concepts=method.concepts(subject),
        adapter=method.adapter,
        resolution=64,
        checkpointing=False,
        run_name=cell.name,
    )
    started = time.monotonic()
    with torch.inference_mode():
        return run_training(*bench.base, request).bundle, time.monotonic() - started


def applied(
    models: Models, bundle: Bundle, *, lora: float = 1.0, rules: NameRules | None = None
) -> Models:
    """The models with the bundle on them; a `lora` of 0 leaves the names alone."""
    model, clip, vae = models
    with torch.inference_mode():
        changed, named, _, _ = apply_bundle(
            model, clip, bundle, strength_model=lora, strength_clip=lora, rules=rules
        )
    return changed, named, vae


def transfer(bundle: Bundle, bench: Bench, prompts: Sequence[Asked]) -> dict[str, float | None]:
    """Fidelity on the second base: of the whole bundle, and of its embeddings alone."""
    found: dict[str, float | None]
    found = dict.fromkeys(("transfer_bundle", "embedding_alone", "transfer_embedding"))
    if bench.second is None:
        return found
    some = thinned(prompts, transferred(bench.samples))
    found["transfer_bundle"] = fidelity(applied(bench.second, bundle), some)
    if bundle.embeddings:
        alone = applied(bench.base, bundle, lora=0.0), applied(bench.second, bundle, lora=0.0)
        found["embedding_alone"] = fidelity(alone[0], some)
        found["transfer_embedding"] = fidelity(alone[1], some)
    return found


def renamed(bundle: Bundle, bench: Bench, cell: Cell) -> float | None:
    """Fidelity when every name is another one by Load Bundle's own line for it."""
    method, subject = METHODS[cell.method], SUBJECTS[cell.subject]
    if not method.embeddings:
        return None
    words = method.words(subject)
    rules = NameRules(settings=parse_names("\n".join(f"{w} = new{w}" for w in words.values())))
    changed = {concept: f"embedding:new{word}" for concept, word in words.items()}
    prompts = prompts_for(changed, RENAMED)
    return fidelity(applied(bench.base, bundle, rules=rules), prompts)


def by_concept(pictures: Tensor, prompts: Sequence[Asked]) -> Mapping[str, dict[str, float]]:
    """The scores of each concept of a set."""
    scores: dict[str, dict[str, float]] = {}
    for concept in dict.fromkeys(one.concept for one in prompts):
        places = [i for i, one in enumerate(prompts) if one.concept == concept]
        scores[concept] = count(pictures[places], [prompts[i] for i in places])
    return scores


def shown(pictures: Tensor, prompts: Sequence[Asked]) -> Tensor:
    """The first pictures of the concepts in turn, (STRIP, 64, 64, 3)."""
    concepts = list(dict.fromkeys(one.concept for one in prompts))
    number = len(prompts) // len(concepts)
    places = [i % len(concepts) * number + i // len(concepts) for i in range(STRIP)]
    return pictures[places]


def size_of(bundle: Bundle, path: Path) -> int:
    """Bytes of the bundle as it is saved by default."""
    path.unlink(missing_ok=True)
    save_bundle(bundle, path, Container.A1111, torch.float16)
    return path.stat().st_size


def write_strip(pictures: Tensor, path: Path) -> None:
    """Pictures side by side as a png."""
    pixels = torch.cat(list(pictures.clamp(0, 1)), dim=1)
    Image.fromarray((pixels * 255).round().to(torch.uint8).numpy()).save(path, optimize=True)


def read_rows(path: Path) -> list[Row]:
    """The rows of earlier calls."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
