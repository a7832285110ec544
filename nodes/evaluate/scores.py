"""CLIP Score and Frechet Distance: pictures measured by a vision model."""

from __future__ import annotations

from enum import Enum
from typing import Any

from comfy_api.latest import io

from ..host.evaluate.scores import distance_of_sets, score_against_pictures, score_against_texts


class Against(str, Enum):
    """What pictures are compared with."""

    PROMPTS = "prompts (CLIP-T)"
    PICTURES = "reference pictures (CLIP-I)"


class ClipScore(io.ComfyNode):
    """Likeness of pictures to their prompts, or to reference pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_ClipScore",
            display_name="CLIP Score",
            category="pivotal/evaluate",
            description="How well pictures fit their prompts, or how alike they are to reference "
            "pictures, by the cosine of CLIP embeddings.",
            search_aliases=["clipscore", "clip-t", "clip-i", "prompt fidelity", "metric"],
            is_output_node=True,
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="A CLIP vision model."),
                io.Image.Input("images", tooltip="The pictures to score."),
                io.Combo.Input(
                    "against",
                    options=Against,
                    default=Against.PROMPTS,
                    tooltip="prompts need clip, reference pictures need references.",
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="One line for all pictures, or a line for each. Write what CLIP knows, "
                    "such as dog, not the name of a concept.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder of the same CLIP as clip_vision, from Load CLIP.",
                ),
                io.Image.Input(
                    "references", optional=True, tooltip="Pictures of what should be shown."
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="score",
                    tooltip="Mean of 2.5 max(cosine, 0), as CLIPScore is defined.",
                ),
                io.Float.Output(display_name="cosine", tooltip="Mean cosine times 100."),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip_vision: Any,
        images: Any,
        against: str,
        prompts: str,
        clip: Any = None,
        references: Any = None,
    ) -> io.NodeOutput:
        if Against(against) is Against.PROMPTS:
            found, report = score_against_texts(clip_vision, images, clip, prompts.splitlines())
        else:
            found, report = score_against_pictures(clip_vision, images, references)
        return io.NodeOutput(found.score, 100 * found.cosine, report, ui={"text": (report,)})


class FrechetDistance(io.ComfyNode):
    """Distance of a set of pictures from reference pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_FrechetDistance",
            display_name="Frechet Distance",
            category="pivotal/evaluate",
            description="How far a set of pictures is from reference pictures, by the Frechet "
            "distance of their vision features, and as a share of the base model's distance.",
            search_aliases=["fid", "fréchet", "normalized fid", "metric"],
            is_output_node=True,
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="The model that makes the features."),
                io.Image.Input("images", tooltip="Pictures of the trained model, 2 or more."),
                io.Image.Input("references", tooltip="Pictures it was trained on, 2 or more."),
                io.Image.Input(
                    "base_images",
                    optional=True,
                    tooltip="Pictures of the base model, from the same prompts and seeds.",
                ),
            ],
            outputs=[
                io.Float.Output(display_name="distance"),
                io.Float.Output(
                    display_name="normalized",
                    tooltip="The distance divided by the base model's: below 1 is closer than the "
                    "base. NaN without base_images.",
                ),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def execute(
        cls, clip_vision: Any, images: Any, references: Any, base_images: Any = None
    ) -> io.NodeOutput:
        found = distance_of_sets(clip_vision, images, references, base_images)
        shown = {"text": (found.report,)}
        return io.NodeOutput(found.distance, found.normalized, found.report, ui=shown)


NODES = [ClipScore, FrechetDistance]
