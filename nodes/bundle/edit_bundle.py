"""Pack, rename and merge bundles: nodes that make one bundle of others."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...bundles.bundle import Bundle
from ...bundles.edit import NameClash, merge_bundles, pack, rename, warnings_for_name
from ...bundles.load import load_bundle
from .. import sockets
from ..host.folders import bundle_path, bundle_state
from ..host.text.resolve import parse_names
from ..inputs import checked_file, file_input
from ..widget_text import lines, numbers
from .save_load_bundle import told

NONE = "(none)"


class PackBundle(io.ComfyNode):
    """Puts a LoRA and loose embeddings into one bundle."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_PackBundle",
            display_name="Pack Bundle",
            category="pivotal/bundles",
            description="Combines a LoRA and any number of separate embeddings into one bundle.",
            search_aliases=["bundle embeddings", "pivotal tuning", "join lora and embedding"],
            inputs=[
                file_input("lora", "The LoRA, or a bundle to add names to.", NONE),
                io.String.Input(
                    "embeddings",
                    default="",
                    multiline=True,
                    tooltip="One file from the embeddings folder per line: cat.safetensors, or tom "
                    "= cat.safetensors to rename it.",
                ),
                sockets.Bundle.Input(
                    "bundle", optional=True, tooltip="A bundle to add to, instead of a LoRA file."
                ),
            ],
            outputs=[
                sockets.Bundle.Output(display_name="bundle"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def validate_inputs(cls, lora: str | None = NONE) -> bool | str:
        return checked_file(lora, NONE)

    @classmethod
    def fingerprint_inputs(cls, lora: str, embeddings: str, **_: Any) -> str:
        files = [f"embeddings/{file}" for _, file in named_files(embeddings)]
        return "|".join(map(bundle_state, [*files, *([] if lora == NONE else [lora])]))

    @classmethod
    def execute(cls, lora: str, embeddings: str, bundle: Bundle | None = None) -> io.NodeOutput:
        if bundle is not None and lora != NONE:
            raise ValueError(f"There are two LoRAs: set lora to {NONE} or disconnect the bundle.")
        base = bundle if lora == NONE else load_bundle(bundle_path(lora))
        packed = pack(base, [open_named(name, file) for name, file in named_files(embeddings)])
        notes = [note for name in packed.names for note in warnings_for_name(name, packed.names)]
        return io.NodeOutput(packed, told(packed, *notes))


def named_files(text: str) -> list[tuple[str, str]]:
    """(new name or "", file) of each line `name = file`."""
    pairs = [line.rpartition("=") for line in lines(text)]
    return [(name.strip(), file.strip()) for name, _, file in pairs]


def open_named(name: str, file: str) -> Bundle:
    """The embedding of a file, under its own or another name."""
    found = load_bundle(bundle_path(f"embeddings/{file}"))
    if not name:
        return found
    if len(found.names) != 1:
        raise ValueError(
            f"{file} holds {len(found.names)} names, so it cannot be renamed to {name}: write the "
            "file alone on its line, and rename with Rename Bundle."
        )
    return rename(found, {found.names[0]: name})


class RenameBundle(io.ComfyNode):
    """Gives names of a bundle other words."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_RenameBundle",
            display_name="Rename Bundle",
            category="pivotal/bundles",
            description="Renames the embeddings of a bundle. Save Bundle then writes new names, "
            "trigger texts and hashes.",
            search_aliases=["rename embedding", "rename trigger", "change trigger word"],
            inputs=[
                sockets.Bundle.Input("bundle", tooltip="The bundle whose names to change."),
                io.String.Input(
                    "names",
                    default="",
                    multiline=True,
                    tooltip="One name per line: old = new. -old removes a name.",
                ),
            ],
            outputs=[
                sockets.Bundle.Output(display_name="bundle"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def execute(cls, bundle: Bundle, names: str) -> io.NodeOutput:
        settings = parse_names(names)
        kept = bundle.without([name for name, setting in settings.items() if not setting.on])
        new = {old: setting.new_name for old, setting in settings.items() if setting.on}
        made = rename(kept, {old: name for old, name in new.items() if name})
        notes = [note for name in made.names for note in warnings_for_name(name, made.names)]
        return io.NodeOutput(made, told(made, *notes))


class MergeBundles(io.ComfyNode):
    """Adds up the LoRAs of several bundles and joins their names."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Pivotal_MergeBundles",
            display_name="Merge Bundles",
            category="pivotal/bundles",
            description="Merges up to four bundles: the weighted sum of their LoRAs, exact by "
            "joining ranks or truncated to a rank, and all of their names.",
            search_aliases=["merge lora", "combine lora", "join bundles"],
            inputs=[
                sockets.Bundle.Input("bundle_1", tooltip="The first bundle."),
                sockets.Bundle.Input("bundle_2", tooltip="The second bundle."),
                io.String.Input(
                    "weights",
                    default="1, 1",
                    tooltip="How strongly each LoRA counts, one number per bundle, such as 1, 0.5.",
                ),
                io.Int.Input(
                    "rank",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="0 joins the ranks, which is exact. Any other value keeps that many of "
                    "the strongest directions of each layer.",
                ),
                io.Combo.Input(
                    "clash",
                    options=NameClash,
                    default=NameClash.ERROR,
                    tooltip="What to do if two of the bundles have the same name.",
                ),
                sockets.Bundle.Input("bundle_3", optional=True, tooltip="A third bundle."),
                sockets.Bundle.Input("bundle_4", optional=True, tooltip="A fourth bundle."),
            ],
            outputs=[
                sockets.Bundle.Output(display_name="bundle"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def execute(
        cls,
        bundle_1: Bundle,
        bundle_2: Bundle,
        weights: str,
        rank: int,
        clash: str,
        bundle_3: Bundle | None = None,
        bundle_4: Bundle | None = None,
    ) -> io.NodeOutput:
        given = [one for one in (bundle_1, bundle_2, bundle_3, bundle_4) if one is not None]
        made = merge_bundles(given, numbers(weights, "weights"), NameClash(clash), rank)
        return io.NodeOutput(made, told(made))


NODES = [PackBundle, RenameBundle, MergeBundles]
