"""The adapters that can be trained beside a frozen model."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...training.adapters.dora import Axis, DoraConfig
from ...training.adapters.loha import LoHaConfig
from ...training.adapters.lokr import LoKrConfig
from ...training.adapters.lora import LoraConfig
from ...training.adapters.oft import OftConfig
from ...training.adapters.trilora import Core, Sigma, TriLoraConfig
from .. import sockets
from ..inputs import alpha_input, filled, rank_input, target_inputs


class Lora(io.ComfyNode):
    """Low-rank adaptation."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_Lora",
            display_name="LoRA",
            category="pivotal/training",
            description="Low-rank adaptation of the q, k, v and output layers of all attention "
            "blocks, or of the layers that targets and patterns select.",
            search_aliases=["low rank", "adapter", "locon", "rslora", "lycoris"],
            inputs=[
                rank_input(
                    16,
                    "Rank of each layer's update: 4 to 16 for a face or an object, 16 to 64 for a "
                    "style.",
                ),
                alpha_input(16.0, "The update is scaled by alpha / rank."),
                *target_inputs(),
                io.Boolean.Input(
                    "rank_stabilized",
                    default=False,
                    tooltip="rsLoRA: scale by alpha / sqrt(rank), so that high ranks learn as fast "
                    "as low ones.",
                    advanced=True,
                    optional=True,
                ),
                io.Float.Input(
                    "dropout",
                    default=0.0,
                    min=0.0,
                    max=0.95,
                    step=0.05,
                    tooltip="Share of the values between the two factors that is dropped in each "
                    "batch. 0.1 is a common choice against overfitting.",
                    advanced=True,
                    optional=True,
                ),
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter")],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(filled(LoraConfig, inputs))


class TriLora(io.ComfyNode):
    """Three-matrix low-rank adaptation."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_TriLora",
            display_name="TriLoRA",
            category="pivotal/training",
            description="Low-rank adaptation with three matrices, the middle one initialized from "
            "the singular values of the frozen weight. Saved as an ordinary LoRA.",
            search_aliases=["svd lora", "three matrix", "adapter"],
            inputs=[
                io.Int.Input(
                    "rank", default=16, min=1, max=1024, tooltip="Rank r1 of the input-side matrix."
                ),
                io.Int.Input(
                    "rank_out",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Rank r2 of the output-side matrix. 0 uses the same value as rank. The "
                    "saved LoRA has the smaller of the two ranks.",
                ),
                io.Float.Input(
                    "alpha",
                    default=0.0,
                    min=0.0,
                    max=1024.0,
                    step=0.5,
                    tooltip="The update is scaled by alpha / the smaller rank. 0 gives a scale of "
                    "1.",
                ),
                io.Combo.Input(
                    "core",
                    options=Core,
                    default=Core.DIAGONAL,
                    tooltip="The middle matrix: one value per direction, or a full matrix.",
                ),
                io.Combo.Input(
                    "sigma",
                    options=Sigma,
                    default=Sigma.SCALED,
                    tooltip="Initial values of the middle matrix: the weight's largest singular "
                    "values as they are, divided by the largest, or ones.",
                ),
                io.Float.Input(
                    "orthogonality",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.001,
                    round=False,
                    tooltip="Weight of a penalty that keeps the outer matrices close to "
                    "orthogonal.",
                    advanced=True,
                ),
                *target_inputs(),
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter")],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(filled(TriLoraConfig, inputs))


class Dora(io.ComfyNode):
    """Low-rank adaptation of directions, with a trained length for each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_Dora",
            display_name="DoRA",
            category="pivotal/training",
            description="Weight-decomposed low-rank adaptation: a LoRA changes the direction of "
            "the weight's columns or rows, and their magnitudes are trained separately.",
            search_aliases=["weight decomposed", "lora", "adapter", "dora_scale", "lycoris"],
            inputs=[
                rank_input(16, "Rank of each layer's update."),
                alpha_input(16.0, "The directional update is scaled by alpha / rank."),
                io.Combo.Input(
                    "axis",
                    options=Axis,
                    default=Axis.INPUT,
                    tooltip="Which magnitudes are trained: those of the inputs (as in the paper; "
                    "every program reads these alike) or those of the outputs (as in peft and "
                    "diffusers).",
                ),
                *target_inputs(),
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter")],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(filled(DoraConfig, inputs))


class LoHa(io.ComfyNode):
    """A product of two low-rank changes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_LoHa",
            display_name="LoHa",
            category="pivotal/training",
            description="Element-wise product of two low-rank matrices: an update of rank up to "
            "the square of the rank, in a file the size of a LoRA of twice the rank.",
            search_aliases=["hadamard", "lycoris", "adapter", "fedpara"],
            inputs=[
                rank_input(8, "Rank of each of the two factors."),
                alpha_input(8.0, "The update is scaled by alpha / rank."),
                *target_inputs(),
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter")],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(filled(LoHaConfig, inputs))


class LoKr(io.ComfyNode):
    """A Kronecker product."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_LoKr",
            display_name="LoKr",
            category="pivotal/training",
            description="Kronecker product of a small and a larger matrix: a high-rank update in a "
            "small file.",
            search_aliases=["kronecker", "lycoris", "adapter", "factor"],
            inputs=[
                io.Int.Input(
                    "factor",
                    default=8,
                    min=-1,
                    max=1024,
                    tooltip="Size of the small matrix; a larger factor gives a smaller file. -1 "
                    "splits evenly, which gives the smallest file.",
                ),
                rank_input(
                    0,
                    "Rank of the larger matrix, for an even smaller file; 0 trains it in full.",
                    least=0,
                ),
                alpha_input(1.0, "With a rank, the update is scaled by alpha / rank."),
                *target_inputs(),
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter")],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(filled(LoKrConfig, inputs))


class Oft(io.ComfyNode):
    """Orthogonal finetuning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_Oft",
            display_name="OFT",
            category="pivotal/training",
            description="Orthogonal fine-tuning: rotates blocks of each layer's outputs, which "
            "preserves the angles between them.",
            search_aliases=["orthogonal", "lycoris", "adapter", "rotation", "diag-oft"],
            inputs=[
                rank_input(
                    16,
                    "Number of outputs that rotate together: the largest divisor of a layer's "
                    "output count up to this value.",
                ),
                alpha_input(
                    0.0, "Limit on how far each layer can rotate; 0 sets no limit.", least=0.0
                ),
                *target_inputs(),
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter")],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(filled(OftConfig, inputs))


NODES = [Lora, TriLora, Dora, LoHa, LoKr, Oft]
