"""One cell of the benchmark: a subject, a method and a seed, trained and scored."""

from __future__ import annotations

import hashlib
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
from pack.nodes.host.run.request import Checkpointing, Request
from pack.nodes.host.text.resolve import NameRules, parse_names
from pack.training.dataset.folder.read import read_folder
from pack.training.objective import Prior
from world.concepts import write_folder
from world.sampling import FLOW_SCHEDULER, SETTINGS, Models, sample

from .bases import FLOW, REMEMBERED, SECOND, base_pictures
from .methods import METHODS, Method, differing
from .scores import Row, base_right, count, fidelity, thinned, transferred, variety
from .subjects import LOOK, STYLE, STYLE_PICTURES, SUBJECTS, Asked, prompts_for

STRIP = 8
"""Pictures in a cell's strip."""
RENAMED = 8
"""Samples of each concept of a set that are drawn with changed names."""
SHORT, EARLY, LONG = 0.2, 0.25, 10.0
"""Budgets other than a subject's own; after EARLY, methods differ that all learn in the end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What is trained and scored for one row of the results."""

    subject: str
    method: str
    seed: int
    budget: float = 1.0
    """Share of the subject's steps"""

    @property
    def name(self) -> str:
        return f"{self.subject}_{self.method}_{self.budget:g}_{self.seed}"

    @property
    def steps(self) -> int:
        return round(SUBJECTS[self.subject].steps * self.budget)

    def definition(self, samples: int) -> str:
        """A digest of every choice that the row depends on; a row with another one is redone."""
        parts = [self.name, chosen(METHODS[self.method]), self.steps]
        parts += [SUBJECTS[self.subject].batch, samples, SETTINGS, SECOND, REMEMBERED]
        parts += [FLOW, FLOW_SCHEDULER] if METHODS[self.method].flow else []
        subject = SUBJECTS[self.subject]
        parts += [STYLE_PICTURES, LOOK] if STYLE in subject.concepts else [subject.seen]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def cell_of(row: Row) -> Cell:
    """The cell that a row is of."""
    return Cell(**{name: row[name] for name in ("subject", "method", "seed", "budget")})


def chosen(method: Method) -> dict[str, Any]:
    """What a method sets, including the benchmark's own defaults.

    Leaves out what is switched off or equal to the pack's defaults, so that a setting added later
    does not change the digests of earlier rows.
    """
    pairs = ((field.name, getattr(method, field.name)) for field in fields(method))
    return {
        name: differing(value, type(value)()) if is_dataclass(value) else differing(value, None)
        for name, value in pairs
        if value
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """The models and the work folder of a cell."""

    base: Models
    second: Models | None
    """The base that the bundle is tried on as well, if transfer is measured"""
    work: Path
    samples: int
    """With the concept, and again of the base's own prompts"""


def run_cell(cell: Cell, bench: Bench) -> tuple[Row, Tensor]:
    """Train and score one cell; returns its row and its first pictures (n, 64, 64, 3)."""
    bundle, seconds = train(cell, bench)
    method, subject = METHODS[cell.method], SUBJECTS[cell.subject]
    prompts = prompts_for(method.triggers(subject), per_concept(cell, bench))
    trained = applied(bench.base, bundle)
    texts = [prompt.prompt for prompt in prompts]
    pictures = sample(trained, texts, unwanted=method.unwanted(subject))
    scores = count(pictures, prompts)
    right, leaked = base_right(trained, bench.samples)
    row: dict[str, Any] = {
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
    """Samples of each concept: several concepts share them, but each gets at least 20."""
    return max(bench.samples // len(SUBJECTS[cell.subject].concepts), min(bench.samples, 20))


def train(cell: Cell, bench: Bench) -> tuple[Bundle, float]:
    """Train the cell's bundle; returns it with the seconds that this took."""
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
        checkpointing=Checkpointing.OFF,
        run_name=cell.name,
    )
    started = time.monotonic()
    with torch.inference_mode():
        return run_training(*bench.base, request).bundle, time.monotonic() - started


def applied(
    models: Models, bundle: Bundle, *, lora: float = 1.0, rules: NameRules | None = None
) -> Models:
    """The models with the bundle applied; with a `lora` of 0 only its embeddings."""
    model, clip, vae = models
    with torch.inference_mode():
        changed, named, _, _ = apply_bundle(
            model, clip, bundle, strength_model=lora, strength_clip=lora, rules=rules
        )
    return changed, named, vae


def transfer(bundle: Bundle, bench: Bench, prompts: Sequence[Asked]) -> dict[str, float | None]:
    """Fidelity of the bundle on the second base, and of its embeddings alone on both bases."""
    scores: dict[str, float | None]
    scores = dict.fromkeys(("transfer_bundle", "embedding_alone", "transfer_embedding"))
    if bench.second is None:
        return scores
    some = thinned(prompts, transferred(bench.samples))
    scores["transfer_bundle"] = fidelity(applied(bench.second, bundle), some)
    if bundle.embeddings:
        scores["embedding_alone"] = fidelity(applied(bench.base, bundle, lora=0.0), some)
        scores["transfer_embedding"] = fidelity(applied(bench.second, bundle, lora=0.0), some)
    return scores


def renamed(bundle: Bundle, bench: Bench, cell: Cell) -> float | None:
    """Fidelity when Load Bundle gives every concept another name; None without embeddings."""
    method, subject = METHODS[cell.method], SUBJECTS[cell.subject]
    if not method.embeddings:
        return None
    words = method.words(subject)
    lines = "\n".join(f"{word} = new{word}" for word in words.values())
    rules = NameRules(settings=parse_names(lines))
    prompts = prompts_for({c: f"embedding:new{word}" for c, word in words.items()}, RENAMED)
    return fidelity(applied(bench.base, bundle, rules=rules), prompts)


def by_concept(pictures: Tensor, prompts: Sequence[Asked]) -> Mapping[str, dict[str, float]]:
    """The scores of each concept of a set."""
    scores: dict[str, dict[str, float]] = {}
    for concept in dict.fromkeys(prompt.concept for prompt in prompts):
        places = [i for i, prompt in enumerate(prompts) if prompt.concept == concept]
        scores[concept] = count(pictures[places], [prompts[i] for i in places])
    return scores


def shown(pictures: Tensor, prompts: Sequence[Asked]) -> Tensor:
    """The first pictures of each concept in turn, (STRIP, 64, 64, 3)."""
    concepts = len({prompt.concept for prompt in prompts})
    each = len(prompts) // concepts
    places = [i % concepts * each + i // concepts for i in range(STRIP)]
    return pictures[places]


def size_of(bundle: Bundle, path: Path) -> int:
    """Bytes of the bundle when saved with the default settings."""
    path.unlink(missing_ok=True)
    save_bundle(bundle, path, Container.A1111, torch.float16)
    return path.stat().st_size


def write_strip(pictures: Tensor, path: Path) -> None:
    """Save pictures side by side as a PNG."""
    pixels = torch.cat(list(pictures.clamp(0, 1)), dim=1)
    Image.fromarray((pixels * 255).round().to(torch.uint8).numpy()).save(path, optimize=True)
