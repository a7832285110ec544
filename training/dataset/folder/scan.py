"""Finds the pictures and masks of a folder and of the folders in it that belong to it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
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
    odd: tuple[str, ...] = ()
    """Names of pipes, devices, and links out of the dataset to captions, tables and masks."""

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
        raise FileNotFoundError(f"The folder {folder.name} does not exist: choose another dataset.")
    return list(_walk(folder, "", subfolders, os.path.realpath(folder), set()))


def _walk(
    folder: Path, key: str, subfolders: Subfolders, root: str, seen: set[str]
) -> Iterator[ScannedFolder]:
    real = os.path.realpath(folder)
    if real in seen:  # a link back to a folder above
        return
    seen.add(real)
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    folders = sorted((e.name for e in visible if e.is_dir()), key=natural_key)
    files = _sort_out(folder, [entry for entry in visible if not entry.is_dir()], root)
    masks = [
        _sort_out(folder / name, os.scandir(folder / name), root)
        for name in folders
        if same_name(name) in MASK_FOLDERS
    ]
    yield _scanned(folder, key, files, masks)
    for name in folders:
        if _belongs(name, key, subfolders):
            yield from _walk(folder / name, f"{key}{name}/", subfolders, root, seen)


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of one folder by what they may be read as."""

    own: list[Path] = field(default_factory=list[Path])
    """Plain files of the dataset, and links to such"""
    linked: list[Path] = field(default_factory=list[Path])
    """Links that lead out of the dataset to plain files; they are read as pictures alone"""
    odd: list[Path] = field(default_factory=list[Path])
    """Pipes, devices and links to them, which are never opened"""


def _sort_out(folder: Path, entries: Iterable[os.DirEntry[str]], root: str) -> _Files:
    files, is_own = _Files(), is_below(root, folder)
    for entry in entries:
        path = Path(entry.path)
        if entry.is_symlink():
            # A broken link is reported as a picture that cannot be read.
            is_plain = entry.is_file() or not os.path.exists(path)
            own = is_below(root, path)
        else:
            is_plain, own = entry.is_file(), is_own
        if is_plain:
            (files.own if own else files.linked).append(path)
        elif not entry.is_dir():
            files.odd.append(path)
    return files


def is_below(root: str | Path, path: Path) -> bool:
    """Whether a path, once its links are resolved, is a folder without links or is in it."""
    real = os.path.realpath(path)
    return real == str(root) or real.startswith(os.path.join(root, ""))


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


def _scanned(folder: Path, key: str, files: _Files, masks: list[_Files]) -> ScannedFolder:
    repeats, words = (split_concept(folder.name) if key else None) or (1, "")
    own, linked = _pictures(files.own), _pictures(files.linked)
    stems = {same_name(path.stem).removesuffix(".src") for path in (*own, *linked)}
    beside, apart = _masks_beside(own, stems), dict[str, Path]()
    for one in masks:
        apart = {same_name(path.stem): path for path in sorted(_pictures(one.own))} | apart
    taken = {*beside.values(), *_masks_beside(linked, stems).values()}
    pictures = [path for path in (*own, *linked) if path not in taken]
    unread = {*files.linked, *(path for one in masks for path in one.linked)} - set(pictures)
    odd = [*unread, *files.odd, *(path for one in masks for path in one.odd)]
    known = [*files.own, *linked]
    return ScannedFolder(
        path=folder,
        key=key,
        repeats=repeats,
        words=words,
        files={same_name(path.name): path for path in known} | {path.name: path for path in known},
        masks_beside=beside,
        masks_apart=apart,
        pictures=tuple(sorted(pictures, key=lambda path: natural_key(path.name))),
        odd=tuple(sorted(path.relative_to(folder).as_posix() for path in odd)),
    )


def _pictures(files: Iterable[Path]) -> list[Path]:
    return [path for path in files if path.suffix.lower() in EXTENSIONS]


def _masks_beside(pictures: list[Path], stems: Collection[str]) -> dict[str, Path]:
    """Pictures that have the name of another one plus the ending of a mask."""
    masks: dict[str, Path] = {}
    for path in pictures:
        stem = same_name(path.stem)
        for ending in MASK_ENDINGS:
            base = stem.removesuffix(ending)
            if base != stem and base in stems:
                masks[base] = path
    return masks


def mask_of(place: ScannedFolder, picture: Path) -> Path | None:
    """The mask of a picture; `1.src.jpg` has the mask of `1.jpg`."""
    stem = same_name(picture.stem)
    return place.masks.get(stem) or place.masks.get(stem.removesuffix(".src"))
