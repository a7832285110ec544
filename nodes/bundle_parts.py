"""What the nodes about bundles have in common: choices of files, and what they report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from comfy_api.latest import io

from ..bundles.bundle import Bundle
from ..bundles.save import Container, save_bundle, warnings_for
from . import sockets
from .host.folders import bundle_files, in_output, new_bundle_path
from .precision import KEEP, Precision

NONE = "(none)"


def file_input(name: str, tooltip: str, *first: str, kinds: tuple[str, ...] = ()) -> io.Input:
    """A choice among the files of the bundle folders, with other choices before them."""
    return io.Combo.Input(name, options=[*first, *bundle_files(*kinds)], tooltip=tooltip)


def token_map_input(*, optional: bool = False) -> io.Input:
    """Which rows of one tensor belong to which concept."""
    return io.String.Input(
        "token_map",
        default="",
        multiline=True,
        optional=optional,
        tooltip="For files that hold several concepts in one tensor (_emb of diffusers' scripts): "
        "TOK = <s0><s1>, one line a concept.",
    )


def container_input(default: Container) -> io.Input:
    """The form of the files."""
    return io.Combo.Input(
        "container",
        options=Container,
        default=default,
        tooltip="The form of the files, as in Save Bundle.",
    )


def prefix_input(default: str) -> io.Input:
    """Where the files go."""
    return io.String.Input(
        "filename_prefix",
        default=default,
        tooltip="Folder and name inside ComfyUI's output folder. A number is added, nothing is "
        "overwritten.",
    )


def bundle_output() -> io.Output:
    """The bundle that was made."""
    return sockets.Bundle.Output(display_name="bundle")


def told(bundle: Bundle, *sentences: str) -> str:
    """Names and notes as a report."""
    names = ", ".join(bundle.names) or "none"
    return "\n".join(
        [f"{len(bundle.lora)} LoRA tensors", f"names: {names}", *bundle.notes, *sentences]
    )


def precision_input() -> io.Input:
    """The number format of a LoRA that comes from a file."""
    return io.Combo.Input(
        "precision",
        options=[KEEP, *(one.value for one in Precision)],
        default=KEEP,
        tooltip="Number format of the LoRA; embeddings are always fp32.",
    )


def write(
    bundle: Bundle, prefix: str, form: Container, precision: str, trainer_keys: bool = False
) -> io.NodeOutput:
    """Save files and report them to the editor."""
    path = new_bundle_path(prefix, own_folder=form.is_folder)
    dtype = None if precision == KEEP else Precision(precision).dtype
    files = save_bundle(bundle, path, form, dtype, trainer_keys=trainer_keys)
    return saved_files(files, [*bundle.notes, *warnings_for(bundle, form)])


def saved_files(files: Sequence[Path], notes: Sequence[str], *outputs: object) -> io.NodeOutput:
    """Outputs and a report about files in the output folder, which the editor is told of."""
    report = "\n".join([*(f"saved {file}" for file in files), *notes])
    shown = {"files": [in_output(file) for file in files], "text": (report,)}
    return io.NodeOutput(*outputs, report, ui=shown)
