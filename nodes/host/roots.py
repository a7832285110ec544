"""Where folders of images may lie: in ComfyUI's own folders and in those that its owner names.

The owner of a server names folders in `pivotal/folders.txt` in ComfyUI's user folder, one on each
line. No prompt and no route can write that file.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import folder_paths
from comfy.cli_args import args

from .versions import is_within

OWNERS_FILE = "folders.txt"
WHERE = f"pivotal/{OWNERS_FILE} in ComfyUI's user folder, by its absolute path"
LARGEST = 64 * 1024


def own_folders() -> list[Path]:
    """ComfyUI's folders for images: input, output and datasets."""
    roots = [folder_paths.get_input_directory(), folder_paths.get_output_directory()]
    if "datasets" in folder_paths.folder_names_and_paths:
        roots += folder_paths.get_folder_paths("datasets")
    return [Path(root) for root in roots]


def named_folders() -> list[Path]:
    """The folders in the owner's file; lines that begin with # and relative paths do not count."""
    path = Path(folder_paths.get_user_directory(), "pivotal", OWNERS_FILE)
    try:
        text = path.read_bytes()[:LARGEST].decode("utf-8-sig", "replace")
    except OSError:
        return []
    lines = [line.strip().strip('"') for line in text.splitlines()]
    folders = [Path(line).expanduser() for line in lines if line and not line.startswith("#")]
    return [folder for folder in folders if folder.is_absolute()]


def is_inside(path: Path) -> bool:
    """Whether a path is in one of these folders, first by its letters and then on the disk."""
    roots = [*own_folders(), *named_folders()]
    wanted = Path(os.path.normpath(path))
    by_letters = any(wanted.is_relative_to(os.path.normpath(root)) for root in roots)
    return by_letters and any(is_within(root, path) for root in roots)


def is_alone() -> bool:
    """Whether nobody but the people at this computer can reach the server."""
    return not args.multi_user and all(map(_is_loopback, args.listen.split(",")))


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.strip()).is_loopback
    except ValueError:
        return address.strip() == "localhost"


def line_about(path: Path, typed: str) -> str:
    """A line for the report about a folder elsewhere, or an empty text; ValueError if it is closed.

    `typed` is the path as a person wrote it. Where others reach the server, a folder elsewhere is
    refused without a look at the disk, so that nobody learns whether it exists.
    """
    if is_inside(path):
        return ""
    if not is_alone():
        raise ValueError(
            f"{typed} is outside the folders of this server, which others can reach: move it into "
            f"ComfyUI's input folder, or let the owner of the server name it in {WHERE}."
        )
    return (
        f"{typed} is outside ComfyUI's folders. It is read because only this computer can reach "
        f"the server; with --listen or --multi-user it has to be named in {WHERE}."
    )
