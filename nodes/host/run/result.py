"""What a run hands back: its bundle, a file for diffusers, its losses and a summary."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ....bundles.bundle import Bundle, Entry
from ....bundles.layers.generic import KOHYA_FAMILIES
from ....bundles.layers.peft_keys import to_peft
from ....bundles.load import load_bundle
from ....bundles.privacy import named_parts
from ....training.memory import Plan
from ....training.parts import Parts
from ....training.trained import Learned
from ....training.words.concepts import with_negatives
from ..disk import below_output
from .request import Request
from .run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run hands back to the graph."""

    bundle: Bundle
    losses: list[float]
    report: str
    folder: Path


def read_result(folder: RunFolder) -> RunResult:
    """The result of a finished run, from its folder."""
    state = folder.load()
    losses = list(state.losses) if state else []
    text = folder.report.read_text(encoding="utf-8").strip()
    # What was noted when it was found is a part of the report already, if it was resumed.
    notes = [note for note in folder.notes if note not in text]
    report = "\n".join(["This run was finished before.", text, *notes])
    bundle = load_bundle(folder.bundle)
    # The file leaves out what it was trained on, which the run's own record has.
    recipe = {**bundle.recipe, **named_parts(folder.recipe())}
    bundle = replace(bundle, recipe=recipe)
    return RunResult(bundle=bundle, losses=losses, report=report, folder=folder.path)


def make_peft(learned: Learned, family: str) -> dict[str, Tensor]:
    """The layers of a UNet that PEFT reads in another form than their own; empty for most kinds."""
    known = learned.peft and family in KOHYA_FAMILIES
    return to_peft(learned.peft, family) if known else {}


def make_bundle(request: Request, learned: Learned, family: str, base: str = "") -> Bundle:
    """What was trained, with its recipe and the digest of the model that it was trained on."""
    entries = [
        Entry(name=c.final_name, initial=c.initial, placeholder=c.placeholder)
        for c in with_negatives(request.concepts)
    ]
    return Bundle(
        family=family,
        lora=learned.lora,
        embeddings=learned.embeddings,
        outputs=learned.outputs,
        entries=tuple(entries),
        recipe=request.recipe() | ({"base_model": base} if base else {}),
    )


def summary(
    request: Request,
    parts: Parts,
    losses: list[float],
    timing: tuple[int, float],
    folder: RunFolder,
    plan: Plan | None,
) -> str:
    """What was trained, on what and for how long, as text.

    `timing` is the step at which this process began and the seconds since then.
    """
    begun, seconds = timing
    done = max(len(losses) - begun, 1)
    tail = losses[-max(1, len(losses) // 10) :] or [0.0]
    lines = [
        f"{len(losses)} steps on {len(request.dataset.records)} images"
        + (f", {done} of the steps now," if begun else "")
        + f" in {seconds:.1f} s ({seconds / done:.3f} s a step)",
        f"loss {sum(tail) / len(tail):.5f} over the last {len(tail)} steps",
        *(line for thing in parts.trained for line in thing.summary()),
    ]
    for concept in request.concepts:
        pivot = concept.pivot_step(request.config.steps)
        lines.append(
            f'"{concept.placeholder}" is embedding:{concept.final_name}, '
            f"{concept.vectors} vectors, trained for {min(pivot, len(losses))} steps"
        )
        if concept.output:
            lines.append(
                "it is an output embedding: encode prompts with Encode with Output Embeddings"
            )
        if concept.negative is not None:
            lines.append(
                f"for the negative prompt: embedding:{concept.negative.final_name}, trained for "
                f"cfg {request.config.objective.negative_guidance:g} by a second prediction a step"
            )
    if plan is not None:
        lines.append(f"memory: {plan.reason}")
    lines += dict.fromkeys([*parts.notes, *parts.data_notes])
    lines += [*request.dataset.notes, *request.dataset.skipped, *folder.notes]
    lines.append(f"run folder: {below_output(folder.path)} in ComfyUI's output folder")
    if folder.disk.trouble:
        lines.append(folder.disk.trouble)
    return "\n".join(lines)
