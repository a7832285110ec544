"""Optimizer and Objective: how a part is updated and what is minimized."""

from __future__ import annotations

from comfy_api.latest import io

from ..training.objective import ObjectiveConfig, Prior
from ..training.optimizers import Algorithm, OptimizerConfig
from . import sockets


class Optimizer(io.ComfyNode):
    """How the adapter's or the concepts' parameters are updated."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_Optimizer",
            display_name="Optimizer",
            category="pivotal/training",
            description="How one part of the training is updated. The adapter and the concepts "
            "each take one of their own.",
            search_aliases=["adamw", "prodigy", "learning rate"],
            inputs=[
                io.Combo.Input(
                    "algorithm",
                    options=Algorithm,
                    default=Algorithm.ADAMW,
                    tooltip="AdamW, or Prodigy, which finds its own step size.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.00001,
                    round=False,
                    tooltip="0 takes the proven one: 0.0001 for adapters and 0.001 for concepts "
                    "with AdamW, 1 with Prodigy.",
                ),
                io.Float.Input(
                    "weight_decay",
                    default=0.01,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    round=False,
                    tooltip="Pull towards zero. Concepts are better off with 0.",
                ),
                io.Float.Input(
                    "d_coef",
                    default=1.0,
                    min=0.01,
                    max=100.0,
                    step=0.05,
                    tooltip="Prodigy only: factor on the step size it finds.",
                    advanced=True,
                ),
            ],
            outputs=[sockets.Optimizer.Output(display_name="optimizer")],
        )

    @classmethod
    def execute(
        cls, algorithm: str, learning_rate: float, weight_decay: float, d_coef: float
    ) -> io.NodeOutput:
        return io.NodeOutput(
            OptimizerConfig(
                algorithm=Algorithm(algorithm),
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                d_coef=d_coef,
            )
        )


class Objective(io.ComfyNode):
    """What a training step minimizes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_Objective",
            display_name="Objective",
            category="pivotal/training",
            description="What is minimized: weighting, noise, dropout and prior preservation.",
            search_aliases=["loss", "min snr", "prior preservation", "noise offset", "dreambooth"],
            inputs=[
                io.Float.Input(
                    "min_snr_gamma",
                    default=5.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    tooltip="Min-SNR weighting for noise- and v-prediction models, such as SD1.5 "
                    "and SDXL. 0 switches it off.",
                ),
                io.Float.Input(
                    "noise_offset",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Adds noise that is constant over a picture, for very dark or bright "
                    "results. 0.05 is usual.",
                ),
                io.Float.Input(
                    "caption_dropout",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the samples that train with an empty caption.",
                ),
                io.Combo.Input(
                    "prior",
                    options=Prior,
                    default=Prior.NONE,
                    tooltip="Keeps what the model knows of the class: from class pictures, or from "
                    "the untrained model's own prediction, which needs no pictures.",
                ),
                io.Float.Input(
                    "prior_weight",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Weight of the prior's loss beside the loss of the pictures.",
                ),
            ],
            outputs=[sockets.Objective.Output(display_name="objective")],
        )

    @classmethod
    def execute(
        cls,
        min_snr_gamma: float,
        noise_offset: float,
        caption_dropout: float,
        prior: str,
        prior_weight: float,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            ObjectiveConfig(
                min_snr_gamma=min_snr_gamma,
                noise_offset=noise_offset,
                caption_dropout=caption_dropout,
                prior=Prior(prior),
                prior_weight=prior_weight,
            )
        )


NODES = [Optimizer, Objective]
