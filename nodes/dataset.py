"""Load Dataset: a folder of pictures and captions."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..training.dataset.folder import folder_fingerprint, read_folder
from . import sockets
from .host.folders import input_folder, input_folders


class LoadDataset(io.ComfyNode):
    """A folder of pictures with a caption file beside each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_LoadDataset",
            display_name="Load Dataset",
            category="pivotal/dataset",
            description="Reads a folder of pictures and the caption file beside each of them.",
            search_aliases=["training images", "image folder", "captions", "dreambooth dataset"],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=input_folders(),
                    tooltip="Folder of pictures inside ComfyUI's input folder.",
                ),
                io.String.Input(
                    "caption_extension",
                    default=".txt",
                    tooltip="Ending of the caption files: cat_01.png is described by cat_01.txt.",
                ),
                io.String.Input(
                    "default_caption",
                    default="",
                    tooltip="Caption of pictures without a caption file, such as: a photo of TOK",
                ),
                io.Int.Input(
                    "repeats",
                    default=1,
                    min=1,
                    max=1000,
                    tooltip="How often each picture is seen in one epoch.",
                ),
            ],
            outputs=[sockets.Dataset.Output(display_name="dataset")],
        )

    @classmethod
    def fingerprint_inputs(
        cls, folder: str, caption_extension: str, default_caption: str, repeats: int
    ) -> str:
        return folder_fingerprint(input_folder(folder), caption_extension)

    @classmethod
    def execute(
        cls, folder: str, caption_extension: str, default_caption: str, repeats: int
    ) -> io.NodeOutput:
        dataset = read_folder(
            input_folder(folder), caption_extension=caption_extension, repeats=repeats
        )
        records = [
            record if record.caption else replace(record, caption=default_caption.strip())
            for record in dataset.records
        ]
        return io.NodeOutput(replace(dataset, records=tuple(records)))


NODES = [LoadDataset]
