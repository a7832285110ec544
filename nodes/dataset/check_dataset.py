"""Check Dataset, Caption Statistics, Prepare Images."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ...training.dataset.captions.statistics import (
    caption_statistics,
    length_plot,
    statistics_report,
)
from ...training.dataset.checks.verdict import Gate, examine
from ...training.dataset.pictures.crops import histogram, plan_crops
from ...training.dataset.pictures.sheets import contact_sheet, crop_sheet
from ...training.dataset.records import Anchor, Framing
from .. import sockets
from ..host.dataset.survey import (
    features_of,
    measure_all,
    placeholders_of,
    token_counter,
    with_boxes,
    with_masks,
)
from ..host.events import show_text
from ..host.images import as_image
from ..inputs import filled


class CheckDataset(io.ComfyNode):
    """What is wrong with a dataset, before it costs an hour."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_CheckDataset",
            display_name="Check Dataset",
            category="pivotal/dataset",
            description="Finds damaged, duplicate, blurred, small and badly captioned images and "
            "reports whether the dataset is ready for training.",
            search_aliases=[
                "dataset doctor",
                "find duplicates",
                "blurry images",
                "validate dataset",
            ],
            is_output_node=True,
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="Images to check."),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=64,
                    max=4096,
                    step=64,
                    tooltip="Training resolution, unless Prepare Images has set it.",
                ),
                io.Boolean.Input(
                    "stop_when_not_ready",
                    default=False,
                    tooltip="Stop here and list the reasons, so that nothing is trained on a "
                    "faulty dataset.",
                ),
                sockets.Concepts.Input(
                    "concepts",
                    optional=True,
                    tooltip="Concepts whose placeholders must appear in the captions.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Counts tokens exactly instead of estimating them.",
                ),
                io.BoundingBox.Input(
                    "bboxes",
                    optional=True,
                    force_input=True,
                    tooltip="Faces or subjects in each image, from a detector that received the "
                    "images of Dataset to Lists at their original size.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Measures how similar the images are in content, for one line of the "
                    "report. Its features are cached for the next check.",
                ),
            ],
            is_input_list=True,
            outputs=[
                sockets.Dataset.Output(display_name="dataset"),
                io.String.Output(display_name="report"),
                io.String.Output(display_name="gate"),
                io.Image.Output(display_name="contact_sheet"),
            ],
        )

    @classmethod
    def execute(
        cls,
        dataset: Any,
        resolution: Any,
        stop_when_not_ready: Any,
        concepts: Any = ((),),
        clip: Any = (None,),
        bboxes: Any = None,
        clip_vision: Any = (None,),
    ) -> io.NodeOutput:
        # Boxes are a list, one entry a picture, so everything comes as one.
        dataset = with_boxes(dataset[0], bboxes)
        measures = measure_all(dataset)
        health = examine(
            dataset,
            measures,
            Framing(resolution=resolution[0]),
            placeholders_of(dataset, concepts[0]),
            token_counter(clip[0]),
            features_of(dataset, measures, clip_vision[0]),
        )
        if stop_when_not_ready[0] and health.gate is Gate.NOT_READY:
            raise ValueError(f"{dataset.name} is {health.report}")
        sheet = as_image(contact_sheet(health.dataset.records))
        return io.NodeOutput(
            health.dataset,
            health.report,
            health.gate.value,
            sheet,
            ui={**ui.PreviewImage(sheet, cls=cls).as_dict(), "text": (show_text(health.report),)},
        )


class CaptionStatistics(io.ComfyNode):
    """Which phrases the captions share."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_CaptionStatistics",
            display_name="Caption Statistics",
            category="pivotal/dataset",
            description="Counts how many captions contain each phrase. What appears in nearly all "
            "of them is learned as part of the concept.",
            search_aliases=["tag frequency", "tag count", "caption stats", "word count"],
            is_output_node=True,
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="Captions to analyze."),
                sockets.Concepts.Input(
                    "concepts",
                    optional=True,
                    tooltip="Concepts whose placeholders are counted separately.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="table"),
                io.String.Output(display_name="fused"),
                io.Image.Output(display_name="lengths"),
            ],
        )

    @classmethod
    def execute(cls, dataset: Any, concepts: Any = ()) -> io.NodeOutput:
        placeholders = placeholders_of(dataset, concepts)
        statistics = caption_statistics(dataset.records, placeholders)
        text = statistics_report(statistics)
        fused = ", ".join(phrase.text for phrase in statistics.fused)
        plot = as_image(length_plot(statistics.words))
        return io.NodeOutput(text, fused, plot, ui={"text": (show_text(text),)})


class PrepareImages(io.ComfyNode):
    """How pictures are cropped, and where the loss counts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_PrepareImages",
            display_name="Prepare Images",
            category="pivotal/dataset",
            description="Sets buckets, crops and masks, and shows what will be trained on.",
            search_aliases=[
                "aspect ratio bucketing",
                "crop dataset",
                "face crop",
                "masked training",
            ],
            is_output_node=True,
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="Images to prepare."),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=64,
                    max=4096,
                    step=64,
                    tooltip="Images are resized to the area of a square with this side. Overrides "
                    "the resolution of Train Concepts.",
                ),
                io.Int.Input(
                    "bucket_step",
                    default=64,
                    min=8,
                    max=256,
                    step=8,
                    tooltip="Bucket sides are multiples of this: 64 for SD and SDXL, 16 or 32 for "
                    "newer models.",
                ),
                io.Int.Input(
                    "min_side",
                    default=0,
                    min=0,
                    max=4096,
                    step=8,
                    tooltip="Shortest side of a bucket; 0 uses half the resolution.",
                ),
                io.Int.Input(
                    "max_side",
                    default=0,
                    min=0,
                    max=8192,
                    step=8,
                    tooltip="Longest side of a bucket; 0 uses twice the resolution.",
                ),
                io.Boolean.Input(
                    "upscale",
                    default=True,
                    tooltip="Enlarge small images. When off, they get smaller buckets of their "
                    "own.",
                ),
                io.Int.Input(
                    "min_pictures",
                    default=1,
                    min=1,
                    max=1000,
                    tooltip="Buckets with fewer images are merged into the nearest one. The batch "
                    "size is a good value.",
                ),
                io.Combo.Input(
                    "anchor",
                    options=Anchor,
                    default=Anchor.CENTER,
                    tooltip="What a crop keeps: the center, the top, the largest of the bboxes, "
                    "the white part of the mask, or a random position each time.",
                ),
                io.Int.Input(
                    "views",
                    default=8,
                    min=1,
                    max=64,
                    tooltip='Number of crops per image to choose from when anchor is "random".',
                ),
                io.Float.Input(
                    "mask_floor",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Weight of the loss where a mask is black, so that the background is "
                    "not forgotten.",
                ),
                io.BoundingBox.Input(
                    "bboxes",
                    optional=True,
                    force_input=True,
                    tooltip="Faces or subjects in each image, from a detector that received the "
                    "images of Dataset to Lists at their original size.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="A mask for each image, from nodes such as Remove Background. Replaces "
                    "the masks found next to the images.",
                ),
            ],
            is_input_list=True,
            outputs=[
                sockets.Dataset.Output(display_name="dataset"),
                io.String.Output(display_name="buckets"),
                io.Image.Output(display_name="crops"),
            ],
        )

    @classmethod
    def execute(
        cls, dataset: Any, bboxes: Any = None, masks: Any = None, **inputs: Any
    ) -> io.NodeOutput:
        # Boxes and masks are lists, so everything comes as one.
        framing = filled(Framing, {name: value[0] for name, value in inputs.items()})
        prepared = with_masks(with_boxes(dataset[0], bboxes), masks, framing)
        crops = [each[0] for each in plan_crops(prepared.records, framing)]
        sheet = as_image(crop_sheet(prepared.records, crops))
        text = histogram(crops)
        return io.NodeOutput(
            prepared,
            text,
            sheet,
            ui={**ui.PreviewImage(sheet, cls=cls).as_dict(), "text": (show_text(text),)},
        )


NODES = [CheckDataset, CaptionStatistics, PrepareImages]
