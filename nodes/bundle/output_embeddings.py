"""Encode with Output Embeddings: CLIP Text Encode for names that act behind the text encoder."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..host.text.output_embeddings import encode_with_outputs


class EncodeWithOutputEmbeddings(io.ComfyNode):
    """Encodes a prompt whose names may be OneTrainer's output embeddings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_EncodeWithOutputEmbeddings",
            display_name="Encode with Output Embeddings",
            category="pivotal/bundles",
            description="CLIP Text Encode for output embeddings, as OneTrainer trains them: they "
            "replace the text encoder's output for a name.",
            search_aliases=["clip text encode", "onetrainer", "output embedding", "prompt"],
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt, with embedding:name for each name.",
                ),
                io.Clip.Input(
                    "clip",
                    tooltip="The CLIP that has the names, from Load Bundle or Train Concepts.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="conditioning"),
                io.Int.Output(
                    display_name="replaced",
                    tooltip="Number of rows replaced; 0 means that the prompt used no output "
                    "embedding.",
                ),
            ],
        )

    @classmethod
    def execute(cls, text: str, clip: Any) -> io.NodeOutput:
        return io.NodeOutput(*encode_with_outputs(clip, text))


NODES = [EncodeWithOutputEmbeddings]
