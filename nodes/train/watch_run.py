"""Previews, Validation, Continue Run and Plot Run: watching, judging and continuing a run."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...training.validation import ValidationConfig
from .. import sockets
from ..host.run.continuation import Origin, checkpoint_names, parse_checkpoint
from ..host.run.plots import newest_run, plot_run
from ..host.run.previews import PreviewConfig
from ..host.run.request import HeldOut
from ..host.sampling import Sampling
from ..inputs import filled, sampling_inputs
from ..widget_text import lines, seed_numbers


class Previews(io.ComfyNode):
    """What a run draws while it trains."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_Previews",
            display_name="Previews",
            category="pivotal/training",
            description="Preview images that Train Concepts renders at regular intervals with the "
            "current state of the model, always from the same prompts and seeds.",
            search_aliases=["sample during training", "training preview", "sample images"],
            inputs=[
                io.String.Input(
                    "prompts",
                    default="a photo of TOK",
                    multiline=True,
                    tooltip="One prompt per line, with placeholders as in the captions.",
                ),
                io.String.Input("negative", default="", multiline=True, tooltip="Negative prompt."),
                io.Int.Input(
                    "every", default=100, min=1, max=1000000, tooltip="Steps between previews."
                ),
                io.Boolean.Input(
                    "without",
                    default=False,
                    tooltip="Also render each prompt with each concept replaced by its class word "
                    "or initial words, which shows what the adapter does without the concept.",
                ),
                io.Float.Input(
                    "time_share",
                    default=0.2,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the run's time that previews may take. Previews that would "
                    "exceed it are skipped.",
                ),
                *sampling_inputs(),
            ],
            outputs=[sockets.Previews.Output(display_name="previews")],
        )

    @classmethod
    def execute(
        cls,
        prompts: str,
        negative: str,
        every: int,
        without: bool,
        time_share: float,
        seeds: str,
        **sampling: Any,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            PreviewConfig(
                prompts=tuple(lines(prompts)),
                negative=negative,
                seeds=tuple(seed_numbers(seeds)),
                sampling=filled(Sampling, sampling),
                every=every,
                without=without,
                time_share=time_share,
            )
        )


class Validation(io.ComfyNode):
    """How a run is judged on pictures that it does not train on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_Validation",
            display_name="Validation",
            category="pivotal/training",
            description="Measures the loss of Train Concepts on held-out images with fixed noise "
            "and timesteps. It can keep the best step, and end the run or freeze concepts when "
            "nothing improves.",
            search_aliases=["validation loss", "early stopping", "overfitting", "held out"],
            inputs=[
                io.Int.Input(
                    "every", default=100, min=1, max=1000000, tooltip="Steps between validations."
                ),
                io.Int.Input(
                    "draws",
                    default=4,
                    min=1,
                    max=64,
                    tooltip="Number of noise samples and timesteps per image. More give steadier "
                    "results.",
                ),
                io.Boolean.Input(
                    "keep_best",
                    default=True,
                    tooltip="Return the run as it was at its lowest validation loss, not as it is "
                    "at the end.",
                ),
                io.Int.Input(
                    "patience",
                    default=0,
                    min=0,
                    max=10000,
                    tooltip="End the run after this many validations without a new best; 0 never "
                    "ends it.",
                ),
                io.Int.Input(
                    "pivot_patience",
                    default=0,
                    min=0,
                    max=10000,
                    tooltip="Freeze a concept before its pivot after this many validations without "
                    "a new best on its own images; 0 never does.",
                ),
                io.Int.Input(
                    "hold_out",
                    default=2,
                    min=1,
                    max=10000,
                    tooltip="Number of images held out of the training dataset if no dataset is "
                    "connected here.",
                ),
                sockets.Dataset.Input(
                    "dataset",
                    optional=True,
                    tooltip="Images and captions used for validation only. If not connected, "
                    "hold_out images of the training dataset are used.",
                ),
            ],
            outputs=[sockets.Validation.Output(display_name="validation")],
        )

    @classmethod
    def execute(cls, hold_out: int, dataset: Any = None, **inputs: Any) -> io.NodeOutput:
        config = filled(ValidationConfig, inputs)
        return io.NodeOutput(HeldOut(config=config, dataset=dataset, hold_out=hold_out))


class ContinueRun(io.ComfyNode):
    """A checkpoint to start from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_ContinueRun",
            display_name="Continue Run",
            category="pivotal/training",
            description="Lets Train Concepts start a new run from any checkpoint of an earlier "
            "one: with more steps, other learning rates, or any other setting changed.",
            search_aliases=["resume training", "checkpoint", "warm start", "more steps"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=checkpoint_names(),
                    tooltip="Checkpoint of a run in output/pivotal.",
                ),
                io.Int.Input(
                    "more_steps",
                    default=0,
                    min=0,
                    max=1000000,
                    tooltip="Steps to train from the checkpoint; 0 trains up to the total of Train "
                    "Concepts.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.0001,
                    round=False,
                    tooltip="New learning rate for the adapter; 0 keeps the optimizer's setting.",
                ),
                io.Float.Input(
                    "embedding_learning_rate",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.0001,
                    round=False,
                    tooltip="New learning rate for the concepts; 0 keeps the optimizer's setting.",
                ),
            ],
            outputs=[sockets.Run.Output(display_name="run")],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str) -> bool | str:
        # A run may have made it after the editor was opened.
        return True if checkpoint else "Choose a checkpoint."

    @classmethod
    def execute(cls, checkpoint: str, **inputs: Any) -> io.NodeOutput:
        run, step = parse_checkpoint(checkpoint)
        return io.NodeOutput(filled(Origin, {"run": run, "step": step, **inputs}))


class PlotRun(io.ComfyNode):
    """A run's numbers as pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_PlotRun",
            display_name="Plot Run",
            category="pivotal/evaluate",
            description="Plots a run: loss, loss per concept, gradient norms, learning rates, "
            "movement of the vectors and validation loss.",
            search_aliases=["loss graph", "loss curve", "training plot"],
            inputs=[
                io.String.Input(
                    "run_name",
                    default="concept",
                    tooltip="As in Train Concepts; if several runs share a name, the newest.",
                ),
                io.AnyType.Input(
                    "after",
                    optional=True,
                    tooltip="Connect any output of Train Concepts so that its run finishes first.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="plots"),
                io.LossMap.Output(display_name="loss"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, run_name: str, after: Any = None) -> float:
        return float("nan")  # The run may have continued.

    @classmethod
    def execute(cls, run_name: str, after: Any = None) -> io.NodeOutput:
        plots, losses = plot_run(newest_run(run_name.strip()))
        return io.NodeOutput(plots, {"loss": losses})


NODES = [Previews, Validation, ContinueRun, PlotRun]
