"""Open, inspect, convert and unpack bundles: nodes between files and bundles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io, ui

from ...bundles.bundle import Bundle
from ...bundles.inspection import as_text, file_hash, inspect_bundle
from ...bundles.load import load_bundle
from ...bundles.privacy import Metadata
from ...bundles.save import Container, save_bundle, warnings_for
from ...bundles.table_picture import render
from .. import sockets
from ..host.folders import bundle_path, bundle_state, new_bundle_path
from ..host.images import as_image
from ..host.text.port import vocabularies
from ..inputs import KEEP, FilePrecision, checked_file, file_input, token_map_input
from .save_load_bundle import (
    allowed_in_file,
    checked_metadata,
    metadata_input,
    saved_files,
    told,
)


def container_input(default: Container) -> io.Input:
    """The form of the files."""
    return io.Combo.Input(
        "container",
        options=Container,
        default=default,
        tooltip="Format of the files, as in Save Bundle.",
    )


def prefix_input(default: str) -> io.Input:
    """Where the files go."""
    return io.String.Input(
        "filename_prefix",
        default=default,
        tooltip="Folder and name inside ComfyUI's output folder. A number is added, so nothing is "
        "overwritten.",
    )


def precision_input() -> io.Input:
    """The number format of a LoRA that comes from a file."""
    return io.Combo.Input(
        "precision",
        options=[KEEP, *(one.value for one in FilePrecision)],
        default=KEEP,
        tooltip="Precision of the LoRA; embeddings are always fp32.",
    )


def write(
    bundle: Bundle,
    prefix: str,
    form: Container,
    precision: str,
    metadata: str,
    *,
    trainer_keys: bool = False,
) -> io.NodeOutput:
    """Save files and report them to the editor."""
    bundle, shared = allowed_in_file(bundle, metadata)
    path = new_bundle_path(prefix, own_folder=form.is_folder)
    dtype = None if precision == KEEP else FilePrecision(precision).dtype
    files = save_bundle(bundle, path, form, dtype, trainer_keys=trainer_keys)
    return saved_files(files, [*bundle.notes, *warnings_for(bundle, form), *shared])


class OpenBundle(io.ComfyNode):
    """Reads a file of any known form as a bundle, without applying it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_OpenBundle",
            display_name="Open Bundle",
            category="pivotal/bundles",
            description="Opens a bundle, LoRA or embedding file to inspect, rename, merge, compare "
            "or save it, without applying it.",
            search_aliases=["read lora", "read embedding", "bundle from file"],
            inputs=[
                file_input("file", "A file from the loras, embeddings or bundles folders."),
                token_map_input(),
            ],
            outputs=[
                sockets.Bundle.Output(display_name="bundle"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        return checked_file(file)

    @classmethod
    def fingerprint_inputs(cls, file: str, **_: Any) -> str:
        return bundle_state(file)

    @classmethod
    def execute(cls, file: str, token_map: str) -> io.NodeOutput:
        path = bundle_path(file)
        bundle = load_bundle(path, token_map=token_map, finite=False)
        bundle = replace(bundle, source=f"{path.name}, SHA-256 {file_hash(path)}")
        return io.NodeOutput(bundle, told(bundle))


class InspectBundle(io.ComfyNode):
    """Describes a bundle as text and as a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_InspectBundle",
            display_name="Inspect Bundle",
            category="pivotal/bundles",
            description="Shows what a bundle contains, as text and as an image: names, vectors, "
            "norms, nearest words, NaN values, LoRA rank, recipe and hashes.",
            search_aliases=["lora info", "lora metadata", "embedding info", "nearest tokens"],
            is_output_node=True,
            inputs=[
                sockets.Bundle.Input("bundle", tooltip="The bundle to inspect."),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Compares the vectors with the words of this CLIP: their norms, and "
                    "the words nearest to them.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="text"),
                io.Image.Output(display_name="picture"),
            ],
        )

    @classmethod
    def execute(cls, bundle: Bundle, clip: Any | None = None) -> io.NodeOutput:
        found = inspect_bundle(bundle, vocabularies(clip) if clip is not None else None)
        picture = as_image(render(found, bundle))
        text = as_text(found)
        shown = {**ui.PreviewImage(picture, cls=cls).as_dict(), "text": (text,)}
        return io.NodeOutput(text, picture, ui=shown)


class ConvertBundle(io.ComfyNode):
    """Writes a file in another program's form."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_ConvertBundle",
            display_name="Convert Bundle",
            category="pivotal/bundles",
            description="Reads a file of any known format and writes it in another, preserving "
            "every vector bit for bit.",
            search_aliases=["convert lora", "convert embedding", "onetrainer", "diffusers"],
            is_output_node=True,
            inputs=[
                file_input("file", "A file from the loras, embeddings or bundles folders."),
                container_input(Container.A1111),
                prefix_input("loras/converted"),
                precision_input(),
                token_map_input(),
                metadata_input(),
            ],
            outputs=[io.String.Output(display_name="report")],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None, metadata: Any = None) -> bool | str:
        fits = checked_file(file)
        return checked_metadata(metadata) if fits is True else fits

    @classmethod
    def fingerprint_inputs(cls, file: str, **_: Any) -> str:
        return bundle_state(file)

    @classmethod
    def execute(
        cls,
        file: str,
        container: str,
        filename_prefix: str,
        precision: str,
        token_map: str,
        metadata: str = Metadata.RECIPE.value,
    ) -> io.NodeOutput:
        bundle = load_bundle(bundle_path(file), token_map=token_map)
        return write(bundle, filename_prefix, Container(container), precision, metadata)


class UnpackBundle(io.ComfyNode):
    """Writes a plain LoRA and a file per embedding."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_UnpackBundle",
            display_name="Unpack Bundle",
            category="pivotal/bundles",
            description="Saves a bundle as a plain LoRA, which every program reads, and one "
            "embedding file per name.",
            search_aliases=["extract embedding", "split lora", "export embedding"],
            is_output_node=True,
            inputs=[
                sockets.Bundle.Input("bundle", tooltip="The bundle to unpack."),
                prefix_input("loras/unpacked"),
                precision_input(),
                io.Boolean.Input(
                    "trainer_keys",
                    default=False,
                    tooltip="Name the T5 vectors t5, as trainers do, instead of t5xxl, which "
                    "ComfyUI expects.",
                ),
                metadata_input(),
            ],
            outputs=[io.String.Output(display_name="report")],
        )

    @classmethod
    def validate_inputs(cls, metadata: Any = None) -> bool | str:
        return checked_metadata(metadata)

    @classmethod
    def execute(
        cls,
        bundle: Bundle,
        filename_prefix: str,
        precision: str,
        trainer_keys: bool,
        metadata: str = Metadata.RECIPE.value,
    ) -> io.NodeOutput:
        form = Container.LOOSE
        return write(bundle, filename_prefix, form, precision, metadata, trainer_keys=trainer_keys)


NODES = [OpenBundle, InspectBundle, ConvertBundle, UnpackBundle]
