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
            description="Measures how well images match their prompts, or how similar they are to "
            "reference images, by the cosine similarity of CLIP embeddings.",
            search_aliases=["clipscore", "clip-t", "clip-i", "prompt fidelity", "metric"],
            is_output_node=True,
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="A CLIP vision model."),
                io.Image.Input("images", tooltip="The images to score."),
                io.Combo.Input(
                    "against",
                    options=Against,
                    default=Against.PROMPTS,
                    tooltip='"prompts" requires clip; "reference pictures" requires references.',
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="One line for all images, or one line per image. Use words that CLIP "
                    "knows, such as dog, not the name of a concept.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The text encoder of the same CLIP as clip_vision, from Load CLIP.",
                ),
                io.Image.Input(
                    "references", optional=True, tooltip="Reference images to compare with."
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="score",
                    tooltip="Mean of 2.5 max(cosine, 0), the definition of CLIPScore.",
                ),
                io.Float.Output(display_name="cosine", tooltip="Mean cosine similarity times 100."),
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
            description="Measures how far a set of images is from reference images, by the Frechet "
            "distance of their vision features, also as a share of the base model's distance.",
            search_aliases=["fid", "fréchet", "normalized fid", "metric"],
            is_output_node=True,
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="The model that extracts the features."),
                io.Image.Input("images", tooltip="Images from the trained model, 2 or more."),
                io.Image.Input("references", tooltip="Images it was trained on, 2 or more."),
                io.Image.Input(
                    "base_images",
                    optional=True,
                    tooltip="Images from the base model, with the same prompts and seeds.",
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
