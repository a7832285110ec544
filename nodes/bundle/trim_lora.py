"""Trim LoRA: the singular values of what was learned, shown, cut and scaled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io, ui

from ...bundles.bundle import Bundle
from ...bundles.load import load_bundle
from ...bundles.metadata import resized_header
from ...bundles.trim import Keep, Trimming, spectrum_plot, spectrum_report, trim_lora
from .. import sockets
from ..host.folders import bundle_files, bundle_path, bundle_state
from ..host.images import as_image
from ..inputs import checked_file, filled

CONNECTED = "(connected)"


class TrimLora(io.ComfyNode):
    """Shows and trims the singular values of a LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_TrimLora",
            display_name="Trim LoRA",
            category="pivotal/bundles",
            description="Shows how many directions each layer of a LoRA has learned (the exact "
            "singular values of its update), keeps as many as you choose and scales individual "
            "ones.",
            search_aliases=["spectrum", "svd", "resize lora", "lora rank", "singular values"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "file",
                    options=[CONNECTED, *bundle_files()],
                    default=CONNECTED,
                    tooltip="A LoRA or bundle from the loras folders, or the connected one.",
                ),
                io.Combo.Input(
                    "keep",
                    options=Keep,
                    default=Keep.ALL,
                    tooltip="How much of each layer to keep: everything, its largest values, or as "
                    "many as hold a share of its energy (the sum of squares).",
                ),
                io.Int.Input(
                    "count",
                    default=8,
                    min=1,
                    max=1024,
                    tooltip='How many values of each layer to keep with "a number of values".',
                ),
                io.Float.Input(
                    "share",
                    default=0.95,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip='How much of each layer\'s energy to keep with "a share of energy".',
                ),
                io.String.Input(
                    "values",
                    default="",
                    multiline=True,
                    tooltip="Scales individual values in all layers, one change per line: position "
                    "= factor, such as 1 = 0.5 or 3-8 = 0. 1 is the largest.",
                ),
                sockets.Bundle.Input("bundle", optional=True, tooltip="A bundle from this graph."),
                io.LoraModel.Input("lora", optional=True, tooltip="A LoRA from this graph."),
            ],
            outputs=[
                sockets.Bundle.Output(display_name="bundle"),
                io.LoraModel.Output(display_name="lora"),
                io.Image.Output(display_name="spectrum"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = CONNECTED) -> bool | str:
        return checked_file(file, CONNECTED)

    @classmethod
    def fingerprint_inputs(cls, file: str, **_: Any) -> str:
        if file == CONNECTED:
            return CONNECTED
        return bundle_state(file)

    @classmethod
    def execute(
        cls, file: str, bundle: Bundle | None = None, lora: Any = None, **inputs: Any
    ) -> io.NodeOutput:
        trimming = filled(Trimming, inputs)
        chosen = cls._chosen(file, bundle, lora)
        trimmed = trim_lora(chosen.lora, trimming)
        header = chosen.header if trimming.is_none else resized_header(chosen.header)
        picture = as_image(spectrum_plot(trimmed))
        return io.NodeOutput(
            replace(chosen, lora=trimmed.lora, header=header),
            dict(trimmed.lora),
            picture,
            spectrum_report(trimmed),
            ui=ui.PreviewImage(picture, cls=cls),
        )

    @classmethod
    def _chosen(cls, file: str, bundle: Bundle | None, lora: Any) -> Bundle:
        if file != CONNECTED:
            return load_bundle(bundle_path(file))
        if bundle is not None:
            return bundle
        if lora is not None:
            return Bundle(family="", lora=lora, embeddings={})
        raise ValueError("No LoRA: choose a file, or connect a bundle or a LoRA.")


NODES = [TrimLora]
