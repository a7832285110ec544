"""The adapters that can be trained beside a frozen model."""

from __future__ import annotations

from comfy_api.latest import io

from ..training.adapters.lora import LoraConfig
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


NODES = [Lora]
