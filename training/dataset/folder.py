"""Reads a folder of pictures with a caption file beside each."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from .pictures import EXTENSIONS, inspect_picture, open_picture
from .records import Dataset, Record, digest, file_stamp

__all__ = ["folder_fingerprint", "open_picture", "read_folder"]


def read_folder(folder: Path, *, caption_extension: str = ".txt", repeats: int = 1) -> Dataset:
    """Read the pictures of a folder, not of folders in it, in natural order.

    Files that cannot be read are left out with a sentence in `skipped`. Raises
    FileNotFoundError without a folder and ValueError without a readable picture.
    """
    records: list[Record] = []
    skipped: list[str] = []
    pairs = list_pictures(folder, caption_extension)
    for picture, caption in pairs:
        try:
            width, height = inspect_picture(picture)
            text = read_caption(caption, picture) if caption else ""
        except ValueError as error:
            skipped.append(str(error))
            continue
        records.append(
            Record(path=picture, caption=text, width=width, height=height, repeats=repeats)
        )
    if not records:
        raise ValueError(no_picture(folder, skipped))
    return Dataset(name=folder.name, records=tuple(records), skipped=tuple(skipped))


def folder_fingerprint(folder: Path, caption_extension: str) -> str:
    """Hex digest of the names, sizes and dates of pictures and captions; opens no file."""
    stamps: list[tuple[str | int, ...]] = []
    for pair in list_pictures(folder, caption_extension):
        stamps += [file_stamp(path) if path and path.exists() else ("",) for path in pair]
    return digest(stamps)


def list_pictures(folder: Path, caption_extension: str) -> list[tuple[Path, Path | None]]:
    """Every picture file in natural order with its caption file, None when there is none."""
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {folder} does not exist: choose another dataset.")
    extension = checked_extension(caption_extension)
    files = [path for path in folder.iterdir() if path.name[0] != "." and not path.is_dir()]
    # An exact name wins over one that differs in case or Unicode form, as between systems.
    captions = {same_name(path.name): path for path in files} | {path.name: path for path in files}
    pictures = [path for path in files if path.suffix.lower() in EXTENSIONS]
    pictures.sort(key=lambda path: natural_key(path.name))
    return [(path, find_caption(path, extension, captions)) for path in pictures]


def checked_extension(extension: str) -> str:
    """The extension of caption files with its dot; ".txt" and "txt" are the same."""
    name = extension.strip().lstrip(".")
    if not name or not PurePath(name).name == name or f".{name}".lower() in EXTENSIONS:
        raise ValueError(f'caption_extension is "{extension}": use one such as ".txt".')
    return f".{name}"


def find_caption(picture: Path, extension: str, captions: Mapping[str, Path]) -> Path | None:
    """The caption file beside a picture: only the last suffix of its name is replaced."""
    name = picture.stem + extension
    return captions.get(name) or captions.get(same_name(name))


def read_caption(path: Path, picture: Path) -> str:
    """The text without byte-order mark and surrounding space; ValueError when it is no UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name} is not UTF-8 text, so {picture.name} is left out: save it as UTF-8."
        ) from error
    except OSError as error:
        raise ValueError(
            f"{path.name} cannot be opened ({error.strerror}), so {picture.name} is left out: "
            "make it readable or remove it."
        ) from error


def same_name(name: str) -> str:
    """A name without what file systems differ in: letter case and composed or split accents."""
    return unicodedata.normalize("NFC", name).casefold()


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key that counts: cat_2.png comes before cat_10.png."""
    parts = re.split(r"(\d+)", same_name(PurePath(name).stem))
    return [int(part) if part.isdecimal() else part for part in parts], name


def no_picture(folder: Path, skipped: Sequence[str]) -> str:
    """Why a folder cannot be trained on, and what to do."""
    if skipped:
        first = f"None of the {len(skipped)} pictures in {folder} can be used"
        return f"{first}: {skipped[0]}"
    kinds = ", ".join(sorted(kind.lstrip(".") for kind in EXTENSIONS))
    return f"There is no picture in {folder} itself: put some there ({kinds})."
