"""Finds the pictures and masks of a folder and of the folders in it that belong to it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from ..pictures.decode import EXTENSIONS
from .names import natural_key, same_name, split_concept

MASK_FOLDERS = frozenset({"mask", "masks", "_masks", "alpha"})
OTHER_FOLDERS = frozenset(
    {"_controls", "control", "__macosx"}
    # Thumbnails, snapshots and trash of network storage and of Windows.
    | {"@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot"}
    | {"$recycle.bin", "recycler", "system volume information", "lost+found"}
)
# Other kinds of images, and videos, which somebody may expect to be read.
UNREAD_EXTENSIONS = frozenset(
    {".psd", ".psb", ".xcf", ".kra", ".svg", ".tga", ".exr", ".hdr", ".dng", ".cr2", ".cr3"}
    | {".nef", ".arw", ".orf", ".raf", ".rw2", ".mp4", ".mov", ".webm", ".mkv", ".avi"}
)
MASK_ENDINGS = ("-masklabel", "-mask", "_mask", ".mask")
TABLE_EXTENSIONS = (".jsonl", ".csv", ".json")


class Subfolders(str, Enum):
    """Which folders inside a dataset's folder are part of it."""

    CONCEPTS = "N_concept folders"
    NONE = "none"
    ALL = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannedFolder:
    """One folder of a dataset, with its files."""

    path: Path
    key: str
    """Path within the dataset with a slash at the end; empty for the dataset's own folder."""
    repeats: int = 1
    words: str = ""
    """The words after the number in the name of an `N_concept` folder."""
    files: Mapping[str, Path] = field(repr=False)
    """Every file by its name and by its normalized name."""
    masks_beside: Mapping[str, Path] = field(repr=False)
    """Masks next to the pictures, by the stem of the picture."""
    masks_apart: Mapping[str, Path] = field(repr=False)
    """Those in folders of masks."""
    pictures: tuple[Path, ...] = field(repr=False)

    @property
    def masks(self) -> dict[str, Path]:
        """Masks by the stem of the picture."""
        return {**self.masks_apart, **self.masks_beside}

    def find(self, name: str) -> Path | None:
        """A file next to the pictures; an exact name wins over one in another case or form."""
        return self.files.get(name) or self.files.get(same_name(name))


def scan_folder(folder: Path, subfolders: Subfolders) -> list[ScannedFolder]:
    """Every folder of a dataset with its pictures in natural order; no file is opened.

    Hidden folders and folders of masks and controls are not searched for pictures. Raises
    FileNotFoundError if the folder does not exist.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {folder} does not exist: choose another dataset.")
    return list(_walk(folder, "", subfolders, set()))


def _walk(
    folder: Path, key: str, subfolders: Subfolders, seen: set[str]
) -> Iterator[ScannedFolder]:
    real = os.path.realpath(folder)
    if real in seen:  # a link back to a folder above
        return
    seen.add(real)
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    folders = sorted((e.name for e in visible if e.is_dir()), key=natural_key)
    files = [Path(entry.path) for entry in visible if not entry.is_dir()]
    yield _scanned(
        folder, key, files, [name for name in folders if same_name(name) in MASK_FOLDERS]
    )
    for name in folders:
        if _belongs(name, key, subfolders):
            yield from _walk(folder / name, f"{key}{name}/", subfolders, seen)


def _belongs(name: str, key: str, subfolders: Subfolders) -> bool:
    if same_name(name) in MASK_FOLDERS | OTHER_FOLDERS or subfolders is Subfolders.NONE:
        return False
    return subfolders is Subfolders.ALL or (not key and split_concept(name) is not None)


def passed_over(place: ScannedFolder, subfolders: Subfolders) -> list[str]:
    """The folders in a folder that have pictures and are not read, by their path in the dataset."""
    with os.scandir(place.path) as entries:
        names = [e.name for e in entries if e.is_dir()]
    return [
        place.key + name
        for name in sorted(names, key=natural_key)
        if not _is_ignored(name)
        and not _belongs(name, place.key, subfolders)
        and _has_picture(place.path / name)
    ]


def _has_picture(folder: Path) -> bool:
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_ignored(name)]
        if any(Path(name).suffix.lower() in EXTENSIONS for name in files if name[0] != "."):
            return True
    return False


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or same_name(name) in MASK_FOLDERS | OTHER_FOLDERS


def _scanned(folder: Path, key: str, files: list[Path], mask_folders: list[str]) -> ScannedFolder:
    repeats, words = (split_concept(folder.name) if key else None) or (1, "")
    pictures = [path for path in files if path.suffix.lower() in EXTENSIONS]
    beside, apart = _masks_beside(pictures), dict[str, Path]()
    for name in mask_folders:
        apart = {same_name(p.stem): p for p in _pictures_in(folder / name)} | apart
    taken = set(beside.values())
    own = sorted((p for p in pictures if p not in taken), key=lambda p: natural_key(p.name))
    by_name = {same_name(path.name): path for path in files} | {path.name: path for path in files}
    return ScannedFolder(
        path=folder,
        key=key,
        repeats=repeats,
        words=words,
        files=by_name,
        masks_beside=beside,
        masks_apart=apart,
        pictures=tuple(own),
    )


def _masks_beside(pictures: list[Path]) -> dict[str, Path]:
    """Pictures that have the name of another one plus the ending of a mask."""
    stems = {same_name(path.stem).removesuffix(".src") for path in pictures}
    masks: dict[str, Path] = {}
    for path in pictures:
        stem = same_name(path.stem)
        for ending in MASK_ENDINGS:
            base = stem.removesuffix(ending)
            if base != stem and base in stems:
                masks[base] = path
    return masks


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)


def mask_of(place: ScannedFolder, picture: Path) -> Path | None:
    """The mask of a picture; `1.src.jpg` has the mask of `1.jpg`."""
    stem = same_name(picture.stem)
    return place.masks.get(stem) or place.masks.get(stem.removesuffix(".src"))
