"""The adapters that can be trained beside a frozen model."""

from __future__ import annotations

from comfy_api.latest import io

from ...training.adapters.dora import Axis, DoraConfig
from ...training.adapters.loha import LoHaConfig
from ...training.adapters.lokr import LoKrConfig
from ...training.adapters.lora import LoraConfig
from ...training.adapters.oft import OftConfig
from ...training.adapters.targets import Targets
from ...training.adapters.trilora import Core, Sigma, TriLoraConfig
from .. import sockets
from ..inputs import alpha_input, rank_input, target_inputs


class Lora(io.ComfyNode):
    """Low-rank adaptation."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_Lora",
            display_name="LoRA",
            category="pivotal/training",
            description="Low-rank adaptation of the q, k, v and output layers of all attention, "
            "or of what targets and patterns choose.",
            search_aliases=["low rank", "adapter", "train lora", "locon", "rslora", "lycoris"],
            inputs=[
                rank_input(
                    16,
                    "Rank of each layer's change: 4 to 16 for a face or a thing, "
                    "16 to 64 for a style.",
                ),
                alpha_input(16.0, "The change is scaled by alpha / rank."),
                *target_inputs(),
                io.Boolean.Input(
                    "rank_stabilized",
                    default=False,
                    tooltip="rsLoRA: scale by alpha / the root of the rank, so that large ranks "
                    "learn as fast as small ones.",
                    advanced=True,
                    optional=True,
                ),
                io.Float.Input(
                    "dropout",
                    default=0.0,
                    min=0.0,
                    max=0.95,
                    step=0.05,
                    tooltip="Share of the numbers between the two factors that is dropped in each "
                    "batch. 0.1 is usual against overfitting.",
                    advanced=True,
                    optional=True,
                ),
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter")],
        )

    @classmethod
    def execute(
        cls,
        rank: int,
        alpha: float,
        targets: str = Targets.ATTENTION,
        patterns: str = "",
        text_encoder: bool = False,
        text_rate: float = 0.5,
        rank_stabilized: bool = False,
        dropout: float = 0.0,
    ) -> io.NodeOutput:
        config = LoraConfig(
            rank=rank,
            alpha=alpha,
            targets=Targets(targets),
            patterns=patterns,
            text_encoder=text_encoder,
            text_rate=text_rate,
            rank_stabilized=rank_stabilized,
            dropout=dropout,
        )
        return io.NodeOutput(config)


class TriLora(io.ComfyNode):
    """Three-matrix low-rank adaptation."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_TriLora",
            display_name="TriLoRA",
            category="pivotal/training",
            description="Low-rank adaptation in three matrices, the middle one started from the "
            "singular values of the frozen weight. Saved as an ordinary LoRA.",
            search_aliases=["svd lora", "three matrix", "adapter", "train lora"],
            inputs=[
                io.Int.Input(
                    "rank", default=16, min=1, max=1024, tooltip="Rank of the inner matrix, r1."
                ),
                io.Int.Input(
                    "rank_out",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Rank of the outer matrix, r2. 0 takes the same as rank. The saved "
                    "LoRA has the smaller of the two.",
                ),
                io.Float.Input(
                    "alpha",
                    default=0.0,
                    min=0.0,
                    max=1024.0,
                    step=0.5,
                    tooltip="The change is scaled by alpha / the smaller rank. 0 is a scale of 1.",
                ),
                io.Combo.Input(
                    "core",
                    options=Core,
                    default=Core.DIAGONAL,
                    tooltip="The middle matrix: one value for each direction, or a full matrix.",
                ),
                io.Combo.Input(
                    "sigma",
                    options=Sigma,
                    default=Sigma.SCALED,
                    tooltip="What the middle matrix starts from: the weight's largest singular "
                    "values as they are, divided by the largest, or ones.",
                ),
                io.Float.Input(
                    "orthogonality",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.001,
                    round=False,
                    tooltip="Weight of a penalty that keeps the outer matrices near orthogonal.",
                    advanced=True,
                ),
                *target_inputs(),
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter")],
        )

    @classmethod
    def execute(
        cls,
        rank: int,
        rank_out: int,
        alpha: float,
        core: str,
        sigma: str,
        orthogonality: float,
        targets: str = Targets.ATTENTION,
        patterns: str = "",
        text_encoder: bool = False,
        text_rate: float = 0.5,
    ) -> io.NodeOutput:
        config = TriLoraConfig(
            rank=rank,
            rank_out=rank_out,
            alpha=alpha,
            core=Core(core),
            sigma=Sigma(sigma),
            orthogonality=orthogonality,
            targets=Targets(targets),
            patterns=patterns,
            text_encoder=text_encoder,
            text_rate=text_rate,
        )
        return io.NodeOutput(config)


class Dora(io.ComfyNode):
    """Low-rank adaptation of directions, with a trained length for each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_Dora",
            display_name="DoRA",
            category="pivotal/training",
            description="Weight-decomposed low-rank adaptation: a LoRA turns the weight's columns "
            "or rows, and their lengths train by themselves.",
            search_aliases=["weight decomposed", "lora", "adapter", "dora_scale", "lycoris"],
            inputs=[
                rank_input(16, "Rank of each layer's change."),
                alpha_input(16.0, "The change of direction is scaled by alpha / rank."),
                io.Combo.Input(
                    "axis",
                    options=Axis,
                    default=Axis.INPUT,
                    tooltip="Whose lengths train: those of the inputs (the paper; read the same "
                    "everywhere) or of the outputs (as peft and diffusers do).",
                ),
                *target_inputs(),
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter")],
        )

    @classmethod
    def execute(
        cls,
        rank: int,
        alpha: float,
        axis: str,
        targets: str = Targets.ATTENTION,
        patterns: str = "",
        text_encoder: bool = False,
        text_rate: float = 0.5,
    ) -> io.NodeOutput:
        config = DoraConfig(
            rank=rank,
            alpha=alpha,
            axis=Axis(axis),
            targets=Targets(targets),
            patterns=patterns,
            text_encoder=text_encoder,
            text_rate=text_rate,
        )
        return io.NodeOutput(config)


class LoHa(io.ComfyNode):
    """A product of two low-rank changes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_LoHa",
            display_name="LoHa",
            category="pivotal/training",
            description="The product, number by number, of two low-rank matrices: a change of rank "
            "up to the square of the rank in the file of a LoRA of twice the rank.",
            search_aliases=["hadamard", "lycoris", "adapter", "fedpara", "train lora"],
            inputs=[
                rank_input(8, "Rank of each of the two factors."),
                alpha_input(8.0, "The change is scaled by alpha / rank."),
                *target_inputs(),
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter")],
        )

    @classmethod
    def execute(
        cls,
        rank: int,
        alpha: float,
        targets: str = Targets.ATTENTION,
        patterns: str = "",
        text_encoder: bool = False,
        text_rate: float = 0.5,
    ) -> io.NodeOutput:
        config = LoHaConfig(
            rank=rank,
            alpha=alpha,
            targets=Targets(targets),
            patterns=patterns,
            text_encoder=text_encoder,
            text_rate=text_rate,
        )
        return io.NodeOutput(config)


class LoKr(io.ComfyNode):
    """A Kronecker product."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_LoKr",
            display_name="LoKr",
            category="pivotal/training",
            description="A Kronecker product of a small and a larger matrix: a change of high rank "
            "in a small file.",
            search_aliases=["kronecker", "lycoris", "adapter", "train lora", "factor"],
            inputs=[
                io.Int.Input(
                    "factor",
                    default=8,
                    min=-1,
                    max=1024,
                    tooltip="Size of the small matrix: a larger factor makes a smaller file. -1 "
                    "splits evenly, which is the smallest.",
                ),
                rank_input(
                    0,
                    "Rank of the larger matrix, which makes the file smaller still; 0 trains "
                    "it whole.",
                    least=0,
                ),
                alpha_input(1.0, "With a rank, the change is scaled by alpha / rank."),
                *target_inputs(),
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter")],
        )

    @classmethod
    def execute(
        cls,
        factor: int,
        rank: int,
        alpha: float,
        targets: str = Targets.ATTENTION,
        patterns: str = "",
        text_encoder: bool = False,
        text_rate: float = 0.5,
    ) -> io.NodeOutput:
        config = LoKrConfig(
            factor=factor,
            rank=rank,
            alpha=alpha,
            targets=Targets(targets),
            patterns=patterns,
            text_encoder=text_encoder,
            text_rate=text_rate,
        )
        return io.NodeOutput(config)


class Oft(io.ComfyNode):
    """Orthogonal finetuning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_Oft",
            display_name="OFT",
            category="pivotal/training",
            description="Orthogonal finetuning: blocks of a layer's outputs are rotated, which "
            "keeps the angles between them.",
            search_aliases=["orthogonal", "lycoris", "adapter", "rotation", "diag-oft"],
            inputs=[
                rank_input(
                    16,
                    "Outputs that turn together: the largest divisor of a layer's outputs "
                    "up to this.",
                ),
                alpha_input(0.0, "Cap on how far each layer can turn; 0 is none.", least=0.0),
                *target_inputs(),
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter")],
        )

    @classmethod
    def execute(
        cls,
        rank: int,
        alpha: float,
        targets: str = Targets.ATTENTION,
        patterns: str = "",
        text_encoder: bool = False,
        text_rate: float = 0.5,
    ) -> io.NodeOutput:
        config = OftConfig(
            rank=rank,
            alpha=alpha,
            targets=Targets(targets),
            patterns=patterns,
            text_encoder=text_encoder,
            text_rate=text_rate,
        )
        return io.NodeOutput(config)


NODES = [Lora, TriLora, Dora, LoHa, LoKr, Oft]
