"""Concept: one named thing to learn; several are chained."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...training.words.concepts import Concept as TrainedConcept
from .. import sockets
from ..inputs import filled


class Concept(io.ComfyNode):
    """A placeholder in the captions that gets token vectors of its own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_Concept",
            display_name="Concept",
            category="pivotal/training",
            description="A word in the captions that is learned as new token vectors.",
            search_aliases=[
                "textual inversion",
                "embedding",
                "trigger word",
                "pivotal tuning",
                "dreamartist",
            ],
            inputs=[
                io.String.Input(
                    "placeholder",
                    default="TOK",
                    tooltip="Word that stands for the concept in the captions.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="Name in the bundle, later typed as embedding:name. If empty, the "
                    "placeholder is used.",
                ),
                io.Int.Input(
                    "vectors",
                    default=2,
                    min=1,
                    max=64,
                    tooltip="Number of token vectors per text encoder. More vectors capture more "
                    "detail and take up more of the prompt.",
                ),
                io.String.Input(
                    "initial",
                    default="",
                    tooltip="Words that the vectors start from, such as: dog. If empty, they start "
                    "from noise.",
                ),
                io.String.Input(
                    "class_word",
                    default="",
                    tooltip="Class of the concept, such as dog, used for prior preservation. If "
                    "empty, the initial words are used.",
                ),
                io.Float.Input(
                    "pivot",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of the steps after which the vectors are frozen and only the "
                    "adapter trains: 0 never trains them, 1 never freezes them.",
                ),
                io.Int.Input(
                    "negative_vectors",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Number of vectors of a second embedding, name-neg, for the negative "
                    "prompt. It is trained on the guided prediction, so steps take twice as long "
                    "until the pivot. 0 turns it off.",
                    advanced=True,
                    optional=True,
                ),
                sockets.Concepts.Input(
                    "concepts", optional=True, tooltip="Other concepts to learn in the same run."
                ),
                io.Boolean.Input(
                    "output",
                    default=False,
                    tooltip="Train an output embedding, as OneTrainer does: its vectors replace "
                    "what the text encoder returns, not what it reads. To sample with it, use the "
                    "node Encode with Output Embeddings. Works with SD1.x, SD2, SDXL, SD3 and a "
                    "T5 on its own.",
                    advanced=True,
                    optional=True,
                ),
            ],
            outputs=[sockets.Concepts.Output(display_name="concepts")],
        )

    @classmethod
    def execute(cls, concepts: tuple[TrainedConcept, ...] = (), **inputs: Any) -> io.NodeOutput:
        stripped = {
            name: value.strip() if isinstance(value, str) else value
            for name, value in inputs.items()
        }
        return io.NodeOutput((*concepts, filled(TrainedConcept, stripped)))


NODES = [Concept]
