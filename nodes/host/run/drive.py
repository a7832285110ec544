"""A training run in the host: models are borrowed, trained with and given back."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NoReturn

import comfy.model_management as management
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from tqdm.auto import tqdm

from ....training.commands import Command
from ....training.evaluation.curves import loss_plot
from ....training.loop import StepReport, end, train
from ....training.memory import Plan
from ....training.parts import Parts
from ....training.peers import Peers, in_turn, peers_here, together
from ....training.state import RunState
from ..codec import HostLatentCodec
from ..denoiser.budget import plan_run
from ..denoiser.families import (
    check_clip,
    check_guidance,
    check_trainable,
    check_vae,
    family_of,
    image_note,
)
from ..denoiser.port import HostDenoiser
from ..digests import model_digest
from ..disk import below_output
from ..text.port import HostTextEncoder
from ..versions import device_context, is_oom
from .identity import identity_of, identity_recipe
from .keeper import Keeper, without_verdicts
from .live import LiveRun, going_live
from .prepare import make_parts
from .previews import Models, Previewer
from .reporter import Reporter
from .request import Checked, Checkpointing, Request
from .result import RunResult, read_result, summary
from .run_folder import RunFolder, find_run_folder
from .watch import Follower, Watch, Watcher

Steps = Generator[StepReport, Sequence[Command] | None, None]


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
    peers = peers_here()
    with gradients(), device_context(model.load_device):
        same_run = identity_of(request, model, clip, vae)
        folder = find_run_folder(request.run_name, same_run)
        # What the first process sees counts: it writes here before the others have looked.
        folder, finished = peers.same((folder, is_finished(folder, request.config.steps)))
        check_steps(folder, peers.same(steps_of(folder)), request.config.steps)
        if finished:
            return read_result(folder)
        names = tuple(concept.final_name for concept in request.concepts)
        live = LiveRun(folder.path.name, request.node, request.config.steps, names)
        with going_live(live) if peers.rank == 0 else nullcontext():
            return _train(model, clip, vae, checked, folder, live)


def is_finished(folder: RunFolder, steps: int) -> bool:
    """Whether the run has all these steps, or was finished early when so many were requested."""
    progress = folder.progress()
    finished = progress.get("finished")
    if finished is None or not folder.bundle.exists():
        return False
    return progress.get("steps") == steps or finished >= steps


def steps_of(folder: RunFolder) -> int:
    """How many steps a run has, unless it was finished early with fewer than were requested."""
    progress = folder.progress()
    return max([0, *folder.saved_steps(), progress.get("finished") or 0])


def check_steps(folder: RunFolder, done: int, steps: int) -> None:
    """Raise ValueError if a run has more steps than it is to have."""
    if done > steps:
        raise ValueError(
            f"The run {folder.path.name} already has {done} steps and is to have {steps}: set "
            f"steps to {done} or more, or choose another run_name to begin anew."
        )


def _train(
    model: ModelPatcher, clip: CLIP, vae: VAE, checked: Checked, folder: RunFolder, live: LiveRun
) -> RunResult:
    """Train from the folder's checkpoint, if any, to the end, and save the result there."""
    request, peers, text = checked.request, peers_here(), HostTextEncoder(clip)
    steps = request.config.steps
    denoiser = HostDenoiser(
        model,
        checkpointing=request.checkpointing is Checkpointing.ON,
        guidance=request.config.objective.guidance,
        companions=text.companions,
    )
    start = _same_start(peers, _start(folder, request), folder)
    with in_turn(peers):
        parts = make_parts(checked, denoiser, text, HostLatentCodec(vae), start)
        if peers.rank == 0:
            folder.create()
            folder.sweep()
    parts.notes += filter(None, [image_note(model)])
    plan = _plan(parts, denoiser, request, folder)
    keeper = Keeper(folder, request, parts, (family_of(model), model_digest(model)), start)
    watch: Watcher = Follower()
    with together(peers):
        if peers.rank == 0:
            folder.save_progress({"steps": steps, "finished": None})
            watch = Shown(_watch(request, live, keeper, (denoiser, text, vae)), steps)
    began = time.monotonic()
    if start is not None and was_ended(start, steps):
        end(parts, request.config, start)
    else:
        drive(train(parts, request.config, start), watch)
    result: RunResult | None = None
    with together(peers):
        if peers.rank == 0:
            timing = start.step if start else 0, time.monotonic() - began
            report = summary(request, parts, keeper.numbers.losses, timing, folder, plan)
            result = _save_result(keeper, steps, report)
    result = peers.same(result)
    assert result is not None
    return result


def _plan(parts: Parts, denoiser: HostDenoiser, request: Request, folder: RunFolder) -> Plan | None:
    """How the steps are divided to fit into memory, when that is left to us."""
    if request.checkpointing is not Checkpointing.AUTO:
        return None
    try:
        return plan_run(parts, denoiser, request.config.batch_size, folder.plan, folder.disk)
    except RuntimeError as error:
        raise_with_cure(error)


def _watch(request: Request, live: LiveRun, keeper: Keeper, models: Models) -> Watch:
    parts, config = keeper.parts, request.previews
    reporter = Reporter(keeper.folder, live, keeper.numbers, parts, models[1])
    previewer = Previewer(config, request.concepts, models) if config else None
    return Watch(request, live, keeper, reporter, previewer)


def _save_result(keeper: Keeper, steps: int, report: str) -> RunResult:
    (bundle, peft), losses, folder = keeper.result(), keeper.numbers.losses, keeper.folder
    if losses:
        report += folder.save_peft(peft)
        progress = {"steps": steps, "finished": len(losses)}
        folder.finish(bundle, report, loss_plot(losses), progress)
    return RunResult(bundle=bundle, losses=losses, report=report, folder=folder.path)


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


def _same_start(peers: Peers, start: RunState | None, folder: RunFolder) -> RunState | None:
    """The state that every process has read; ValueError where one could not read it."""
    step = start.step if start else 0
    (differs,) = peers.any([peers.same(step) != step])
    if differs:
        raise ValueError(
            "The processes of this run read different checkpoints in "
            f"{below_output(folder.path)} in ComfyUI's output folder: let all of them read it."
        )
    return start


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
            # Cancel, a complaint or an error reaches one process, which has to take the others
            # along. Commands need no word here: the loop itself takes those of the first one.
            with together(report.run.parts.peers):
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
        f"Not enough memory for a step, even image by image and with checkpointing. {cure} a "
        "lower resolution (half of it takes about a quarter), a smaller rank, or free the memory "
        "that others use, and queue again."
    ) from error
