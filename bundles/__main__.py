"""Bundles without ComfyUI: `python -m bundles` to inspect, convert, pack or unpack them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from .bundle import Bundle
from .edit import pack, rename
from .file_names import SUFFIX
from .inspection import as_text, file_hash, inspect_bundle
from .load import load_bundle
from .privacy import Metadata, without_private
from .save import Container, save_bundle, warnings_for

PRECISIONS = {
    "keep": None,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}
METADATA = {
    "everything": Metadata.EVERYTHING,
    "recipe": Metadata.RECIPE,
    "names": Metadata.NAMES,
}


def inspect(options: argparse.Namespace) -> list[str]:
    """Say what each file holds."""
    return [_inspected(path, options.token_map) for path in options.files]


def _inspected(path: Path, token_map: str) -> str:
    bundle = load_bundle(path, token_map=token_map, finite=False)
    if path.is_file():
        bundle = replace(bundle, source=f"{path.name}, SHA-256 {file_hash(path)}")
    return f"{path}\n{as_text(inspect_bundle(bundle))}\n"


def convert(options: argparse.Namespace) -> list[str]:
    """Save a file or folder in another format."""
    bundle = load_bundle(options.file, token_map=options.token_map)
    return _saved(bundle, options.out, Container(options.container), options)


def pack_files(options: argparse.Namespace) -> list[str]:
    """Put a LoRA and embedding files into one bundle."""
    lora = load_bundle(options.lora) if options.lora else None
    bundle = pack(lora, [_embedding(argument) for argument in options.embedding])
    return _saved(bundle, options.out, Container(options.container), options)


def _embedding(argument: str) -> Bundle:
    """The embedding in `file`, or, given `name=file`, the same under that name."""
    name, equals, file = argument.partition("=")
    if not equals or Path(argument).exists():
        return load_bundle(Path(argument))
    bundle = load_bundle(Path(file))
    if len(bundle.names) != 1:
        raise ValueError(f"{file} holds {len(bundle.names)} names, so it cannot be called {name}.")
    return rename(bundle, {bundle.names[0]: name})


def unpack(options: argparse.Namespace) -> list[str]:
    """Save a plain LoRA and one file per name."""
    bundle = load_bundle(options.file, token_map=options.token_map)
    return _saved(bundle, options.out / f"{options.file.stem}{SUFFIX}", Container.LOOSE, options)


def _saved(
    bundle: Bundle, out: Path, container: Container, options: argparse.Namespace
) -> list[str]:
    path = out if out.suffix == SUFFIX else out.with_name(out.name + SUFFIX)
    files = save_bundle(
        without_private(bundle, METADATA[options.metadata]),
        path,
        container,
        PRECISIONS[options.precision],
        trainer_keys=getattr(options, "trainer_keys", False),
    )
    notes = [*bundle.notes, *warnings_for(bundle, container)]
    return [*(f"saved {file}" for file in files), *notes]


COMMANDS: Mapping[str, Callable[[argparse.Namespace], list[str]]] = {
    "inspect": inspect,
    "convert": convert,
    "pack": pack_files,
    "unpack": unpack,
}


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="python -m bundles", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True)
    parsers = {name: commands.add_parser(name, help=run.__doc__) for name, run in COMMANDS.items()}
    parsers["inspect"].add_argument("files", nargs="+", type=Path, help="files or folders")
    parsers["convert"].add_argument("file", type=Path, help="a file or folder in any known format")
    parsers["convert"].add_argument("out", type=Path, help="the new file")
    parsers["pack"].add_argument("out", type=Path, help="the new file")
    parsers["pack"].add_argument(
        "--embedding",
        action="append",
        default=[],
        help="an embedding file, or name=file; may be given more than once",
    )
    parsers["pack"].add_argument("--lora", type=Path, help="the LoRA, or a bundle to add to")
    parsers["unpack"].add_argument("file", type=Path, help="a bundle")
    parsers["unpack"].add_argument("out", type=Path, help="a folder, created if it is missing")
    parsers["unpack"].add_argument(
        "--trainer-keys", action="store_true", help="name T5's vectors t5, not t5xxl"
    )
    for name in ("convert", "pack"):
        parsers[name].add_argument(
            "--container",
            choices=[container.value for container in Container],
            default=Container.A1111.value,
        )
    for name in ("inspect", "convert", "unpack"):
        parsers[name].add_argument("--token-map", default="", help="TOK = <s0><s1>; OTHER = 2")
    for name in ("convert", "pack", "unpack"):
        parsers[name].add_argument("--precision", choices=list(PRECISIONS), default="keep")
        parsers[name].add_argument(
            "--metadata",
            choices=list(METADATA),
            default="recipe",
            help="everything; the recipe without paths and folder names; or nothing beyond names",
        )
    return root


def main(arguments: Sequence[str]) -> int:
    """Run a command; return 1 and write a sentence to the error output if it fails."""
    options = parser().parse_args(arguments)
    try:
        lines = COMMANDS[options.command](options)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
