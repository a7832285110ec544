"""Where the pack reads and writes: ComfyUI's input, output and model folders only."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import folder_paths

RUNS = "pivotal"
BUNDLE_KINDS = ("loras", "embeddings")


def inside(root: Path, path: Path) -> bool:
    """Whether a path, its links followed, stays in a folder; hosts before 0.27 cannot say."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except ValueError:
        # A null byte is in no path.
        return False


def input_folder(name: str) -> Path:
    """A folder inside ComfyUI's input folder; ValueError or FileNotFoundError when it is none."""
    root = folder_paths.get_input_directory()
    path = Path(root, name)
    if not inside(Path(root), path):
        raise ValueError(
            f'The folder "{name}" is outside ComfyUI\'s input folder: move it inside {root}.'
        )
    if not path.is_dir():
        raise FileNotFoundError(f'There is no folder "{name}" in {root}: put the pictures there.')
    return path


def input_folders() -> list[str]:
    """Names of the folders inside ComfyUI's input folder."""
    return sorted(folder_paths.get_input_subfolders())


def checked_run_name(name: str) -> str:
    """A run's name as one path part; ValueError when it could lead anywhere else."""
    if not name.strip() or name in {".", ".."} or re.search(r'[\\/:*?"<>|\x00-\x1f]', name):
        raise ValueError(
            f'The run name "{name}" cannot be a folder: use letters, digits, blanks, - and _.'
        )
    return name.strip()


def new_bundle_path(prefix: str, *, own_folder: bool = False) -> Path:
    """The next free `<prefix>_00001.safetensors` in the output folder; ValueError outside of it.

    With `own_folder` it is `<prefix>_00001/<name>.safetensors`, for files that belong together.
    """
    root = Path(folder_paths.get_output_directory())
    # Workflows from Windows hold backslashes.
    wanted = Path(prefix.replace("\\", "/"))
    stays = inside(root, root / wanted) and ".." not in wanted.parts and not wanted.is_absolute()
    if not stays or not wanted.name:
        raise ValueError(
            f'The name "{prefix}" leads outside ComfyUI\'s output folder: '
            "use a name such as loras/cat."
        )
    for number in itertools.count(1):
        stem = root / wanted.parent / f"{wanted.name}_{number:05}"
        path = stem / f"{wanted.name}.safetensors" if own_folder else Path(f"{stem}.safetensors")
        if not path.exists() and not (own_folder and stem.exists()):
            return path
    raise AssertionError("unreachable")


def in_output(path: Path) -> dict[str, str]:
    """A file of the output folder as the host reports it to the editor."""
    relative = path.relative_to(folder_paths.get_output_directory())
    return {"filename": path.name, "subfolder": relative.parent.as_posix(), "type": "output"}


def bundle_files() -> list[str]:
    """Files that may hold a bundle, as `<kind>/<name>`."""
    return [
        f"{kind}/{name}"
        for kind in BUNDLE_KINDS
        for name in folder_paths.get_filename_list(kind)
        if name.endswith(".safetensors")
    ]


def bundle_path(file: str) -> Path:
    """The path of a file that `bundle_files` lists; FileNotFoundError when it is gone."""
    kind, _, name = file.partition("/")
    found = folder_paths.get_full_path(kind, name) if kind in BUNDLE_KINDS else None
    if found is None:
        raise FileNotFoundError(
            f'There is no bundle "{file}": choose another file or refresh the list.'
        )
    return Path(found)
