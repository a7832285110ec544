"""Optimizer: how a part is updated."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...training.optimizers.choices import Algorithm, OptimizerConfig, Precision
from .. import sockets
from ..inputs import filled


class Optimizer(io.ComfyNode):
    """How the adapter's or the concepts' parameters are updated."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_Optimizer",
            display_name="Optimizer",
            category="pivotal/training",
            description="How one part of the training is updated. The adapter and the concepts "
            "each take their own optimizer.",
            search_aliases=[
                "adamw",
                "prodigy",
                "schedule free",
                "adafactor",
                "8bit",
                "learning rate",
            ],
            inputs=[
                io.Combo.Input(
                    "algorithm",
                    options=Algorithm,
                    default=Algorithm.ADAMW,
                    tooltip="AdamW is the proven choice. Prodigy finds its own step size. "
                    "Schedule-Free needs no schedule; 8-bit and Adafactor use less memory. "
                    "Schedule-Free and 8-bit need an extra package.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.00001,
                    round=False,
                    tooltip="0 uses a proven value: 0.0001 for adapters and 0.001 for concepts, 1 "
                    "with Prodigy.",
                ),
                io.Float.Input(
                    "weight_decay",
                    default=0.01,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    round=False,
                    tooltip="Pulls the parameters toward zero. 0 works better for concepts.",
                ),
                io.Float.Input(
                    "d_coef",
                    default=1.0,
                    min=0.01,
                    max=100.0,
                    step=0.05,
                    tooltip="Prodigy only: multiplies the step size it finds.",
                    advanced=True,
                ),
                io.Float.Input(
                    "growth_rate",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Prodigy only: maximum growth of the step size per step, such as 1.02. "
                    "0 sets no limit.",
                    advanced=True,
                    optional=True,
                ),
                io.Combo.Input(
                    "precision",
                    options=Precision,
                    default=Precision.FP32,
                    tooltip="Precision of the trained parameters. bf16 halves their memory and "
                    "that of their gradients; stochastic rounding preserves small updates.",
                    advanced=True,
                    optional=True,
                ),
            ],
            outputs=[sockets.Optimizer.Output(display_name="optimizer")],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(filled(OptimizerConfig, inputs))


NODES = [Optimizer]
