"""Tables of captions: metadata.jsonl, .csv and kohya's json, read and written again.

Whatever a table was not asked to change stays as it was.
"""

from __future__ import annotations

import csv
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from .names import same_name
from .notes import Notes
from .text_files import clean

NAME_COLUMNS = ("file_name", "image_file", "image", "file", "filename")
TEXT_COLUMNS = ("text", "caption", "prompt", "description")
MARK = "\ufeff"
"""The byte-order mark at the start of files from spreadsheet programs."""
NAME, TEXT = NAME_COLUMNS[0], TEXT_COLUMNS[0]
SEPARATORS = (",", ";", "\t", "|")


class Table(ABC):
    """A parsed table that can be written again; ValueError for one that cannot be parsed."""

    names: list[str]
    """What each row calls its picture; empty for a row that names none."""
    oddities: list[str]
    """A sentence for each row that was not understood."""
    unsafe: str = ""
    """Why the table cannot be written again, such as "it is not JSON"; empty if it can."""

    @abstractmethod
    def caption(self, place: int) -> str:
        """The caption in a row."""

    @abstractmethod
    def put(self, place: int | None, name: str, text: str) -> None:
        """Set the caption of a row, or add a row with this name if `place` is None."""

    @abstractmethod
    def text(self) -> str:
        """The text of the file."""


class JsonLines(Table):
    """metadata.jsonl: one object per line."""

    def __init__(self, before: str, file: str = "metadata.jsonl"):
        self._mark = MARK if before.startswith(MARK) else ""
        self._lines = [line for line in before.removeprefix(MARK).split("\n") if line.strip()]
        self._rows: list[dict[str, Any]] = []
        notes = Notes()
        for number, line in enumerate(self._lines, 1):
            row = self._object(line, number)
            if not field_of(row, NAME_COLUMNS):
                sentence = f"Line {number} of {file} is not a caption of an image: correct it."
                notes.add(sentence, f"Line {number}")
            self._rows.append(row)
        self.oddities = list(notes.sentences())
        self.names = [field_of(row, NAME_COLUMNS) for row in self._rows]

    def _object(self, line: str, number: int) -> dict[str, Any]:
        try:
            row = parsed_json(line)
        except ValueError as error:
            self.unsafe = self.unsafe or f"its line {number} is not JSON: {error}"
            return {}
        return cast("dict[str, Any]", row) if isinstance(row, dict) else {}

    def caption(self, place: int) -> str:
        """The caption in a line."""
        return field_of(self._rows[place], TEXT_COLUMNS)

    def put(self, place: int | None, name: str, text: str) -> None:
        """Set the caption of a line, or add one."""
        row = {NAME: name} if place is None else self._rows[place]
        row[_text_column(row)] = text
        line = json.dumps(row, ensure_ascii=False)
        if place is None:
            self._lines.append(line)
            self._rows.append(row)
            self.names.append(name)
        else:
            self._lines[place] = line

    def text(self) -> str:
        """The file."""
        return self._mark + "".join(f"{line}\n" for line in self._lines)


class Csv(Table):
    """metadata.csv: a header, then one row per picture, between commas or what stands there."""

    def __init__(self, before: str, file: str = "metadata.csv"):
        body = before.removeprefix(MARK)
        self._mark = MARK if before.startswith(MARK) else ""
        self._end = "\r\n" if "\r\n" in before else "\n"
        try:
            self._separator = separator_of(body)
            read = csv.reader(io.StringIO(body, newline=""), delimiter=self._separator)
            rows = [row for row in read if row]
        except csv.Error as error:
            raise ValueError(f"it is not a table: {error}") from error
        self._header, self._rows = (rows[0], rows[1:]) if rows else ([NAME, TEXT], [])
        self._columns = [column_name(cell) for cell in self._header]
        self.oddities = []
        if not any(name in self._columns for name in NAME_COLUMNS):
            self.unsafe = f"it has no column {NAME}, so its rows belong to no images"
            self.oddities.append(
                f"{file} has no column {NAME} and is not read: add a first line such as "
                f"{NAME},{TEXT} if its rows are captions."
            )
        elif rows and not any(name in self._columns for name in TEXT_COLUMNS):
            self.oddities.append(f"{file} has no column {TEXT} and so no captions: add one.")
        self.names = [field_of(self._fields(place), NAME_COLUMNS) for place in range(len(rows[1:]))]

    def _fields(self, place: int) -> Mapping[str, Any]:
        """A row by its columns; cells beyond the header have no name and stay as they are."""
        return dict(zip(self._columns, self._rows[place], strict=False))

    def caption(self, place: int) -> str:
        """The caption in a row."""
        return field_of(self._fields(place), TEXT_COLUMNS)

    def put(self, place: int | None, name: str, text: str) -> None:
        """Set the caption of a row, or add one."""
        if place is None:
            self._rows.append([])
            self.names.append(name)
            place = len(self._rows) - 1
            self._set(place, next(n for n in NAME_COLUMNS if n in self._columns), name)
        self._set(place, _text_column(self._fields(place), self._columns), text)

    def text(self) -> str:
        """The file."""
        out = io.StringIO(newline="")
        writer = csv.writer(out, delimiter=self._separator, lineterminator=self._end)
        writer.writerows([self._header, *self._rows])
        return self._mark + out.getvalue()

    def _set(self, place: int, column: str, value: str) -> None:
        if column not in self._columns:
            widest = max(map(len, self._rows))
            more = [""] * (widest - len(self._header)) + [column]
            self._header, self._columns = self._header + more, self._columns + more
        row, index = self._rows[place], self._columns.index(column)
        row += [""] * (index + 1 - len(row))
        row[index] = value


class Kohya(Table):
    """meta.json: an object with one object for each picture, by name, path or stem.

    As in kohya's training, a picture's caption is followed by its tags.
    """

    def __init__(self, before: str, _file: str = "meta.json"):
        try:
            read: Any = parsed_json(before.removeprefix(MARK)) if before.strip() else {}
        except ValueError as error:
            raise ValueError(f"it is not JSON: {error}") from error
        rows: dict[str, Any] = cast("Any", read) if isinstance(read, dict) else {"": None}
        if not all(isinstance(row, dict) for row in rows.values()):
            self.unsafe = "it is not a table of captions"
        self._all = rows
        self._rows = {
            name: cast("dict[str, Any]", row) for name, row in rows.items() if isinstance(row, dict)
        }
        self.names, self.oddities = list(self._rows), []

    def caption(self, place: int) -> str:
        """The caption and the tags of a picture."""
        row = self._rows[self.names[place]]
        parts = [field_of(row, ("caption",)), field_of(row, ("tags",))]
        return ", ".join(part for part in parts if part)

    def put(self, place: int | None, name: str, text: str) -> None:
        """Set the text of a picture; tags stay in their field if the text still ends with them."""
        if place is None:
            name = re.sub(r"\.[^./]+$", "", name)
            self.names.append(name)
        else:
            name = self.names[place]
        row = cast("dict[str, Any]", self._all.setdefault(name, {}))
        self._rows[name] = row
        tags = field_of(row, ("tags",))
        if tags and text == tags:
            row["caption"] = ""
        elif tags and text.endswith(f", {tags}"):
            row["caption"] = text.removesuffix(f", {tags}")
        else:
            row["caption"] = text
            row |= {"tags": ""} if tags else {}

    def text(self) -> str:
        """The file."""
        return json.dumps(self._all, ensure_ascii=False, indent=2) + "\n"


TABLES: dict[str, type[JsonLines] | type[Csv] | type[Kohya]] = {
    ".jsonl": JsonLines,
    ".csv": Csv,
    ".json": Kohya,
}


def parse_table(path: Path, text: str) -> Table:
    """The table in a file's text; ValueError says why it is not one, as in "it is not JSON"."""
    return TABLES[path.suffix.lower()](text, path.name)


def parsed_json(text: str) -> Any:
    """JSON; ValueError also for brackets nested too deeply and for numbers too long."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error


def separator_of(text: str) -> str:
    """What stands between the cells of a table: that which gives the header its columns.

    Raises csv.Error for a first line that is too long to be a header.
    """
    header = next((line for line in text.splitlines() if line.strip()), "")
    best, most = SEPARATORS[0], 0
    for separator in SEPARATORS:
        columns = {column_name(cell) for cell in next(csv.reader([header], delimiter=separator))}
        known = bool(columns & {*NAME_COLUMNS}) * 2 + bool(columns & {*TEXT_COLUMNS})
        if known > most:
            best, most = separator, known
    return best


def column_name(cell: str) -> str:
    """A column's name as it is compared: "File Name" is file_name."""
    return re.sub(r"[\s_-]+", "_", cell.strip().casefold())


def field_of(row: Mapping[str, Any], names: Iterable[str]) -> str:
    """The first field of a row that has text, stripped; empty if none has."""
    values = (row.get(name) for name in names)
    return next((clean(value) for value in values if isinstance(value, str) and value.strip()), "")


def _text_column(row: Mapping[str, Any], columns: Iterable[str] = ()) -> str:
    """The column of a row's caption, or the one to write it into."""
    present = [name for name in TEXT_COLUMNS if name in {*row, *columns}]
    return next((name for name in present if field_of(row, (name,))), [*present, TEXT][0])


Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matches:
    """Which rows of a table belong to which pictures."""

    rows: dict[Path, int]
    """The row of each picture."""
    lost: list[str]
    """Names of rows that name no picture."""
    vague: list[str]
    """Names of rows that could be of several pictures, and are of none."""
    twice: list[Path]
    """Pictures with different captions in several rows; the last one counts."""
    alike: list[Path]
    """Pictures that several full paths could mean, which have different captions: none counts."""


def match_rows(table: Table, pictures: Iterable[Path], folder: Path) -> Matches:
    """Match rows and pictures by their paths relative to the table's folder.

    A row may also give a longer path, such as a full one from another machine, or a shorter one,
    if there is only one such picture. Of several rows of the same path, the last one counts.
    """
    named = _Pictures(pictures, folder)
    found: dict[Path, tuple[int, list[int]]] = {}
    lost: list[str] = []
    vague: list[str] = []
    for place, name in enumerate(table.names):
        rank, paths = named.of(name)
        several = rank == SHORTER and len({path.parent for path in paths}) > 1
        if name and table.caption(place) and (rank == NONE or several):
            (vague if several else lost).append(name)
        if several:
            continue
        for path in paths:
            best, places = found.get(path, (NONE, []))
            if rank < best:
                found[path] = rank, [place]
            elif rank == best:
                places.append(place)
    # On a network each look takes time, and a table may be of a million images elsewhere.
    lost = [name for name in lost[:LOOKED_FOR] if not named.is_there(name)] + lost[LOOKED_FOR:]
    matches = Matches({}, lost, vague, [], [])
    for path, (_, every) in found.items():
        # An empty row is not read, but it is the one to write.
        places = [place for place in every if table.caption(place)] or every
        names = {parts_of(table.names[place]) for place in places}
        if len({table.caption(place) for place in places}) == 1:
            matches.rows[path] = places[-1]
        elif len(names) == 1:
            matches.rows[path] = places[-1]
            matches.twice.append(path)
        else:  # full paths that end alike are of different pictures, at most one of them this
            matches.alike.append(path)
    return matches


EXACT, LONGER, SHORTER, NONE = range(4)
LOOKED_FOR = 500
"""Files of rows without a picture that are looked for, since a folder that is not read has them"""


def parts_of(name: str) -> Parts:
    """The folders and the file in a row's name, in the form in which names are compared."""
    return tuple(map(same_name, _pieces(name)))


def _pieces(name: str) -> list[str]:
    return [part for part in re.split(r"[\\/]+", name) if part not in ("", ".")]


class _Pictures:
    """The pictures below a folder, found by the names that rows of a table in it give them."""

    def __init__(self, paths: Iterable[Path], folder: Path):
        self._folder = folder
        self._folders: dict[Path, bool] = {}
        self._by_name: dict[str, list[tuple[Path, Parts]]] = {}
        self._by_stem: dict[str, list[tuple[Path, Parts]]] = {}
        for path in dict.fromkeys(paths):
            if folder in path.parents:
                folders = tuple(map(same_name, path.relative_to(folder).parts[:-1]))
                self._by_name.setdefault(same_name(path.name), []).append((path, folders))
                self._by_stem.setdefault(same_name(path.stem), []).append((path, folders))

    def of(self, name: str) -> tuple[int, list[Path]]:
        """How exactly a row names pictures, and which; a name with an extension comes first."""
        pieces, parts = _pieces(name), parts_of(name)
        if not parts:
            return NONE, []
        groups = [by.get(parts[-1], []) for by in (self._by_name, self._by_stem)]
        if not any(groups):
            return NONE, []
        folders = parts[:-1]
        for group in groups:
            if exact := [path for path, own in group if own == folders]:
                to_the_letter = [p for p in exact if pieces[-1] in (p.name, p.stem)]
                return EXACT, to_the_letter or exact
        for group in groups:
            ends = [(len(own), path) for path, own in group if _ends_with(folders, own)]
            if ends:
                most = max(count for count, _ in ends)
                # A longer part of the name may be a file that is there and is not of the dataset.
                if any(self._is_file(pieces[-n:]) for n in range(most + 2, len(pieces) + 1)):
                    return EXACT, []
                return LONGER, [path for count, path in ends if count == most]
        if self._is_file(pieces):
            return EXACT, []
        for group in groups:
            if shorter := [path for path, own in group if _ends_with(own, folders)]:
                return SHORTER, shorter
        return NONE, []

    def is_there(self, name: str) -> bool:
        """Whether the file that a row names is there, relative to the table."""
        return self._is_file(_pieces(name))

    def _is_file(self, pieces: Sequence[str]) -> bool:
        if ".." in pieces:
            return False
        # Rows name few folders, and on a network each look takes time.
        parent = self._folder.joinpath(*pieces[:-1])
        if parent not in self._folders:
            self._folders[parent] = parent.is_dir()
        return self._folders[parent] and (parent / pieces[-1]).is_file()


def _ends_with(whole: Parts, end: Parts) -> bool:
    return whole[len(whole) - len(end) :] == end if len(end) <= len(whole) else False
