"""Dataset to Lists, Dataset from Lists: between datasets and the host's own lists."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .. import sockets
from ..host.dataset.lists import PixelSize, from_lists, to_lists


class DatasetToLists(io.ComfyNode):
    """Pictures, masks and captions as lists for other nodes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_DatasetToLists",
            display_name="Dataset to Lists",
            category="pivotal/dataset",
            description="Outputs images, masks and captions as lists, in the same order.",
            search_aliases=["dataset images", "unpack dataset", "export dataset"],
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="Dataset to convert."),
                io.Combo.Input(
                    "size",
                    options=PixelSize,
                    default=PixelSize.ORIGINAL,
                    tooltip='"original" is for detectors; "trained" gives exactly the pixels used '
                    "for training. The list is held in memory: 12 bytes per pixel.",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=64,
                    max=4096,
                    step=64,
                    tooltip='Resolution when size is "trained", unless Prepare Images has set it.',
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", is_output_list=True),
                io.Mask.Output(display_name="masks", is_output_list=True),
                io.String.Output(display_name="captions", is_output_list=True),
                io.String.Output(display_name="names", is_output_list=True),
            ],
        )

    @classmethod
    def execute(cls, dataset: Any, size: str, resolution: int) -> io.NodeOutput:
        return io.NodeOutput(*to_lists(dataset, PixelSize(size), resolution))


class DatasetFromLists(io.ComfyNode):
    """A dataset of pictures that the graph made."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_DatasetFromLists",
            display_name="Dataset from Lists",
            category="pivotal/dataset",
            description="Makes a dataset from images and captions in the graph. The images are "
            "saved as PNG in ComfyUI's user folder.",
            search_aliases=["images to dataset", "create dataset", "batch to dataset"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="Images, as a list, a batch or both."),
                io.String.Input(
                    "name", default="pictures", tooltip="Name of the dataset in reports."
                ),
                io.String.Input(
                    "captions",
                    optional=True,
                    force_input=True,
                    tooltip="One caption per image, or one for all.",
                ),
                io.Mask.Input(
                    "masks", optional=True, tooltip="One mask per image, or one for all."
                ),
            ],
            outputs=[sockets.Dataset.Output(display_name="dataset")],
        )

    @classmethod
    def execute(
        cls, images: Any, name: Any, captions: Any = None, masks: Any = None
    ) -> io.NodeOutput:
        return io.NodeOutput(from_lists(images, name[0], captions or [], masks or []))


NODES = [DatasetToLists, DatasetFromLists]
