"""Save Bundle and Load Bundle: one file with a LoRA and its named embeddings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...bundles.bundle import Bundle, cut, short
from ...bundles.load import load_bundle
from ...bundles.privacy import Metadata, without_private
from ...bundles.save import Container, save_bundle, warnings_for
from .. import sockets
from ..host.bundle.apply import apply_bundle, read_back, with_thumbnails
from ..host.disk import below_output
from ..host.folders import (
    bundle_files,
    bundle_path,
    bundle_state,
    in_output,
    keeps_metadata,
    new_bundle_path,
)
from ..host.text.resolve import Clash, NameRules, StrengthMode, parse_names
from ..inputs import FilePrecision, checked_file, token_map_input

CONNECTED = "(connected bundle)"


def told(bundle: Bundle, *sentences: str) -> str:
    """Names and notes as a report."""
    names = ", ".join(map(short, bundle.names)) or "none"
    return "\n".join(
        [
            f"{len(bundle.lora)} LoRA tensors",
            f"names: {names}",
            *map(cut, (*bundle.notes, *sentences)),
        ]
    )


def saved_files(files: Sequence[Path], notes: Sequence[str], *outputs: object) -> io.NodeOutput:
    """Outputs and a report about files in the output folder, which the editor shows."""
    report = "\n".join([*(f"saved {below_output(file)}" for file in files), *notes])
    shown = {"files": [in_output(file) for file in files], "text": (report,)}
    return io.NodeOutput(*outputs, report, ui=shown)


def allowed_in_file(bundle: Bundle, metadata: str) -> tuple[Bundle, list[str]]:
    """The bundle as its file may hold it, and what the report says about that."""
    choice = Metadata(metadata)
    if not keeps_metadata() and choice is not Metadata.NAMES:
        note = f"ComfyUI runs with --disable-metadata: the file holds {Metadata.NAMES.value}."
        return without_private(bundle, Metadata.NAMES), [note]
    notes: list[str] = []
    if bundle.workflow and choice is Metadata.EVERYTHING:
        notes = ["The file holds the workflow, with the text of all its nodes."]
    elif bundle.workflow:
        notes = ['The file does not hold the workflow: set metadata to "everything" to keep it.']
    return without_private(bundle, choice), notes


def sent_workflow(extra: Any) -> str:
    """The graph that a client sent with its prompt, "" if it sent none: only the editor must."""
    graph = extra.get("workflow") if isinstance(extra, Mapping) else None
    return json.dumps(graph) if isinstance(graph, Mapping) else ""


def metadata_input() -> io.Input:
    """How much the file says about how it was made."""
    return io.Combo.Input(
        "metadata",
        options=Metadata,
        default=Metadata.RECIPE,
        optional=True,
        tooltip='How much the file says about how it was made. "everything": the recipe, with the '
        "names of folders, and the workflow, with the text of every node; dropping the file onto "
        'the editor opens it. "recipe without paths and folder names": settings and counts. '
        '"nothing beyond names and family": only what loading needs.',
    )


def checked_metadata(metadata: Any) -> bool | str:
    """For `validate_inputs`: whether a value is a choice, or one of the switch that it replaced."""
    choices = [choice.value for choice in Metadata]
    # None stands for a link, whose value is not known yet.
    if metadata is None or isinstance(metadata, bool) or metadata in choices:
        return True
    return f"metadata is {metadata!r}: choose {', '.join(choices)}."


def name_rule_inputs() -> list[io.Input]:
    """How the names of a bundle are bound to a CLIP, beyond the line that each has."""
    return [
        io.Combo.Input(
            "strength_mode",
            options=StrengthMode,
            default=StrengthMode.SCALE,
            optional=True,
            tooltip="What a name's strength does: scale its vectors, or move them away from the "
            "word that they started from, where 0 is that word and 1 is the trained name.",
        ),
        io.Boolean.Input(
            "bare_triggers",
            default=False,
            optional=True,
            tooltip="Also recognize the names and their placeholders in the captions (TOK) as "
            "whole words, without embedding: before them.",
        ),
        io.Combo.Input(
            "clash",
            options=Clash,
            default=Clash.ERROR,
            optional=True,
            tooltip="What to do if another bundle has already added the same name to this CLIP.",
        ),
        io.String.Input(
            "prefix",
            default="",
            optional=True,
            tooltip='With "add the prefix": what to put before a name that is already taken. If '
            "empty, the file's name is used.",
        ),
        io.String.Input(
            "fallback",
            default="",
            optional=True,
            tooltip="What a text encoder reads if a name has no vectors for it. If empty, the word "
            "that the name started from.",
        ),
        token_map_input(optional=True),
    ]


class SaveBundle(io.ComfyNode):
    """Writes a bundle into the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_SaveBundle",
            display_name="Save Bundle",
            category="pivotal/bundles",
            description="Saves a LoRA and its named embeddings as one file, or as a plain LoRA and "
            "one embedding file per name.",
            search_aliases=["save lora", "save embedding", "export", "safetensors"],
            is_output_node=True,
            hidden=[io.Hidden.extra_pnginfo],
            inputs=[
                sockets.Bundle.Input("bundle", tooltip="The bundle to save."),
                io.String.Input(
                    "filename_prefix",
                    default="loras/bundle",
                    tooltip="Folder and name inside ComfyUI's output folder. Every LoRA loader "
                    "finds files in loras. A number is added, so nothing is overwritten.",
                ),
                io.Combo.Input(
                    "container",
                    options=Container,
                    default=Container.A1111,
                    tooltip="a1111: one file with everything. loose: a folder with a plain LoRA "
                    "that loads everywhere and one embedding file per name. header: one file that "
                    "every other program reads as a plain LoRA. diffusers: a LoRA and an _emb "
                    "file. onetrainer: a1111 with OneTrainer's encoder names. cog: the folder "
                    "layout of cog-sdxl.",
                ),
                io.Combo.Input(
                    "precision",
                    options=FilePrecision,
                    default=FilePrecision.FP16,
                    tooltip="Precision of the LoRA; embeddings are always fp32.",
                ),
                io.Image.Input(
                    "thumbnails",
                    optional=True,
                    tooltip="Thumbnails for the file's header: the first is for the file, any "
                    "others are for the names, in order.",
                ),
                metadata_input(),
            ],
            outputs=[
                sockets.Bundle.Output(
                    display_name="saved", tooltip="The bundle as read back from the file."
                ),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def validate_inputs(cls, metadata: Any = None) -> bool | str:
        return checked_metadata(metadata)

    @classmethod
    def execute(
        cls,
        bundle: Bundle,
        filename_prefix: str,
        container: str,
        precision: str,
        thumbnails: Any | None = None,
        metadata: str = Metadata.RECIPE.value,
    ) -> io.NodeOutput:
        form = Container(container)
        workflow = sent_workflow(cls.hidden.extra_pnginfo) or bundle.workflow
        path = new_bundle_path(filename_prefix, own_folder=form.is_folder)
        dtype = FilePrecision(precision).dtype
        allowed, notes = allowed_in_file(replace(bundle, workflow=workflow), metadata)
        files = save_bundle(with_thumbnails(allowed, thumbnails), path, form, dtype)
        return saved_files(files, [*warnings_for(bundle, form), *notes], read_back(files))


class LoadBundle(io.ComfyNode):
    """Puts a bundle onto a MODEL and its names onto a CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_LoadBundle",
            display_name="Load Bundle",
            category="pivotal/bundles",
            description="Applies a bundle: its LoRA to MODEL and CLIP, and its names to this CLIP "
            "only. Type them as embedding:name.",
            search_aliases=["load lora", "load embedding", "load textual inversion", "lora loader"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model the LoRA is applied to."),
                io.Clip.Input("clip", tooltip="The text encoder that gets the names."),
                io.Combo.Input(
                    "file",
                    options=[CONNECTED, *bundle_files()],
                    default=CONNECTED,
                    tooltip="A file from the loras, embeddings or bundles folders, or the "
                    "connected bundle. Companion files written by its trainer are read with it.",
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
                    tooltip="One name per line: old = new : strength. The new name and the "
                    "strength are optional; -old turns a name off.",
                ),
                sockets.Bundle.Input("bundle", optional=True, tooltip="A bundle from this graph."),
                *name_rule_inputs(),
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
    def validate_inputs(cls, file: str | None = CONNECTED) -> bool | str:
        return checked_file(file, CONNECTED)

    @classmethod
    def fingerprint_inputs(cls, file: str, **_: Any) -> str:
        return CONNECTED if file == CONNECTED else bundle_state(file)

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
        strength_mode: str = StrengthMode.SCALE.value,
        bare_triggers: bool = False,
        clash: str = Clash.ERROR.value,
        prefix: str = "",
        fallback: str = "",
        token_map: str = "",
    ) -> io.NodeOutput:
        connected = file == CONNECTED
        chosen = bundle if connected else load_bundle(bundle_path(file), token_map=token_map)
        if chosen is None:
            raise ValueError("No bundle: choose a file, or connect a bundle.")
        rules = NameRules(
            settings=parse_names(names),
            strength_mode=StrengthMode(strength_mode),
            bare_triggers=bare_triggers,
            clash=Clash(clash),
            prefix=prefix,
            fallback=fallback.strip(),
        )
        made, made_clip, known, notes = apply_bundle(
            model,
            clip,
            chosen,
            strength_model=strength_model,
            strength_clip=strength_clip,
            rules=rules,
            origin="a connected bundle" if connected else file,
        )
        triggers = ", ".join(f"embedding:{name}" for name in known)
        shown = ", ".join(f"embedding:{short(name)}" for name in known)
        report = "\n".join(
            [f"{len(chosen.lora)} LoRA tensors", f"names: {shown or 'none'}", *map(cut, notes)]
        )
        return io.NodeOutput(made, made_clip, triggers, report)


NODES = [SaveBundle, LoadBundle]
