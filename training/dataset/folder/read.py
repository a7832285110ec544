"""Reads pictures, captions and masks of a folder as a dataset."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from ..pictures.decode import EXTENSIONS, inspect_picture, open_picture
from ..records import Dataset, Record, Transparency, digest, file_stamp, listed
from .names import natural_key, split_concept
from .notes import Notes
from .scan import (
    TABLE_EXTENSIONS,
    UNREAD_EXTENSIONS,
    ScannedFolder,
    Subfolders,
    mask_of,
    passed_over,
    scan_folder,
)
from .sidecars import CaptionTable, Sidecars, read_tables

USUAL_EXTENSIONS = frozenset(
    {".txt", ".text", ".caption", ".captions", ".cap", ".tag", ".tags", ".prompt", ".note"}
    | {".desc", ".description", ".booru", ".wd", ".wd14", ".blip", ".blip2", ".florence", ".joy"}
    | {".json", ".jsonl", ".csv"}
)

__all__ = ["FolderOptions", "check_listed", "folder_fingerprint", "open_picture", "read_folder"]


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
    skipped, notes = Notes(), Notes()
    records: list[Record] = []
    places = scan_folder(folder, options.subfolders)
    tables = read_tables(places, notes) if options.every_kind else []
    for place in places:
        records += _read_place(place, tables, options, skipped, notes)
    unread = [name for place in places for name in passed_over(place, options.subfolders)]
    if not records:
        raise ValueError(no_picture(folder, skipped, unread))
    if odd := [place.key + name for place in places for name in place.odd]:
        notes.add(
            f"These links lead out of the dataset or to no file and are not read: {listed(odd)}. "
            "Copy the files into its folder."
        )
    if unread:
        notes.add(f"These subfolders have images that are not read: {_cure(unread)}.")
    return Dataset(
        name=folder.name,
        records=tuple(records),
        skipped=skipped.sentences(),
        notes=notes.sentences(),
    )


def _cure(unread: Sequence[str]) -> str:
    """Subfolders that are not read, and what reads them."""
    name = unread[0].rpartition("/")[2]
    names = "" if split_concept(name) else f", or give them names such as 10_{name}"
    return f'{listed(unread)}. To use them, set subfolders to "all"{names}'


def _read_place(
    place: ScannedFolder,
    tables: Sequence[CaptionTable],
    options: FolderOptions,
    skipped: Notes,
    notes: Notes,
) -> Iterator[Record]:
    extension = checked_extension(options.caption_extension)
    sidecars = Sidecars(place, extension, tables, every_kind=options.every_kind, notes=notes)
    place = _with_captioned_masks(place, sidecars, notes)
    users: dict[Path, str] = {}
    if others := _unread_files(place):
        notes.add(
            f"Files of these kinds are not read: {listed(others)}. Save images as PNG or JPEG."
        )
    for picture in place.pictures:
        try:
            header = inspect_picture(picture)
            sidecar = sidecars.caption(picture)
        except ValueError as error:
            skipped.add(str(error), picture.name)
            continue
        mask = mask_of(place, picture) if options.masks else None
        if mask and (other := users.setdefault(mask, picture.name)) != picture.name:
            notes.add(f"{other} and {picture.name} share the mask {mask.name}.", picture.stem)
        text, source = sidecar.text, sidecar.source
        if not text and (words := options.default_caption.strip() or place.words):
            text, source = words, "default" if options.default_caption.strip() else "folder"
        yield Record(
            path=picture,
            key=place.key + picture.name,
            caption=text,
            caption_source=source if text else "",
            read_from=sidecar.place,
            width=header.width,
            height=header.height,
            repeats=options.repeats * place.repeats,
            mask=mask,
            transparency=options.transparency,
            concept=place.words,
            traits=header.traits,
        )
    if options.masks:
        for path in _unused(place, users):
            notes.add(f"The mask {path.name} belongs to no image.", path.name)


def _with_captioned_masks(place: ScannedFolder, sidecars: Sidecars, notes: Notes) -> ScannedFolder:
    """The folder with images that are called like masks and have captions among its pictures."""
    pictures, masks = list(place.pictures), dict(place.masks_beside)
    for base, path in place.masks_beside.items():
        if not _is_captioned(path, sidecars):
            continue
        if path.stem.lower().endswith("-masklabel"):  # nobody calls a photo so
            notes.add(f"{path.name} is a mask, and its caption is not used.", path.name)
            continue
        del masks[base]
        pictures.append(path)
        notes.add(
            f"{path.name} has a caption and is read as an image of its own: delete the caption if "
            "it is a mask.",
            path.name,
        )
    pictures.sort(key=lambda path: natural_key(path.name))
    return replace(place, pictures=tuple(pictures), masks_beside=masks)


def _is_captioned(path: Path, sidecars: Sidecars) -> bool:
    try:
        return bool(sidecars.caption(path).text)
    except ValueError:  # a caption that cannot be read is reported for the picture
        return True


def _unread_files(place: ScannedFolder) -> list[str]:
    paths = set(place.files.values())
    names = [path.name for path in paths if path.suffix.lower() in UNREAD_EXTENSIONS]
    return sorted(names, key=natural_key)


def _unused(place: ScannedFolder, used: Container[Path]) -> list[Path]:
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


def check_listed(extension: str) -> None:
    """Raise ValueError for an extension that captions do not usually have, such as ".pem"."""
    if checked_extension(extension).lower() not in USUAL_EXTENSIONS:
        usual = ", ".join(sorted(USUAL_EXTENSIONS))
        raise ValueError(
            f'caption_extension is "{extension}": outside ComfyUI\'s folders, use one of {usual}.'
        )


def no_picture(folder: Path, skipped: Notes, unread: Sequence[str]) -> str:
    """Why a folder has no usable picture, and what to do."""
    if skipped:
        first = f"None of the {len(skipped)} images in {folder.name} can be used"
        return f"{first}: {skipped.sentences()[0]}"
    if unread:
        return f"There is no image in {folder.name} itself, but in its subfolders {_cure(unread)}."
    kinds = ", ".join(sorted(kind.lstrip(".") for kind in EXTENSIONS))
    parent = (
        " It is an N_concept folder: choose the folder above it."
        if split_concept(folder.name)
        else ""
    )
    return f"There is no image in {folder.name} itself: put some there ({kinds}).{parent}"
