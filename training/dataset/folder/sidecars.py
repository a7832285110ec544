"""Captions next to pictures: text files, metadata.jsonl and .csv, kohya's json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..records import CaptionPlace, listed
from .notes import Notes
from .scan import TABLE_EXTENSIONS, ScannedFolder
from .tables import Matches, Table, match_rows, parse_table
from .text_files import MOST_OF_A_TABLE, read_text


@dataclass(frozen=True, slots=True)
class SidecarCaption:
    """A caption and where it comes from."""

    text: str
    source: str
    """The extension of a text file, or the name of a table."""
    place: CaptionPlace | None


class Sidecars:
    """The captions of one folder, in the order of precedence of their files."""

    def __init__(
        self,
        place: ScannedFolder,
        extension: str,
        tables: Sequence[CaptionTable],
        *,
        every_kind: bool,
        notes: Notes,
    ):
        extensions = dict.fromkeys([extension, ".txt", ".caption"] if every_kind else [extension])
        self.place, self.extensions, self.notes = place, list(extensions), notes
        self.users: dict[tuple[Path, str], str] = {}
        # The nearest table comes first.
        self.tables = sorted(
            (t for t in tables if t.path.parent in (place.path, *place.path.parents)),
            key=lambda t: (TABLE_EXTENSIONS.index(t.path.suffix.lower()), -len(t.path.parts)),
        )

    def caption(self, picture: Path) -> SidecarCaption:
        """The caption of a picture; text and source are empty if it has none.

        Of several, the first of explicit extension, .txt, .caption, metadata.jsonl, .csv and
        kohya's json is used, with a note if they differ. Raises ValueError for an unreadable file.
        """
        captions = [*self._files(picture), *self._rows(picture)]
        texts = {" ".join(caption.text.split()) for caption in captions}
        if len(texts) > 1:
            sources = " and ".join(dict.fromkeys(caption.source for caption in captions))
            self.notes.add(
                f"{picture.name} has different captions in {sources}: {captions[0].source} is "
                "used.",
                picture.name,
            )
        return captions[0] if captions else SidecarCaption("", "", None)

    def _files(self, picture: Path) -> Iterator[SidecarCaption]:
        for extension in self.extensions:
            path = self.place.find(picture.stem + extension)
            if path is None:
                continue
            text, guessed = read_text(path)
            if guessed:
                _note_guess(path, self.notes)
            self._shared(path, "", picture)
            yield SidecarCaption(text, extension, CaptionPlace(path, "", text))

    def _rows(self, picture: Path) -> Iterator[SidecarCaption]:
        for table in self.tables:
            row = table.matches.rows.get(picture)
            if row is not None and (text := table.table.caption(row)):
                name = table.table.names[row]
                self._shared(table.path, name, picture)
                yield SidecarCaption(text, table.path.name, CaptionPlace(table.path, name, text))

    def _shared(self, path: Path, row: str, picture: Path) -> None:
        other = self.users.setdefault((path, row), picture.name)
        if other != picture.name:
            what = f'the row "{row}" of {path.name}' if row else f"the caption {path.name}"
            self.notes.add(f"{other} and {picture.name} share {what}.", picture.stem)


@dataclass(frozen=True, slots=True)
class CaptionTable:
    """A table and its rows by picture."""

    path: Path
    table: Table
    matches: Matches


def read_tables(places: Sequence[ScannedFolder], notes: Notes) -> list[CaptionTable]:
    """The tables with captions in the folders of a dataset, matched with all of its pictures."""
    pictures = [p for place in places for p in (*place.pictures, *place.masks_beside.values())]
    found: list[CaptionTable] = []
    for place in places:
        paths = {p for p in place.files.values() if p.suffix.lower() in TABLE_EXTENSIONS}
        for path in sorted(paths, key=lambda p: p.name):
            try:
                text, guessed = read_text(path, MOST_OF_A_TABLE)
            except ValueError as error:
                notes.add(str(error), path.name)
                continue
            try:
                table = parse_table(path, text)
            except ValueError as error:
                notes.add(
                    f"{path.name} cannot be read as captions ({error}): correct or remove it.",
                    path.name,
                )
                continue
            matches = match_rows(table, pictures, place.path)
            if guessed and matches.rows:
                _note_guess(path, notes)
            for sentence in [*table.oddities, *_oddities(matches, place.key + path.name)]:
                notes.add(sentence, path.name)
            if matches.rows:
                found.append(CaptionTable(path, table, matches))
    return found


def _note_guess(path: Path, notes: Notes) -> None:
    sentence = f"{path.name} is not UTF-8 text and was read as Windows-1252: save it as UTF-8."
    notes.add(sentence, path.name)


def _oddities(matches: Matches, name: str) -> Iterator[str]:
    """A sentence for each kind of row that was not used."""
    if matches.lost:
        yield f"{name} has captions of files that are no images here: {listed(matches.lost, 3)}."
    if matches.vague:
        yield (
            f"{name} has captions that could be of several images and are not used: write their "
            f"folders too ({listed(matches.vague, 3)})."
        )
    if matches.twice:
        names = listed([path.name for path in matches.twice], 3)
        yield f"{name} has several captions of {names}: the last one is used."
    if matches.alike:
        names = listed([path.name for path in matches.alike], 3)
        yield f"{name} has captions of several images called {names}: none of them is used."
