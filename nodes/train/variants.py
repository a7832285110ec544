"""The adapters that are not low-rank sums: LoHa, LoKr and OFT."""

from __future__ import annotations

from comfy_api.latest import io

from ...training.adapters.loha import LoHaConfig
from ...training.adapters.lokr import LoKrConfig
from ...training.adapters.oft import OftConfig
from ...training.adapters.targets import Targets
from .. import sockets
from ..adapter_inputs import alpha_input, rank_input, target_inputs


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


NODES = [LoHa, LoKr, Oft]
