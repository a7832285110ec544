"""Captions edited by hand: a journal of changes that can be undone one by one."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from ....bundles.files.journal import Journal
from ..captions.change import replace_words
from ..records import HUMAN, Dataset, Record

LONGEST = 64 * 1024
"""Characters of a caption that a replacement made longer; nobody types as many"""


class Conflict(ValueError):
    """The caption to change was changed by someone else meanwhile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """The edits of one picture."""

    caption: str | None = None
    """None if the caption is not edited."""
    base: str = ""
    """The caption that was edited."""
    enabled: bool = True


class Review:
    """The edits of one dataset, read from its journal."""

    def __init__(self, path: Path):
        self.journal = Journal(path)
        self.revision = 0
        self.edits: dict[str, Edit] = {}
        self._before: list[dict[str, Any]] = []
        for entry in self.journal.entries():
            self._fold(entry)

    def apply(self, dataset: Dataset) -> Dataset:
        """The dataset with all edits, without the pictures that are switched off."""
        return replace(
            dataset,
            records=tuple(
                edited for record in dataset.records if (edited := self.edited(record)) is not None
            ),
        )

    def edited(self, record: Record) -> Record | None:
        """The edited picture; None if it is switched off."""
        edit = self.edits.get(record.name)
        if edit is None:
            return record
        if not edit.enabled:
            return None
        if edit.caption is None:
            return record
        flags = record.flags
        if edit.base != record.caption and edit.caption != record.caption:
            flags = (*flags, "conflict")
        return replace(record, caption=edit.caption, caption_source=HUMAN, flags=flags)

    def tag(self, record: Record, stamp: str = "") -> str:
        """A tag that changes with the caption, whether it is edited here or in its file."""
        text = repr((record.name, record.caption, self.edits.get(record.name), stamp))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def change(
        self,
        record: Record,
        tag: str,
        values: Mapping[str, Any],
        stamp: str = "",
        seen: str | None = None,
    ) -> None:
        """Set caption, enabled or both of one picture; raises Conflict if its tag has changed.

        `seen` is the text of a caption file that changed, if the person has seen it.
        """
        if tag != self.tag(record, stamp):
            raise Conflict(f"The caption of {record.name} was changed meanwhile.")
        new = self._new(record, values)
        if seen is not None and "caption" in values:
            new["base"] = seen
        self._add({record.name: new})

    def replaced(
        self, records: Sequence[Record], find: str, new: str
    ) -> dict[str, tuple[str, str]]:
        """Old and new captions, by name, of a find and replace of whole words in any case.

        Raises ValueError for an empty search, and where a caption becomes far too long.
        """
        if not find.strip():
            raise ValueError("Write what to find.")
        rewrite = replace_words(find.strip(), new.strip())
        changes: dict[str, tuple[str, str]] = {}
        for record in records:
            now = self.edited(record)
            if now is not None and (text := rewrite(now.caption, now)) != now.caption:
                if len(text) > max(LONGEST, len(now.caption)):
                    raise ValueError(
                        f"The caption of {record.name} would have {len(text):,} characters, and "
                        f"{LONGEST:,} are allowed: write a shorter text."
                    )
                changes[record.name] = (now.caption, text)
        return changes

    def replace_all(self, records: Sequence[Record], find: str, new: str) -> int:
        """Find and replace in all captions as one change; returns how many changed."""
        changes = self.replaced(records, find, new)
        rows = {record.name: record for record in records}
        if changes:
            self._add(
                {name: self._new(rows[name], {"caption": t}) for name, (_, t) in changes.items()}
            )
        return len(changes)

    def undo(self) -> bool:
        """Undo the latest change that is not yet undone; False if there is none."""
        if not self._before:
            return False
        self._write({"undo": True})
        return True

    def _new(self, record: Record, values: Mapping[str, Any]) -> dict[str, Any]:
        old = self.edits.get(record.name, Edit())
        caption = values.get("caption", old.caption)
        base = record.caption if "caption" in values else old.base
        return {"caption": caption, "base": base, "enabled": values.get("enabled", old.enabled)}

    def _add(self, changes: dict[str, dict[str, Any]]) -> None:
        self._write({"changes": changes})

    def _write(self, entry: dict[str, Any]) -> None:
        self.journal.add({**entry, "revision": self.revision + 1, "time": time.time()})
        self._fold(entry)

    def _fold(self, entry: Mapping[str, Any]) -> None:
        self.revision += 1
        if entry.get("undo"):
            if self._before:
                for name, old in self._before.pop().items():
                    self._put(name, old)
            return
        changes = _edits(entry.get("changes"))
        self._before.append({name: self.edits.get(name) for name in changes})
        for name, values in changes.items():
            self._put(name, values)

    def _put(self, name: str, edit: Edit | None) -> None:
        if edit is None:
            self.edits.pop(name, None)
        else:
            self.edits[name] = edit


def _edits(changes: Any) -> dict[str, Edit]:
    """The edits of a line of the journal, without those that no version has written."""
    edits: dict[str, Edit] = {}
    for name, values in cast(
        "dict[str, Any]", changes if isinstance(changes, dict) else {}
    ).items():
        if not isinstance(values, dict):
            continue
        with suppress(TypeError):
            row = cast("dict[str, Any]", values)
            caption, base = row.get("caption"), row.get("base", "")
            if isinstance(caption, str | None) and isinstance(base, str):
                edits[name] = Edit(**row)
    return edits


def dataset_id(dataset: Dataset, salt: str = "") -> str:
    """An id from the folders of a dataset, under which its edits are found again.

    Workflows hold it: without a salt, somebody could guess the folders and see that they are right.
    """
    folders = sorted({str(record.path.parent.absolute()) for record in dataset.records})
    text = repr((dataset.name, folders)) + salt
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
