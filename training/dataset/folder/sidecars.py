"""Captions next to pictures: text files, metadata.jsonl and .csv, kohya's json."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from .names import same_name
from .scan import TABLE_EXTENSIONS, ScannedFolder

NAME_COLUMNS = ("file_name", "image_file", "image", "file", "filename")
TEXT_COLUMNS = ("text", "caption", "prompt", "description")


@dataclass(frozen=True, slots=True)
class SidecarCaption:
    """A caption and where it comes from."""

    text: str
    source: str


def read_text(path: Path) -> tuple[str, bool]:
    """A file's text without byte-order mark and surrounding space, and whether it is a guess.

    Files that are not UTF-8 are read as Windows-1252, which defines all but five bytes. Raises
    ValueError if the file cannot be opened.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path.name} cannot be opened ({error.strerror}): make it readable or remove it."
        ) from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace").strip(), False
    if (wide := _without_mark(data)) is not None:
        return clean(wide), False
    try:
        return clean(data.decode("utf-8-sig")), False
    except UnicodeDecodeError:
        return clean(data.removeprefix(b"\xef\xbb\xbf").decode("cp1252", "replace")), True


def _without_mark(data: bytes) -> str | None:
    """UTF-16 without a byte-order mark, by the zeros in every second byte of its Latin letters."""
    for codec, zeros in (("utf-16-le", data[1::2]), ("utf-16-be", data[::2])):
        if len(data) % 2 == 0 and 2 * zeros.count(0) > len(zeros):
            with suppress(UnicodeDecodeError):
                return data.decode(codec)
    return None


def clean(text: str) -> str:
    """Text with uniform line ends, stripped."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


class Sidecars:
    """The captions of one folder, in the order of precedence of their files."""

    def __init__(self, place: ScannedFolder, extension: str, *, every_kind: bool, notes: list[str]):
        extensions = dict.fromkeys([extension, ".txt", ".caption"] if every_kind else [extension])
        self.place, self.extensions, self.notes = place, list(extensions), notes
        self.users: dict[Path, str] = {}
        self.tables = _read_tables(place, notes) if every_kind else {}

    def caption(self, picture: Path) -> SidecarCaption:
        """The caption of a picture; text and source are empty if it has none.

        Of several, the first of explicit extension, .txt, .caption, metadata.jsonl, .csv and
        kohya's json is used, with a note if they differ. Raises ValueError for an unreadable file.
        """
        captions = [*self._files(picture), *self._rows(picture)]
        texts = {" ".join(caption.text.split()) for caption in captions}
        if len(texts) > 1:
            sources = " and ".join(dict.fromkeys(caption.source for caption in captions))
            self.notes.append(
                f"{picture.name} has different captions in {sources}: {captions[0].source} is used."
            )
        return captions[0] if captions else SidecarCaption("", "")

    def _files(self, picture: Path) -> Iterator[SidecarCaption]:
        for extension in self.extensions:
            path = self.place.find(picture.stem + extension)
            if path is None:
                continue
            text, guessed = read_text(path)
            if guessed:
                self.notes.append(
                    f"{path.name} is not UTF-8 text and was read as Windows-1252: save it as UTF-8."
                )
            self._shared(path, picture)
            yield SidecarCaption(text, extension)

    def _shared(self, path: Path, picture: Path) -> None:
        other = self.users.setdefault(path, picture.name)
        if other != picture.name:
            self.notes.append(f"{other} and {picture.name} share the caption {path.name}.")

    def _rows(self, picture: Path) -> Iterator[SidecarCaption]:
        for source, table in self.tables.items():
            keys = (same_name(picture.name), same_name(picture.stem))
            text = next((table[key] for key in keys if key in table), None)
            if text is not None:
                yield SidecarCaption(text, source)


def _read_tables(place: ScannedFolder, notes: list[str]) -> dict[str, dict[str, str]]:
    """The caption tables of a folder by file name, each from picture to text."""
    paths = {path for path in place.files.values() if path.suffix.lower() in TABLE_EXTENSIONS}
    tables: dict[str, dict[str, str]] = {}
    for path in sorted(paths, key=lambda p: (TABLE_EXTENSIONS.index(p.suffix.lower()), p.name)):
        try:
            rows = _rows_of(path, notes)
        except ValueError as error:
            notes.append(f"{path.name} cannot be read as captions ({error}): correct or remove it.")
            continue
        table = {key: text for key, text in rows if text}
        if table:
            tables[path.name] = table
    return tables


def _rows_of(path: Path, notes: list[str]) -> list[tuple[str, str]]:
    text, _ = read_text(path)
    if path.suffix.lower() == ".jsonl":
        return list(_json_lines(path, text, notes))
    if path.suffix.lower() == ".csv":
        return list(_csv_rows(text))
    return list(_kohya_rows(json.loads(text)))


def _json_lines(path: Path, text: str, notes: list[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and (key := field_of(cast("dict[str, Any]", row), NAME_COLUMNS)):
            yield key_of(key), field_of(cast("dict[str, Any]", row), TEXT_COLUMNS)
        else:
            notes.append(f"Line {number} of {path.name} is not a caption of an image: correct it.")


def _csv_rows(text: str) -> Iterator[tuple[str, str]]:
    for row in csv.DictReader(io.StringIO(text)):
        if key := field_of(row, NAME_COLUMNS):
            yield key_of(key), field_of(row, TEXT_COLUMNS)


def _kohya_rows(data: Any) -> Iterator[tuple[str, str]]:
    """kohya's fine-tuning metadata: caption and tags of each picture, joined by a comma."""
    if not isinstance(data, dict):
        return
    for key, row in cast("dict[str, Any]", data).items():
        if isinstance(row, dict):
            fields = cast("dict[str, Any]", row)
            parts = [field_of(fields, ("caption",)), field_of(fields, ("tags",))]
            yield key_of(key), ", ".join(part for part in parts if part)


def field_of(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The first field of a row that has text, stripped; empty if none has."""
    values = (row.get(name) for name in names)
    return next((clean(value) for value in values if isinstance(value, str) and value.strip()), "")


def key_of(name: str) -> str:
    """The key of a row's picture, which rows give as relative path, full path or stem."""
    return same_name(PurePosixPath(name.replace("\\", "/")).name)
