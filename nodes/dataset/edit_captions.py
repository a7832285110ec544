"""Edit Captions, Vary Captions, Save Captions."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...training.dataset.captions.change import apply_operations, parse_operations
from ...training.dataset.captions.diff import before_after
from ...training.dataset.captions.texts import texts_of
from ...training.dataset.records import Lines, Template, Variation
from ...training.dataset.writing.write import CaptionFile, OnExisting
from .. import sockets
from ..host.dataset.caption_files import save_captions, undo_captions
from ..host.events import show_text
from ..inputs import filled


class EditCaptions(io.ComfyNode):
    """Changes to all captions of a dataset at once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_EditCaptions",
            display_name="Edit Captions",
            category="pivotal/dataset",
            description="Edits captions with a list of operations and shows them before and after. "
            "Files are not changed; Save Captions writes them.",
            search_aliases=["find and replace", "caption prefix", "remove tags", "trigger word"],
            is_output_node=True,
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="Captions to edit."),
                io.String.Input(
                    "operations",
                    multiline=True,
                    dynamic_prompts=False,
                    default="no boilerplate\n# replace: old => new\n# remove: blurry, watermark\n"
                    "# prefix: a photo of TOK,",
                    tooltip="One operation per line, applied in this order; # disables a line. The "
                    "help page lists all operations.",
                ),
            ],
            outputs=[
                sockets.Dataset.Output(display_name="dataset"),
                io.String.Output(display_name="changes"),
            ],
        )

    @classmethod
    def execute(cls, dataset: Any, operations: str) -> io.NodeOutput:
        edited = apply_operations(dataset, parse_operations(operations))
        report = before_after(dataset.records, edited.records)
        return io.NodeOutput(edited, report, ui={"text": (show_text(report),)})


class VaryCaptions(io.ComfyNode):
    """Captions that are different each time that a picture is shown."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_VaryCaptions",
            display_name="Vary Captions",
            category="pivotal/dataset",
            description="Varies captions during training: shuffled tags, dropout, wildcards, "
            "templates. Nothing is written to files.",
            search_aliases=["shuffle tags", "caption dropout", "wildcards", "keep tokens"],
            is_output_node=True,
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="Captions to vary."),
                io.Int.Input(
                    "texts",
                    default=8,
                    min=1,
                    max=256,
                    tooltip="Number of texts drawn per image. All are encoded once before "
                    "training, so more texts take more time at the start and more memory.",
                ),
                io.String.Input(
                    "prefix",
                    default="",
                    tooltip="Added before every text, with its trailing spaces.",
                ),
                io.String.Input(
                    "suffix", default="", tooltip="Added after every text, with its leading spaces."
                ),
                io.Boolean.Input(
                    "shuffle_tags", default=False, tooltip="Shuffle the order of the tags."
                ),
                io.Int.Input(
                    "keep_tags",
                    default=1,
                    min=0,
                    max=256,
                    tooltip="Number of tags at the beginning that stay in place. If a caption "
                    "contains |||, everything before it stays in place instead.",
                ),
                io.Float.Input(
                    "tag_dropout",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the other tags to drop. The placeholder from Label Dataset "
                    "is never dropped.",
                ),
                io.Float.Input(
                    "caption_dropout",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the texts that are empty.",
                ),
                io.Boolean.Input(
                    "wildcards",
                    default=False,
                    tooltip="Pick one of the choices in {red|blue} at random.",
                ),
                io.Combo.Input(
                    "lines",
                    options=Lines,
                    default=Lines.ONE_TEXT,
                    tooltip="Whether a multi-line caption is one text, or one of its lines is "
                    "picked at random.",
                ),
                io.Float.Input(
                    "capitals",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the texts with changed capitalization: all lowercase, or "
                    "lowercase with a capital first letter.",
                ),
                io.Combo.Input(
                    "template",
                    options=Template,
                    default=Template.NONE,
                    tooltip="Kind of sentence about the concept to put before the captions. The "
                    "concept is that of Label Dataset.",
                ),
                io.Float.Input(
                    "template_share",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of the texts that use the template.",
                ),
            ],
            outputs=[
                sockets.Dataset.Output(display_name="dataset"),
                io.String.Output(display_name="preview"),
            ],
        )

    @classmethod
    def execute(cls, dataset: Any, **inputs: Any) -> io.NodeOutput:
        variation = filled(Variation, inputs)
        varied = dataset.with_records(lambda record: record.with_variation(variation))
        shown = [
            "\n".join([record.name, *(f"  {text or '(empty)'}" for text in texts_of(record, 0))])
            for record in varied.records[:5]
        ]
        preview = "\n".join(shown)
        return io.NodeOutput(varied, preview, ui={"text": (show_text(preview),)})


class SaveCaptions(io.ComfyNode):
    """Captions written beside their pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_SaveCaptions",
            display_name="Save Captions",
            category="pivotal/dataset",
            description="Writes captions next to their images. Previous texts are kept and can be "
            "restored.",
            search_aliases=["write captions", "caption files", "export captions", "undo captions"],
            is_output_node=True,
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="Captions to write."),
                io.Combo.Input(
                    "format",
                    options=CaptionFile,
                    default=CaptionFile.TXT,
                    tooltip="One text file per image, or one file per folder.",
                ),
                io.Combo.Input(
                    "on_existing",
                    options=OnExisting,
                    default=OnExisting.SKIP,
                    tooltip="What to do where a caption already exists: leave it, add to it or "
                    "replace it. Replaced text is kept in the history.",
                ),
                io.Boolean.Input(
                    "dry_run",
                    default=True,
                    tooltip="Only report what would be written.",
                ),
                io.Int.Input(
                    "undo_revision",
                    default=0,
                    min=0,
                    max=1000000,
                    tooltip="Restore what the files held before this revision instead of writing. "
                    "0 writes the captions.",
                ),
            ],
            outputs=[io.String.Output(display_name="report")],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> float:
        return float("nan")  # files may have changed meanwhile

    @classmethod
    def execute(
        cls, dataset: Any, format: str, on_existing: str, dry_run: bool, undo_revision: int
    ) -> io.NodeOutput:
        if undo_revision:
            report = undo_captions(undo_revision)
        else:
            report = save_captions(
                dataset, CaptionFile(format), OnExisting(on_existing), dry_run=dry_run
            )
        return io.NodeOutput(report, ui={"text": (show_text(report),)})


NODES = [EditCaptions, VaryCaptions, SaveCaptions]
