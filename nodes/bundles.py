"""Save Bundle and Load Bundle: one file with a LoRA and its named embeddings."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import Enum
from typing import Any

import torch
from comfy_api.latest import io

from ..bundles.containers import Container, load_bundle, save_bundle, warnings_for
from ..bundles.manifest import Bundle
from . import sockets
from .host.bundling import apply_bundle, parse_names, read_back
from .host.folders import bundle_files, bundle_path, in_output, new_bundle_path

CONNECTED = "(connected bundle)"


class Precision(str, Enum):
    """Number format of the saved LoRA."""

    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"

    @property
    def dtype(self) -> torch.dtype:
        """As torch names it."""
        return {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[self.value]


class SaveBundle(io.ComfyNode):
    """Writes a bundle into the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_SaveBundle",
            display_name="Save Bundle",
            category="pivotal/bundles",
            description="Writes a LoRA and its named embeddings into one file, or a plain LoRA and "
            "an embedding file for each name.",
            search_aliases=["save lora", "save embedding", "export", "safetensors"],
            is_output_node=True,
            hidden=[io.Hidden.extra_pnginfo],
            inputs=[
                sockets.Bundle.Input("bundle", tooltip="The bundle to write."),
                io.String.Input(
                    "filename_prefix",
                    default="loras/bundle",
                    tooltip="Folder and name inside ComfyUI's output folder. Files in loras are "
                    "found by every LoRA loader. A number is added, nothing is overwritten.",
                ),
                io.Combo.Input(
                    "container",
                    options=Container,
                    default=Container.A1111,
                    tooltip="a1111: one file with everything. loose: a folder with a plain LoRA "
                    "that loads everywhere, and an embedding file for each name.",
                ),
                io.Combo.Input(
                    "precision",
                    options=Precision,
                    default=Precision.FP16,
                    tooltip="Number format of the LoRA; embeddings are always fp32.",
                ),
            ],
            outputs=[
                sockets.Bundle.Output(
                    display_name="saved", tooltip="The bundle as it is in the file."
                ),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def execute(
        cls, bundle: Bundle, filename_prefix: str, container: str, precision: str
    ) -> io.NodeOutput:
        form = Container(container)
        extra: dict[str, Any] = cls.hidden.extra_pnginfo or {}
        workflow = json.dumps(extra["workflow"]) if "workflow" in extra else bundle.workflow
        path = new_bundle_path(filename_prefix, own_folder=form is Container.LOOSE)
        dtype = Precision(precision).dtype
        files = save_bundle(replace(bundle, workflow=workflow), path, form, dtype)
        report = "\n".join([*(f"saved {file}" for file in files), *warnings_for(bundle, form)])
        shown = {"files": [in_output(file) for file in files], "text": (report,)}
        return io.NodeOutput(read_back(files), report, ui=shown)


class LoadBundle(io.ComfyNode):
    """Puts a bundle onto a MODEL and its names onto a CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_LoadBundle",
            display_name="Load Bundle",
            category="pivotal/bundles",
            description="Applies a bundle: its LoRA to MODEL and CLIP, and its names to this CLIP "
            "alone, to be typed as embedding:name.",
            search_aliases=["load lora", "load embedding", "textual inversion", "lora loader"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model the LoRA is applied to."),
                io.Clip.Input("clip", tooltip="The text encoder that learns the names."),
                io.Combo.Input(
                    "file",
                    options=[CONNECTED, *bundle_files()],
                    default=CONNECTED,
                    tooltip="A file from the loras or embeddings folders, or the connected bundle.",
                ),
                io.Float.Input(
                    "strength_model",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How strongly the LoRA changes the diffusion model.",
                ),
                io.Float.Input(
                    "strength_clip",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How strongly the LoRA changes the text encoder.",
                ),
                io.String.Input(
                    "names",
                    default="",
                    multiline=True,
                    tooltip="One line a name: old = new : strength. Both parts may be left out; "
                    "-old switches a name off.",
                ),
                sockets.Bundle.Input("bundle", optional=True, tooltip="A bundle from this graph."),
            ],
            outputs=[
                io.Model.Output(display_name="model"),
                io.Clip.Output(display_name="clip"),
                io.String.Output(
                    display_name="triggers", tooltip="What to type into a prompt, ready to paste."
                ),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, **_: Any) -> str:
        if file == CONNECTED:
            return CONNECTED
        stat = bundle_path(file).stat()
        return f"{stat.st_mtime_ns} {stat.st_size}"

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        file: str,
        strength_model: float,
        strength_clip: float,
        names: str,
        bundle: Bundle | None = None,
    ) -> io.NodeOutput:
        if file == CONNECTED and bundle is None:
            raise ValueError("No bundle: choose a file, or connect a bundle.")
        chosen = bundle if file == CONNECTED else load_bundle(bundle_path(file))
        made, made_clip, known, notes = apply_bundle(
            model,
            clip,
            chosen,
            strength_model=strength_model,
            strength_clip=strength_clip,
            names=parse_names(names),
            origin="a connected bundle" if file == CONNECTED else file,
        )
        triggers = ", ".join(f"embedding:{name}" for name in known)
        report = "\n".join(
            [f"{len(chosen.lora)} LoRA tensors", f"names: {triggers or 'none'}", *notes]
        )
        return io.NodeOutput(made, made_clip, triggers, report)


NODES = [SaveBundle, LoadBundle]
