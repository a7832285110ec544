"""Load Captioner, Caption Dataset and Tag Dataset: captions that a model writes."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ...training.dataset.captioning.ask import Asking, Order
from ...training.dataset.captioning.questions import Preset
from ...training.dataset.pictures.sheets import contact_sheet
from ...training.dataset.writing.write import OnExisting
from .. import sockets
from ..host.captioners.find import captioner_folder, captioner_names, tagger_folder, tagger_names
from ..host.captioners.job import Captioned, Question, run_captioner
from ..host.captioners.model import ComputePrecision, FolderCaptioner
from ..host.captioners.tagger import Tagger, Tagging
from ..host.events import show_text
from ..host.images import as_image
from ..inputs import filled, sentence_of

WRITE = ["nothing", "beside the pictures"]


def common_inputs() -> list[io.Input]:
    """What captioning and tagging share: existing captions, writing, a dry run."""
    return [
        io.Combo.Input(
            "on_existing",
            options=OnExisting,
            default=OnExisting.SKIP,
            tooltip="What to do with images that already have a caption: leave it, add to it or "
            "replace it.",
        ),
        io.Boolean.Input(
            "touch_human",
            default=False,
            tooltip="Also change captions that were edited by hand in Review Dataset.",
        ),
        io.Combo.Input(
            "write",
            options=WRITE,
            default=WRITE[0],
            tooltip="Whether to write each caption next to its image as soon as it is produced. "
            "Captions are saved internally in any case, so an interrupted run resumes where it "
            "stopped.",
        ),
        io.Int.Input(
            "limit",
            default=0,
            min=0,
            max=1000000,
            tooltip="Process only this many images, for example 3 to try out a prompt. 0 processes "
            "all of them.",
        ),
        io.Int.Input(
            "batch_size",
            default=4,
            min=1,
            max=64,
            tooltip="Images processed at once. Halved automatically when memory runs out.",
        ),
    ]


def order_of(on_existing: str, touch_human: bool, limit: int, batch_size: int) -> Order:
    """The shared inputs as the engine has them."""
    return Order(
        batch_size=batch_size,
        on_existing=OnExisting(on_existing),
        limit=limit,
        touch_human=touch_human,
    )


def output_of(node: type[io.ComfyNode], captioned: Captioned) -> io.NodeOutput:
    """The shared outputs, with the first captions and their pictures shown on the node."""
    captions = [record.caption for record in captioned.dataset.records]
    shown: dict[str, Any] = {"text": (show_text(captioned.report),)}
    if captioned.shown:
        sheet = as_image(contact_sheet(captioned.shown))
        shown |= ui.PreviewImage(sheet, cls=node).as_dict()
    return io.NodeOutput(captioned.dataset, captions, captioned.report, ui=shown)


class LoadCaptioner(io.ComfyNode):
    """A caption model from a folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_LoadCaptioner",
            display_name="Load Captioner",
            category="pivotal/dataset",
            description="Loads a captioning model from a folder in models/LLM, such as Florence-2, "
            "BLIP, Qwen2.5-VL, Qwen3-VL or JoyCaption. Nothing is downloaded.",
            search_aliases=["florence", "joycaption", "blip", "qwen vl", "vlm"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=captioner_names(),
                    tooltip="A folder in models/LLM with config.json and weights.",
                ),
                io.Combo.Input(
                    "precision",
                    options=ComputePrecision,
                    default=ComputePrecision.AUTO,
                    tooltip='Precision of the computation. "auto" uses fp16 or bf16 on a GPU and '
                    "fp32 on the CPU.",
                ),
            ],
            outputs=[sockets.Captioner.Output(display_name="captioner")],
        )

    @classmethod
    def validate_inputs(cls, model: str | None = None) -> bool | str:
        return model is None or sentence_of(captioner_folder, model)

    @classmethod
    def execute(cls, model: str, precision: str) -> io.NodeOutput:
        return io.NodeOutput(FolderCaptioner(captioner_folder(model), ComputePrecision(precision)))


class CaptionDataset(io.ComfyNode):
    """Captions for a dataset by a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_CaptionDataset",
            display_name="Caption Dataset",
            category="pivotal/dataset",
            description="Captions the images of a dataset with a captioning model or a "
            "vision-capable CLIP such as Qwen3-VL or Gemma 3. Each caption is saved as soon as it "
            "is produced.",
            search_aliases=["auto caption", "describe images", "image to text", "captioner"],
            is_output_node=True,
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="Images to caption."),
                io.Combo.Input(
                    "preset",
                    options=Preset,
                    default=Preset.ANYTHING,
                    tooltip="What the images show. A caption should describe what is meant to stay "
                    "variable: whatever it leaves out is learned as part of the concept.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=False,
                    default="",
                    tooltip='The instruction for the preset "own prompt". {name} is replaced by '
                    "the concept from Label Dataset.",
                ),
                io.Int.Input(
                    "max_side",
                    default=768,
                    min=64,
                    max=4096,
                    step=32,
                    tooltip="Longest side of the images as the model sees them. Large images take "
                    "many times longer and improve the captions only a little.",
                ),
                io.Int.Input(
                    "max_tokens",
                    default=128,
                    min=1,
                    max=4096,
                    tooltip="Maximum length of a caption, in tokens.",
                ),
                io.Float.Input(
                    "temperature",
                    default=0.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="0 always picks the most likely words. Higher values give different "
                    "captions for different seeds.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**53,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed for sampling captions when the temperature is above 0.",
                ),
                *common_inputs(),
                sockets.Captioner.Input(
                    "captioner", optional=True, tooltip="A captioning model from Load Captioner."
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Used instead of a captioner: a vision-capable CLIP such as Qwen3-VL, "
                    "Gemma 3 or Gemma 4.",
                ),
            ],
            outputs=[
                sockets.Dataset.Output(display_name="dataset"),
                io.String.Output(display_name="captions", is_output_list=True),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def execute(
        cls,
        dataset: Any,
        preset: str,
        prompt: str,
        on_existing: str,
        touch_human: bool,
        write: str,
        limit: int,
        batch_size: int,
        captioner: Any = None,
        clip: Any = None,
        **asking: Any,
    ) -> io.NodeOutput:
        order = order_of(on_existing, touch_human, limit, batch_size)
        question = Question(preset=Preset(preset), prompt=prompt, asking=filled(Asking, asking))
        captioned = run_captioner(
            dataset, captioner, clip, question, order, write=write == WRITE[1]
        )
        return output_of(cls, captioned)


class TagDataset(io.ComfyNode):
    """Tags for a dataset by a WD tagger."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_TagDataset",
            display_name="Tag Dataset",
            category="pivotal/dataset",
            description="Tags images with a WD tagger, for models trained on tags. Requires the "
            "onnxruntime package.",
            search_aliases=["wd14", "wd tagger", "danbooru tags", "booru"],
            is_output_node=True,
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="Images to tag."),
                io.Combo.Input(
                    "model",
                    options=tagger_names(),
                    tooltip="A folder in models/LLM with model.onnx and selected_tags.csv.",
                ),
                io.Float.Input(
                    "general_threshold",
                    default=0.35,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Minimum confidence for general tags.",
                ),
                io.Float.Input(
                    "character_threshold",
                    default=0.85,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Minimum confidence for character tags; 1 leaves them out.",
                ),
                io.String.Input(
                    "first_tags",
                    default="",
                    tooltip="Tags placed first in every caption, such as: TOK",
                ),
                io.String.Input(
                    "exclude",
                    default="",
                    tooltip="Tags to leave out, separated by commas.",
                ),
                io.Boolean.Input(
                    "spaces",
                    default=True,
                    tooltip="Replace underscores with spaces; emoticons such as ^_^ are kept.",
                ),
                *common_inputs(),
            ],
            outputs=[
                sockets.Dataset.Output(display_name="dataset"),
                io.String.Output(display_name="captions", is_output_list=True),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def validate_inputs(cls, model: str | None = None) -> bool | str:
        return model is None or sentence_of(tagger_folder, model)

    @classmethod
    def execute(
        cls,
        dataset: Any,
        model: str,
        general_threshold: float,
        character_threshold: float,
        first_tags: str,
        exclude: str,
        spaces: bool,
        on_existing: str,
        touch_human: bool,
        write: str,
        limit: int,
        batch_size: int,
    ) -> io.NodeOutput:
        tagging = Tagging(
            general=general_threshold,
            character=character_threshold,
            first=first_tags,
            exclude=exclude,
            spaces=spaces,
        )
        order = order_of(on_existing, touch_human, limit, batch_size)
        tagger = Tagger(tagger_folder(model), tagging)
        question = Question(preset=Preset.ANYTHING, prompt="", asking=Asking(max_side=1024))
        captioned = run_captioner(dataset, tagger, None, question, order, write=write == WRITE[1])
        return output_of(cls, captioned)


NODES = [LoadCaptioner, CaptionDataset, TagDataset]
