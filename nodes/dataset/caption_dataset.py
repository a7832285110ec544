"""Load Captioner, Caption Dataset."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...training.dataset.captioning.ask import Asking
from ...training.dataset.captioning.questions import Preset
from .. import sockets
from ..host.captioners.find import captioner_folder, captioner_names
from ..host.captioners.job import Question, run_captioner
from ..host.captioners.model import FolderCaptioner, Precision
from .tagging import WRITE, common_inputs, order_of, output_of


class LoadCaptioner(io.ComfyNode):
    """A caption model from a folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_LoadCaptioner",
            display_name="Load Captioner",
            category="pivotal/dataset",
            description="Loads a caption model from a folder in models/LLM, such as Florence-2, "
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
                    options=Precision,
                    default=Precision.AUTO,
                    tooltip="Numbers to compute with. auto takes fp16 or bf16 on a GPU and fp32 on "
                    "the CPU.",
                ),
            ],
            outputs=[sockets.Captioner.Output(display_name="captioner")],
        )

    @classmethod
    def execute(cls, model: str, precision: str) -> io.NodeOutput:
        return io.NodeOutput(FolderCaptioner(captioner_folder(model), Precision(precision)))


class CaptionDataset(io.ComfyNode):
    """Captions for a dataset by a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_CaptionDataset",
            display_name="Caption Dataset",
            category="pivotal/dataset",
            description="Describes the pictures of a dataset by a caption model or a CLIP that can "
            "see, such as Qwen3-VL or Gemma 3. Each caption is kept as it comes.",
            search_aliases=["auto caption", "describe images", "image to text", "captioner"],
            is_output_node=True,
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="Pictures to describe."),
                io.Combo.Input(
                    "preset",
                    options=Preset,
                    default=Preset.ANYTHING,
                    tooltip="What the pictures show. A caption says what is to stay free: what it "
                    "leaves out is learned as a part of the concept.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=False,
                    default="",
                    tooltip='With the preset "own prompt": the question. {name} becomes the '
                    "concept "
                    "of Label Dataset.",
                ),
                io.Int.Input(
                    "max_side",
                    default=768,
                    min=64,
                    max=4096,
                    step=32,
                    tooltip="Longer side at which the model sees the pictures. Large ones take "
                    "many times as long and say little more.",
                ),
                io.Int.Input(
                    "max_tokens",
                    default=128,
                    min=1,
                    max=4096,
                    tooltip="Longest answer, in tokens.",
                ),
                io.Float.Input(
                    "temperature",
                    default=0.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="0 always takes the likeliest words. More gives other captions for "
                    "other seeds.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**53,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Draws the captions when the temperature is above 0.",
                ),
                *common_inputs(),
                sockets.Captioner.Input(
                    "captioner", optional=True, tooltip="A model of Load Captioner."
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="In place of a captioner: a CLIP that sees and writes, such as "
                    "Qwen3-VL, Gemma 3 or Gemma 4.",
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
        max_side: int,
        max_tokens: int,
        temperature: float,
        seed: int,
        on_existing: str,
        touch_human: bool,
        write: str,
        limit: int,
        batch_size: int,
        captioner: Any = None,
        clip: Any = None,
    ) -> io.NodeOutput:
        order = order_of(on_existing, touch_human, limit, batch_size)
        asking = Asking(
            max_side=max_side, max_tokens=max_tokens, temperature=temperature, seed=seed
        )
        question = Question(preset=Preset(preset), prompt=prompt, asking=asking)
        captioned = run_captioner(
            dataset, captioner, clip, question, order, write=write == WRITE[1]
        )
        return output_of(cls, captioned)


NODES = [LoadCaptioner, CaptionDataset]
