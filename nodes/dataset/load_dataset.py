"""Load Dataset, Merge Datasets, Filter Dataset, Label Dataset."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ...training.dataset.captions.label import Kind, Label, label_dataset
from ...training.dataset.folder.read import (
    FolderOptions,
    check_listed,
    folder_fingerprint,
    read_folder,
)
from ...training.dataset.folder.scan import Subfolders
from ...training.dataset.merge import describe, merge_datasets, split_dataset
from ...training.dataset.records import Transparency
from .. import sockets
from ..host.events import show_text
from ..host.folders import dataset_folder, dataset_folders
from ..host.roots import line_about
from ..inputs import filled, sentence_of

MASKS = ["beside the pictures", "none"]


class LoadDataset(io.ComfyNode):
    """A folder of pictures with a caption file beside each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_LoadDataset",
            display_name="Load Dataset",
            category="pivotal/dataset",
            description="Loads a folder of images with their captions and masks.",
            search_aliases=[
                "training images",
                "image folder",
                "captions",
                "dataset for dreambooth",
            ],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=dataset_folders(),
                    tooltip="Folder of images inside ComfyUI's input or datasets folder.",
                ),
                io.String.Input(
                    "caption_extension",
                    default=".txt",
                    tooltip="Extension of the caption files: cat_01.txt describes cat_01.png. If "
                    "that file is missing, .txt, .caption, metadata.jsonl, metadata.csv and "
                    "kohya's JSON are tried.",
                ),
                io.String.Input(
                    "default_caption",
                    default="",
                    tooltip="Caption for images without a caption file, such as: a photo of TOK",
                ),
                io.Int.Input(
                    "repeats",
                    default=1,
                    min=1,
                    max=1000,
                    tooltip="How many times each image is used per epoch.",
                ),
                io.String.Input(
                    "path",
                    default="",
                    tooltip="Absolute path of any other folder, used instead of the one above. "
                    "Nothing is ever written next to images outside ComfyUI's own folders.",
                    optional=True,
                ),
                io.Combo.Input(
                    "subfolders",
                    options=Subfolders,
                    default=Subfolders.CONCEPTS,
                    tooltip="Which subfolders to read as well: those named like 10_dog (repeats "
                    "and concept), none, or all.",
                    optional=True,
                ),
                io.Combo.Input(
                    "transparency",
                    options=Transparency,
                    default=Transparency.WHITE,
                    tooltip='Background for transparent areas. "mask" uses white and reduces the '
                    "loss there.",
                    optional=True,
                ),
                io.Combo.Input(
                    "masks",
                    options=MASKS,
                    default=MASKS[0],
                    tooltip="Masks are read from cat_01-masklabel.png, cat_01_mask.png or a folder "
                    "named masks. The loss counts where a mask is white.",
                    optional=True,
                ),
            ],
            outputs=[
                sockets.Dataset.Output(display_name="dataset"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None = None, path: str | None = "") -> bool | str:
        if folder is None or path is None:  # linked: known when the graph runs
            return True
        return sentence_of(dataset_folder, folder, path)

    @classmethod
    def fingerprint_inputs(
        cls,
        folder: str,
        caption_extension: str,
        path: str = "",
        subfolders: str = Subfolders.CONCEPTS.value,
        **_: Any,
    ) -> str:
        found = dataset_folder(folder, path)
        return folder_fingerprint(found, caption_extension, Subfolders(subfolders))

    @classmethod
    def execute(
        cls, folder: str, path: str = "", masks: str = MASKS[0], **inputs: Any
    ) -> io.NodeOutput:
        options = filled(FolderOptions, {**inputs, "masks": masks == MASKS[0]})
        found, line = dataset_folder(folder, path), ""
        if path.strip() and (line := line_about(found, path.strip())):
            check_listed(options.caption_extension)
        dataset = read_folder(found, options=options)
        if line:
            dataset = replace(dataset, notes=(line, *dataset.notes))
        return io.NodeOutput(dataset, show_text(describe(dataset)))


class MergeDatasets(io.ComfyNode):
    """Pictures of several folders in one run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_MergeDatasets",
            display_name="Merge Datasets",
            category="pivotal/dataset",
            description="Combines several datasets into one, for example one dataset per concept.",
            search_aliases=["join datasets", "several concepts", "combine datasets"],
            inputs=[
                sockets.Dataset.Input("dataset_1", tooltip="The first dataset."),
                *[
                    sockets.Dataset.Input(
                        f"dataset_{number}",
                        optional=True,
                        tooltip="Appended after the datasets above.",
                    )
                    for number in range(2, 7)
                ],
            ],
            outputs=[
                sockets.Dataset.Output(display_name="dataset"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def execute(cls, dataset_1: Any, **others: Any) -> io.NodeOutput:
        merged = merge_datasets(
            [dataset_1, *(others[name] for name in sorted(others) if others[name])]
        )
        return io.NodeOutput(merged, show_text(describe(merged)))


class FilterDataset(io.ComfyNode):
    """Pictures that a query picks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_FilterDataset",
            display_name="Filter Dataset",
            category="pivotal/dataset",
            description="Splits a dataset into the images that match a query and the rest.",
            search_aliases=["select images", "query dataset", "split dataset"],
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="Images to filter."),
                io.String.Input(
                    "query",
                    default="short >= 512",
                    tooltip='For example: faces == 1 and short >= 768 and not caption ~ "hat". The '
                    "help page lists everything that a query can use.",
                ),
            ],
            outputs=[
                sockets.Dataset.Output(display_name="kept"),
                sockets.Dataset.Output(display_name="dropped"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def execute(cls, dataset: Any, query: str) -> io.NodeOutput:
        kept, dropped = split_dataset(dataset, query)
        report = f"{len(kept.records)} of {len(dataset.records)} images kept"
        names = [record.name for record in dropped.records]
        lines = [report, *(f"dropped: {name}" for name in names)]
        return io.NodeOutput(kept, dropped, show_text("\n".join(lines)))


class LabelDataset(io.ComfyNode):
    """What the pictures of a dataset show."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_LabelDataset",
            display_name="Label Dataset",
            category="pivotal/dataset",
            description="Sets which concept the images show and makes sure that their captions "
            "mention it.",
            search_aliases=["trigger word", "instance prompt", "class word", "caption template"],
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="Images of one concept."),
                io.String.Input(
                    "placeholder", default="TOK", tooltip="Word that stands for the concept."
                ),
                io.String.Input(
                    "class_word",
                    default="",
                    tooltip="Class of the concept, such as: dog. Used by prior preservation and "
                    "templates.",
                ),
                io.Combo.Input(
                    "kind",
                    options=Kind,
                    default=Kind.OBJECT,
                    tooltip="Kind of concept. It determines the sentence given to images without a "
                    "caption.",
                ),
                io.Boolean.Input(
                    "insert_placeholder",
                    default=True,
                    tooltip="Insert the placeholder into captions that lack it: at the first class "
                    "word if there is one, otherwise at the beginning. Images without a caption "
                    "get a sentence that fits the kind.",
                ),
            ],
            outputs=[
                sockets.Dataset.Output(display_name="dataset"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def execute(
        cls, dataset: Any, placeholder: str, class_word: str, kind: str, insert_placeholder: bool
    ) -> io.NodeOutput:
        label = Label(
            placeholder=placeholder.strip(), class_word=class_word.strip(), kind=Kind(kind)
        )
        labelled, report = label_dataset(dataset, label, insert=insert_placeholder)
        return io.NodeOutput(labelled, show_text(report))


NODES = [LoadDataset, MergeDatasets, FilterDataset, LabelDataset]
