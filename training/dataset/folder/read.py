"""Reads pictures, captions and masks of a folder as a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..pictures.decode import EXTENSIONS, inspect_picture, open_picture
from ..records import Dataset, Record, Transparency, digest, file_stamp
from .names import split_concept
from .scan import TABLE_EXTENSIONS, ScannedFolder, Subfolders, mask_of, scan_folder
from .sidecars import Sidecars

__all__ = ["FolderOptions", "folder_fingerprint", "open_picture", "read_folder"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderOptions:
    """How to read a folder."""

    caption_extension: str = ".txt"
    repeats: int = 1
    default_caption: str = ""
    """Caption for pictures without one."""
    subfolders: Subfolders = Subfolders.CONCEPTS
    every_kind: bool = True
    """Also look for .txt, .caption, metadata.jsonl, .csv and kohya's json."""
    masks: bool = True
    """Use masks next to the pictures or in a folder `masks`."""
    transparency: Transparency = Transparency.WHITE


def read_folder(
    folder: Path,
    *,
    caption_extension: str = ".txt",
    repeats: int = 1,
    options: FolderOptions | None = None,
) -> Dataset:
    """Read the pictures of a folder in natural order.

    Files that cannot be read are left out, with a sentence in `skipped`; `notes` reports other
    oddities. Raises FileNotFoundError for a missing folder and ValueError if no picture is usable.
    """
    options = options or FolderOptions(caption_extension=caption_extension, repeats=repeats)
    skipped: list[str] = []
    notes: list[str] = []
    records: list[Record] = []
    for place in scan_folder(folder, options.subfolders):
        records += _read_place(place, options, skipped, notes)
    if not records:
        raise ValueError(no_picture(folder, skipped))
    return Dataset(
        name=folder.name, records=tuple(records), skipped=tuple(skipped), notes=tuple(notes)
    )


def _read_place(
    place: ScannedFolder, options: FolderOptions, skipped: list[str], notes: list[str]
) -> Iterator[Record]:
    extension = checked_extension(options.caption_extension)
    sidecars = Sidecars(place, extension, every_kind=options.every_kind, notes=notes)
    used: set[Path] = set()
    for picture in place.pictures:
        try:
            header = inspect_picture(picture)
            sidecar = sidecars.caption(picture)
        except ValueError as error:
            skipped.append(str(error))
            continue
        mask = mask_of(place, picture) if options.masks else None
        used |= {mask} if mask else set()
        text, source = sidecar.text, sidecar.source
        if not text and (words := options.default_caption.strip() or place.words):
            text, source = words, "default" if options.default_caption.strip() else "folder"
        yield Record(
            path=picture,
            key=place.key + picture.name,
            caption=text,
            caption_source=source if text else "",
            width=header.width,
            height=header.height,
            repeats=options.repeats * place.repeats,
            mask=mask,
            transparency=options.transparency,
            concept=place.words,
            traits=header.traits,
        )
    if options.masks:
        notes += [f"The mask {path.name} belongs to no image." for path in _unused(place, used)]


def _unused(place: ScannedFolder, used: set[Path]) -> list[Path]:
    return [path for path in dict.fromkeys(place.masks.values()) if path not in used]


def folder_fingerprint(
    folder: Path, caption_extension: str, subfolders: Subfolders = Subfolders.CONCEPTS
) -> str:
    """Hex digest of names, sizes and dates of pictures, masks and captions; no file is opened."""
    endings = {checked_extension(caption_extension).lower(), ".txt", ".caption", *TABLE_EXTENSIONS}
    stamps: list[tuple[str | int, ...]] = []
    for place in scan_folder(folder, subfolders):
        files = {*place.files.values(), *place.masks.values()}
        for path in sorted(path for path in files if path.suffix.lower() in endings | EXTENSIONS):
            stamps.append((place.key, *(file_stamp(path) if path.exists() else (path.name,))))
    return digest(stamps)


def checked_extension(extension: str) -> str:
    """The extension of caption files with a dot, whether it is given as ".txt" or "txt"."""
    name = extension.strip().lstrip(".")
    if not name or not PurePath(name).name == name or f".{name}".lower() in EXTENSIONS:
        raise ValueError(f'caption_extension is "{extension}": use one such as ".txt".')
    return f".{name}"


def no_picture(folder: Path, skipped: Sequence[str]) -> str:
    """Why a folder has no usable picture, and what to do."""
    if skipped:
        first = f"None of the {len(skipped)} images in {folder} can be used"
        return f"{first}: {skipped[0]}"
    kinds = ", ".join(sorted(kind.lstrip(".") for kind in EXTENSIONS))
    parent = (
        " It is an N_concept folder: choose the folder above it."
        if split_concept(folder.name)
        else ""
    )
    return f"There is no image in {folder} itself: put some there ({kinds}).{parent}"
