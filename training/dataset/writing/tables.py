"""Caption tables with new captions; everything else in them stays as it was.

A picture's row is found as the reader finds it: by any of its name columns, name before stem.
"""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, cast

from ..folder.names import same_name
from ..folder.sidecars import NAME_COLUMNS, TEXT_COLUMNS, field_of, key_of
from ..records import Record

MARK = "\ufeff"
"""The byte-order mark at the start of files from spreadsheet programs."""
NAME, TEXT = NAME_COLUMNS[0], TEXT_COLUMNS[0]


class Table(ABC):
    """A parsed table that can be written again; ValueError for one that cannot be parsed."""

    captions: tuple[str, ...] = TEXT_COLUMNS
    """The fields of a row that may hold its caption."""

    def __init__(self, keys: Iterable[str]):
        """`keys` are the keys of the rows' pictures, in the order of the rows."""
        self._places = {key: place for place, key in enumerate(keys) if key}

    def place_of(self, record: Record) -> int | None:
        """The index of a picture's row; None if it has none."""
        keys = (same_name(record.path.name), same_name(record.path.stem))
        return next((self._places[key] for key in keys if key in self._places), None)

    def caption(self, record: Record) -> str:
        """The caption of a picture in the table."""
        place = self.place_of(record)
        return "" if place is None else field_of(self.fields(place), self.captions)

    @abstractmethod
    def fields(self, place: int) -> Mapping[str, Any]:
        """The fields of a row by name."""

    @abstractmethod
    def put(self, record: Record, text: str) -> None:
        """Set the caption of a picture."""

    @abstractmethod
    def text(self) -> str:
        """The text of the file."""


class JsonLines(Table):
    """metadata.jsonl: one object per line."""

    def __init__(self, before: str):
        self._mark = MARK if before.startswith(MARK) else ""
        self._lines = [line for line in before.removeprefix(MARK).split("\n") if line.strip()]
        self._rows = [_object(line, number) for number, line in enumerate(self._lines, 1)]
        super().__init__(key_of(field_of(row, NAME_COLUMNS)) for row in self._rows)

    def fields(self, place: int) -> Mapping[str, Any]:
        """The object of a line; empty if the line is something else."""
        return self._rows[place]

    def put(self, record: Record, text: str) -> None:
        """Set the caption of a picture, in its line or in a new one."""
        place = self.place_of(record)
        row = {NAME: record.path.name} if place is None else self._rows[place]
        row[_text_column(row)] = text
        line = json.dumps(row, ensure_ascii=False)
        if place is None:
            self._lines.append(line)
        else:
            self._lines[place] = line

    def text(self) -> str:
        """The file."""
        return self._mark + "".join(f"{line}\n" for line in self._lines)


class Csv(Table):
    """metadata.csv: a header, then one row per picture."""

    def __init__(self, before: str):
        self._mark = MARK if before.startswith(MARK) else ""
        self._end = "\r\n" if "\r\n" in before else "\n"
        rows = [
            row for row in csv.reader(io.StringIO(before.removeprefix(MARK), newline="")) if row
        ]
        self._header, self._rows = (rows[0], rows[1:]) if rows else ([NAME, TEXT], [])
        if not any(name in self._header for name in NAME_COLUMNS):
            raise ValueError(
                f"metadata.csv has no column {NAME}, so its rows belong to no images: add one, "
                "or choose another format."
            )
        named = (self.fields(place) for place in range(len(self._rows)))
        super().__init__(key_of(field_of(row, NAME_COLUMNS)) for row in named)

    def fields(self, place: int) -> Mapping[str, Any]:
        """A row by the header; cells beyond the header have no name and stay as they are."""
        return dict(zip(self._header, self._rows[place], strict=False))

    def put(self, record: Record, text: str) -> None:
        """Set the caption of a picture, in its row or in a new one."""
        place = self.place_of(record)
        if place is None:
            self._rows.append([])
            place = len(self._rows) - 1
            self._set(place, next(n for n in NAME_COLUMNS if n in self._header), record.path.name)
        self._set(place, _text_column(self.fields(place), self._header), text)

    def text(self) -> str:
        """The file."""
        out = io.StringIO(newline="")
        csv.writer(out, lineterminator=self._end).writerows([self._header, *self._rows])
        return self._mark + out.getvalue()

    def _set(self, place: int, column: str, value: str) -> None:
        if column not in self._header:
            widest = max(map(len, self._rows))
            self._header += [""] * (widest - len(self._header)) + [column]
        row, index = self._rows[place], self._header.index(column)
        row += [""] * (index + 1 - len(row))
        row[index] = value


class Kohya(Table):
    """meta.json: an object with one object for each picture, by name, path or stem."""

    captions = ("caption",)
    """Tags are a separate field."""

    def __init__(self, before: str):
        read: Any = _json(before, "meta.json") if before.strip() else {}
        rows: dict[str, Any] = cast("Any", read) if isinstance(read, dict) else {"": None}
        if not all(isinstance(row, dict) for row in rows.values()):
            raise ValueError(
                "meta.json is not a table of captions: correct it or choose another format."
            )
        self._rows: dict[str, dict[str, Any]] = rows
        self._names = list(rows)
        super().__init__(map(key_of, self._names))

    def fields(self, place: int) -> Mapping[str, Any]:
        """A picture's object."""
        return self._rows[self._names[place]]

    def put(self, record: Record, text: str) -> None:
        """Set the caption of a picture, in its object or in a new one under its stem."""
        place = self.place_of(record)
        name = record.path.stem if place is None else self._names[place]
        self._rows.setdefault(name, {})["caption"] = text

    def text(self) -> str:
        """The file."""
        return json.dumps(self._rows, ensure_ascii=False, indent=2) + "\n"


def _text_column(row: Mapping[str, Any], columns: Iterable[str] = ()) -> str:
    """The column of a row's caption, or the one to write it into."""
    present = [name for name in TEXT_COLUMNS if name in {*row, *columns}]
    return next((name for name in present if field_of(row, (name,))), [*present, TEXT][0])


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"{where} is not JSON ({error}): correct it or choose another format."
        ) from error


def _object(line: str, number: int) -> dict[str, Any]:
    """The object of a line; a line with something else has no fields and stays as it is."""
    row = _json(line, f"Line {number} of metadata.jsonl")
    return cast("dict[str, Any]", row) if isinstance(row, dict) else {}
