"""A training run in the host: models are borrowed, trained with and given back."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import comfy.model_management as management
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from tqdm.auto import tqdm

from ....bundles.bundle import Bundle
from ....bundles.load import load_bundle
from ....training.commands import Command
from ....training.evaluation.curves import loss_plot
from ....training.loop import StepReport, end, train
from ....training.memory import Plan
from ....training.parts import Parts
from ....training.state import RunState
from ..codec import HostLatentCodec
from ..denoiser.budget import plan_run
from ..denoiser.families import check_clip, check_guidance, check_trainable, check_vae, family_of
from ..denoiser.port import HostDenoiser
from ..digests import model_digest
from ..text.port import HostTextEncoder
from ..versions import device_context, is_oom
from .keeper import Keeper, without_verdicts
from .live import LiveRun, going_live
from .prepare import make_parts
from .previews import Previewer
from .reporter import Reporter
from .request import Checked, Checkpointing, Request
from .run_folder import RunFolder, find_run_folder
from .watch import Watch, Watcher

LOG = logging.getLogger(__name__)
Steps = Generator[StepReport, Sequence[Command] | None, None]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run hands back to the graph."""

    bundle: Bundle
    losses: list[float]
    report: str
    folder: Path


@contextmanager
def gradients() -> Iterator[None]:
    """Leave the executor's inference mode, so that autograd records what a run computes."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def run_training(model: ModelPatcher, clip: CLIP, vae: VAE, request: Request) -> RunResult:
    """Check the request, train and return the bundle; the models come back as they were.

    A run that was stopped resumes from its checkpoint; a finished one is read from its folder.
    """
    checked = request.checked()
    request = checked.request
    check_trainable(model)
    check_guidance(model, request.config.objective, request.concepts)
    check_clip(model, clip)
    check_vae(model, vae)
    with gradients():
        same_run, usual = identity(request, model, clip, vae), {"recipe": request.usual()}
        folder = find_run_folder(request.run_name, same_run, usual)
        if is_finished(folder, request.config.steps):
            return _read(folder)
        names = tuple(concept.final_name for concept in request.concepts)
        live = LiveRun(folder.path.name, request.node, request.config.steps, names)
        with going_live(live), device_context(model.load_device):
            return _train(model, clip, vae, checked, folder, live)


def identity(request: Request, model: ModelPatcher, clip: CLIP, vae: VAE) -> dict[str, Any]:
    """What makes two runs the same run: the recipe and the weights that it is trained on.

    The number of steps is left out, so that a run can be given more of them.
    """
    patchers = {"model": model, "clip": clip.patcher, "vae": vae.patcher}
    digests = {name: model_digest(patcher) for name, patcher in patchers.items()}
    if clip.layer_idx is not None:
        digests["clip"] += f" up to layer {clip.layer_idx}"
    return {"recipe": identity_recipe(request), "models": digests}


def is_finished(folder: RunFolder, steps: int) -> bool:
    """Whether the run has all these steps, or was finished early when so many were requested."""
    progress = folder.progress()
    finished = progress.get("finished")
    if finished is None or not folder.bundle.exists():
        return False
    return progress.get("steps") == steps or finished >= steps


def _read(folder: RunFolder) -> RunResult:
    """The result of a finished run, from its folder."""
    state = folder.load()
    losses = list(state.losses) if state else []
    report = f"This run was finished before.\n{folder.report.read_text(encoding='utf-8').strip()}"
    return RunResult(
        bundle=load_bundle(folder.bundle), losses=losses, report=report, folder=folder.path
    )


def _train(
    model: ModelPatcher, clip: CLIP, vae: VAE, checked: Checked, folder: RunFolder, live: LiveRun
) -> RunResult:
    """Train from the folder's checkpoint, if any, to the end, and save the result there."""
    request = checked.request
    text = HostTextEncoder(clip)
    denoiser = HostDenoiser(
        model,
        checkpointing=request.checkpointing is Checkpointing.ON,
        guidance=request.config.objective.guidance,
        companions=text.companions,
    )
    start = _start(folder, request)
    parts = make_parts(checked, denoiser, text, HostLatentCodec(vae))
    folder.create()
    folder.sweep()
    plan = None
    if request.checkpointing is Checkpointing.AUTO:
        try:
            plan = plan_run(parts, denoiser, request.config.batch_size, folder.plan, folder.disk)
        except RuntimeError as error:
            raise_with_cure(error)
    folder.save_progress({"steps": request.config.steps, "finished": None})
    keeper = Keeper(folder, request, parts, (family_of(model), model_digest(model)), start)
    reporter = Reporter(folder, live, keeper.numbers, parts, text)
    models = (denoiser, text, vae)
    config = request.previews
    previewer = Previewer(config, request.concepts, models) if config else None
    watch = Watch(request, live, keeper, reporter, previewer)
    began = time.monotonic()
    if start is not None and was_ended(start, request.config.steps):
        end(parts, request.config, start)
    else:
        drive(train(parts, request.config, start), Shown(watch, request.config.steps))
    begun = start.step if start else 0
    (result, peft), losses = keeper.result(), keeper.numbers.losses
    report = _report(request, parts, losses, time.monotonic() - began, begun, folder, plan)
    progress = {"steps": request.config.steps, "finished": len(losses)}
    if losses:
        report += folder.save_peft(peft)
        folder.finish(result, report, loss_plot(losses), progress)
    return RunResult(bundle=result, losses=losses, report=report, folder=folder.path)


def _start(folder: RunFolder, request: Request) -> RunState | None:
    """The state to resume from, with an event for whatever is different from here on."""
    state, steps = folder.load(), request.config.steps
    if state is not None:
        before = folder.progress().get("steps", steps)
        if before == steps:
            return state
        event = {"step": state.step, "what": "continued", "changed": {"steps": [before, steps]}}
        return replace(state, events=(*state.events, event))
    if request.origin is None:
        return None
    state = without_verdicts(request.origin.state())
    changed = request.origin.changes(identity_recipe(request), request.usual())
    event = {"step": state.step, "what": "continued", "from": request.origin.run}
    return replace(state, events=(*state.events, event | {"changed": changed}))


def identity_recipe(request: Request) -> dict[str, Any]:
    """The recipe as it is saved in a run's folder: after JSON, and without the steps."""
    recipe = json.loads(json.dumps(request.recipe()))
    del recipe["train"]["steps"]
    return recipe


def was_ended(state: RunState, steps: int) -> bool:
    """Whether a run was finished at this step, but stopped before its result was written."""
    if state.step >= steps:
        return True
    ends = [event for event in state.events if event["what"] == "finish"]
    return any(event["step"] == state.step and event["steps"] == steps for event in ends)


class Shown:
    """A watcher whose steps are counted by a bar in the terminal and by ComfyUI's."""

    def __init__(self, watch: Watch, steps: int):
        self._watch, self._steps = watch, steps
        self._bar = comfy.utils.ProgressBar(steps)

    def __enter__(self) -> Shown:
        name, begun = self._watch.name, self._watch.begun
        self._terminal = tqdm(total=self._steps, initial=begun, desc=name, unit="step")
        self._watch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        with self._terminal:
            self._watch.__exit__(*error)

    def see(self, report: StepReport) -> Sequence[Command]:
        commands = self._watch.see(report)
        self._terminal.update()
        # ComfyUI's bar raises when Cancel has been pressed, so nothing may be left to do for
        # this step: what it decides and saves has to be the same as without Cancel.
        self._bar.update_absolute(report.step + 1)
        return commands


def drive(steps: Steps, watch: Watcher) -> None:
    """Take the loop from step to step until it ends, fails or is cancelled."""
    # This order makes Cancel right. What is entered last is left first: `closing` ends the loop,
    # whose `finally` gives MODEL and CLIP back whatever happens to the files afterwards; then the
    # watch reads and reports the numbers that are still on their way; then its keeper saves the
    # last whole step, which needs those numbers. The parameters that it saves belong to the run
    # and not to the models, so they outlive the loop.
    with watch, closing(steps):
        commands: Sequence[Command] | None = None
        while (report := next_report(steps, commands)) is not None:
            commands = watch.see(report)
            management.throw_exception_if_processing_interrupted()


def next_report(steps: Steps, commands: Sequence[Command] | None) -> StepReport | None:
    """The next step's report, None after the last."""
    try:
        return steps.send(commands)
    except StopIteration:
        return None
    except RuntimeError as error:
        raise_with_cure(error, "The last whole step is saved: set")


def raise_with_cure(error: RuntimeError, cure: str = "Set") -> NoReturn:
    """Raise the error; when memory ran out, say what would fit."""
    if not is_oom(error):
        raise error
    raise torch.cuda.OutOfMemoryError(
        f"Not enough memory for a step, even picture by picture and with checkpointing. {cure} a "
        "lower resolution (half of it takes about a quarter), a smaller rank, or free the memory "
        "that others use, and queue again."
    ) from error


def _report(
    request: Request,
    parts: Parts,
    losses: list[float],
    seconds: float,
    begun: int,
    folder: RunFolder,
    plan: Plan | None,
) -> str:
    """What was trained, on what and for how long, as text."""
    done = max(len(losses) - begun, 1)
    tail = losses[-max(1, len(losses) // 10) :] or [0.0]
    lines = [
        f"{len(losses)} steps on {len(request.dataset.records)} pictures"
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
        if concept.negative is not None:
            lines.append(
                f"for the negative prompt: embedding:{concept.negative.final_name}, trained for "
                f"cfg {request.config.objective.negative_guidance:g} by a second prediction a step"
            )
    if plan is not None:
        lines.append(f"memory: {plan.reason}")
    lines += [*request.dataset.notes, *request.dataset.skipped]
    lines.append(f"run folder: {folder.path}")
    if folder.disk.trouble:
        lines.append(folder.disk.trouble)
    return "\n".join(lines)
