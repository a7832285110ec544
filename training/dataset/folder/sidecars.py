"""Captions beside pictures: text files, metadata.jsonl and .csv, kohya's json."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from .names import same_name
from .scan import TABLES, Place

NAME_COLUMNS = ("file_name", "image_file", "image", "file", "filename")
TEXT_COLUMNS = ("text", "caption", "prompt", "description")


@dataclass(frozen=True, slots=True)
class Found:
    """A caption and where it is from."""

    text: str
    source: str


def read_text(path: Path) -> tuple[str, bool]:
    """Text without byte-order mark and surrounding space, and whether it had to be guessed.

    What is no UTF-8 is read as Windows-1252, in which every byte but five is a letter. ValueError
    when the file cannot be opened.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path.name} cannot be opened ({error.strerror}): make it readable or remove it."
        ) from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace").strip(), False
    try:
        return clean(data.decode("utf-8-sig")), False
    except UnicodeDecodeError:
        return clean(data.removeprefix(b"\xef\xbb\xbf").decode("cp1252", "replace")), True


def clean(text: str) -> str:
    """Line ends of one kind, no space around."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


class Sidecars:
    """The captions of one folder, looked up in the order of their precedence."""

    def __init__(self, place: Place, extension: str, *, every_kind: bool, notes: list[str]):
        extensions = dict.fromkeys([extension, ".txt", ".caption"] if every_kind else [extension])
        self.place, self.extensions, self.notes = place, list(extensions), notes
        self.users: dict[Path, str] = {}
        self.tables = _read_tables(place, notes) if every_kind else {}

    def caption(self, picture: Path) -> Found:
        """The caption of a picture; empty text and source when it has none.

        ValueError when its file cannot be opened. Two kinds that differ give a note, and the
        first of explicit extension, .txt, .caption, metadata.jsonl, .csv and kohya's json is taken.
        """
        found = [*self._files(picture), *self._rows(picture)]
        texts = {" ".join(one.text.split()) for one in found}
        if len(texts) > 1:
            sources = " and ".join(dict.fromkeys(one.source for one in found))
            self.notes.append(
                f"{picture.name} has different captions in {sources}: {found[0].source} is used."
            )
        return found[0] if found else Found("", "")

    def _files(self, picture: Path) -> Iterator[Found]:
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
            yield Found(text, extension)

    def _shared(self, path: Path, picture: Path) -> None:
        other = self.users.setdefault(path, picture.name)
        if other != picture.name:
            self.notes.append(f"{other} and {picture.name} share the caption {path.name}.")

    def _rows(self, picture: Path) -> Iterator[Found]:
        for source, table in self.tables.items():
            keys = (same_name(picture.name), same_name(picture.stem))
            text = next((table[key] for key in keys if key in table), None)
            if text is not None:
                yield Found(text, source)


def _read_tables(place: Place, notes: list[str]) -> dict[str, dict[str, str]]:
    """Caption tables of a folder by their file's name, each from picture to text."""
    paths = {path for path in place.files.values() if path.suffix.lower() in TABLES}
    tables: dict[str, dict[str, str]] = {}
    for path in sorted(paths, key=lambda p: (TABLES.index(p.suffix.lower()), p.name)):
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
            notes.append(f"Line {number} of {path.name} is no caption of a picture: correct it.")


def _csv_rows(text: str) -> Iterator[tuple[str, str]]:
    for row in csv.DictReader(io.StringIO(text)):
        if key := field_of(row, NAME_COLUMNS):
            yield key_of(key), field_of(row, TEXT_COLUMNS)


def _kohya_rows(data: Any) -> Iterator[tuple[str, str]]:
    """kohya's fine-tuning metadata: picture to caption and tags, joined by commas."""
    if not isinstance(data, dict):
        return
    for key, row in cast("dict[str, Any]", data).items():
        if isinstance(row, dict):
            fields = cast("dict[str, Any]", row)
            parts = [field_of(fields, ("caption",)), field_of(fields, ("tags",))]
            yield key_of(key), ", ".join(part for part in parts if part)


def field_of(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The first of a row's fields with text in it, without space around; empty for none."""
    values = (row.get(name) for name in names)
    return next((clean(value) for value in values if isinstance(value, str) and value.strip()), "")


def key_of(name: str) -> str:
    """What a row's name of a picture is looked up by.

    Rows name pictures by a path relative to the file, by a full path or by a stem.
    """
    return same_name(PurePosixPath(name.replace("\\", "/")).name)
