"""The adapters that can be trained beside a frozen model."""

from __future__ import annotations

from comfy_api.latest import io

from ..training.adapters.lora import LoraConfig
from ..training.adapters.trilora import Core, Sigma, TriLoraConfig
from . import sockets


class Lora(io.ComfyNode):
    """Low-rank adaptation of the attention layers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_Lora",
            display_name="LoRA",
            category="pivotal/training",
            description="Low-rank adaptation of the q, k, v and output layers of all attention.",
            search_aliases=["low rank", "adapter", "train lora", "rank", "alpha"],
            inputs=[
                io.Int.Input(
                    "rank",
                    default=16,
                    min=1,
                    max=1024,
                    tooltip="Rank of each layer's change: 4 to 16 for a face or a thing, "
                    "16 to 64 for a style.",
                ),
                io.Float.Input(
                    "alpha",
                    default=16.0,
                    min=0.01,
                    max=1024.0,
                    step=0.5,
                    tooltip="The change is scaled by alpha / rank.",
                ),
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter")],
        )

    @classmethod
    def execute(cls, rank: int, alpha: float) -> io.NodeOutput:
        return io.NodeOutput(LoraConfig(rank=rank, alpha=alpha))


class TriLora(io.ComfyNode):
    """Three-matrix low-rank adaptation of the attention layers."""

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
            ],
            outputs=[sockets.Adapter.Output(display_name="adapter")],
        )

    @classmethod
    def execute(
        cls, rank: int, rank_out: int, alpha: float, core: str, sigma: str, orthogonality: float
    ) -> io.NodeOutput:
        config = TriLoraConfig(
            rank=rank,
            rank_out=rank_out,
            alpha=alpha,
            core=Core(core),
            sigma=Sigma(sigma),
            orthogonality=orthogonality,
        )
        return io.NodeOutput(config)


NODES = [Lora, TriLora]
