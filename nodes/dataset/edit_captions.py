"""Edit Captions, Vary Captions, Save Captions."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...training.dataset.captions.change import apply_operations, parse_operations
from ...training.dataset.captions.diff import before_after
from ...training.dataset.captions.templates import Template
from ...training.dataset.captions.texts import texts_of
from ...training.dataset.captions.vary import Lines, Variation
from ...training.dataset.writing.write import Format, OnExisting
from .. import sockets
from ..host.dataset.caption_files import save_captions, undo_captions
from ..host.events import tell


class EditCaptions(io.ComfyNode):
    """Changes to all captions of a dataset at once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_EditCaptions",
            display_name="Edit Captions",
            category="pivotal/dataset",
            description="Changes captions by a list of operations and shows them before and after. "
            "Files stay as they are: Save Captions writes.",
            search_aliases=["find and replace", "caption prefix", "remove tags", "trigger word"],
            is_output_node=True,
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="Captions to change."),
                io.String.Input(
                    "operations",
                    multiline=True,
                    dynamic_prompts=False,
                    default="no boilerplate\n# replace: old => new\n# remove: blurry, watermark\n"
                    "# prefix: a photo of TOK,",
                    tooltip="One operation a line, done in this order; # switches a line off. The "
                    "help page lists them.",
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
        return io.NodeOutput(edited, report, ui={"text": (tell(report),)})


class VaryCaptions(io.ComfyNode):
    """Captions that are different each time that a picture is shown."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_VaryCaptions",
            display_name="Vary Captions",
            category="pivotal/dataset",
            description="Lets captions vary while training: shuffled tags, dropout, wildcards, "
            "templates. Nothing of it is written to files.",
            search_aliases=["shuffle tags", "caption dropout", "wildcards", "keep tokens"],
            is_output_node=True,
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="Captions to vary."),
                io.Int.Input(
                    "texts",
                    default=8,
                    min=1,
                    max=256,
                    tooltip="Texts drawn for each picture. All are encoded once, so more take more "
                    "time before the run and memory in it.",
                ),
                io.String.Input(
                    "prefix", default="", tooltip="Put before every text, with its blanks."
                ),
                io.String.Input(
                    "suffix", default="", tooltip="Put after every text, with its blanks."
                ),
                io.Boolean.Input(
                    "shuffle_tags", default=False, tooltip="Bring tags into another order."
                ),
                io.Int.Input(
                    "keep_tags",
                    default=1,
                    min=0,
                    max=256,
                    tooltip="Tags at the beginning that stay. Where a caption has |||, all before "
                    "it stay.",
                ),
                io.Float.Input(
                    "tag_dropout",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the other tags that are left out. The placeholder of Label "
                    "Dataset never is.",
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
                    "wildcards", default=False, tooltip="Draw one of the choices of {red|blue}."
                ),
                io.Combo.Input(
                    "lines",
                    options=Lines,
                    default=Lines.ONE_TEXT,
                    tooltip="Whether a caption of several lines is one text or one for each line.",
                ),
                io.Float.Input(
                    "capitals",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the texts in lower case or with a capital first letter.",
                ),
                io.Combo.Input(
                    "template",
                    options=Template,
                    default=Template.NONE,
                    tooltip="Sentences about the concept put before the captions. The concept is "
                    "that of Label Dataset.",
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
    def execute(cls, dataset: Any, lines: str, template: str, **settings: Any) -> io.NodeOutput:
        variation = Variation(lines=Lines(lines), template=Template(template), **settings)
        varied = dataset.with_records(lambda record: record.with_variation(variation))
        shown = [
            "\n".join([record.name, *(f"  {text or '(empty)'}" for text in texts_of(record, 0))])
            for record in varied.records[:5]
        ]
        preview = "\n".join(shown)
        return io.NodeOutput(varied, preview, ui={"text": (tell(preview),)})


class SaveCaptions(io.ComfyNode):
    """Captions written beside their pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_SaveCaptions",
            display_name="Save Captions",
            category="pivotal/dataset",
            description="Writes captions beside their pictures. What was there is kept and can be "
            "put back.",
            search_aliases=["write captions", "caption files", "export captions", "undo captions"],
            is_output_node=True,
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="Captions to write."),
                io.Combo.Input(
                    "format",
                    options=Format,
                    default=Format.TXT,
                    tooltip="A text file beside each picture, or one file for each folder.",
                ),
                io.Combo.Input(
                    "on_existing",
                    options=OnExisting,
                    default=OnExisting.SKIP,
                    tooltip="What to do where a caption is already: leave it, add to it, or "
                    "replace it. Replaced text is kept in the history.",
                ),
                io.Boolean.Input(
                    "dry_run",
                    default=True,
                    tooltip="Only say what would be written.",
                ),
                io.Int.Input(
                    "undo_revision",
                    default=0,
                    min=0,
                    max=1000000,
                    tooltip="Put back what the files held before this revision, instead of "
                    "writing. 0 writes.",
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
                dataset, Format(format), OnExisting(on_existing), dry_run=dry_run
            )
        return io.NodeOutput(report, ui={"text": (tell(report),)})


NODES = [EditCaptions, VaryCaptions, SaveCaptions]
