"""Caption files next to pictures, in ComfyUI's own folders only, with a history of changes."""

from __future__ import annotations

import difflib

from ....bundles.files.atomic import remove_drafts
from ....training.dataset.folder.tables import TABLES
from ....training.dataset.records import Dataset
from ....training.dataset.writing.write import (
    CaptionFile,
    CaptionHistory,
    FileChange,
    OnExisting,
    plan_changes,
    read_before,
)
from ..folders import is_writable, user_folder
from ..users import current_user

MOST_FILES = 20


def caption_history() -> CaptionHistory:
    """The history of the present user."""
    user = current_user()
    return CaptionHistory(user_folder() / (f"history_{user}.jsonl" if user else "history.jsonl"))


def save_captions(dataset: Dataset, kind: CaptionFile, mode: OnExisting, *, dry_run: bool) -> str:
    """Write captions, or report what would be written; ValueError outside ComfyUI's folders."""
    check_writable(dataset)
    if not dry_run:
        remove_leftovers(dataset)
    changes = list(plan_changes(dataset.records, kind, mode))
    shown = [line for change in changes[:MOST_FILES] for line in change_lines(change)]
    if len(changes) > MOST_FILES:
        shown.append(f"and {len(changes) - MOST_FILES} more")
    if first := read_before(dataset.records, kind):
        shown.append(
            f"{len(first)} images have other captions in files that are read before {kind.value}, "
            f"such as {first[0].name}: what is saved here is not used while those are there."
        )
    if dry_run or not changes:
        verb = "would be written: switch dry_run off to write" if changes else "need to be written"
        return "\n".join([f"{len(changes)} files {verb}", *shown])
    history = caption_history()
    number = history.revision() + 1
    count = history.write(changes, number)
    return "\n".join([f"{count} files written as revision {number}", *shown])


def undo_captions(revision: int) -> str:
    """Restore files to before a revision; the report names those that could not be restored."""
    refused = caption_history().undo(revision, is_writable)
    return "\n".join([f"revision {revision} is undone", *refused])


def check_writable(dataset: Dataset) -> None:
    """Raise ValueError for a picture in a folder that the pack may not write to."""
    for record in dataset.records:
        if not is_writable(record.path):
            raise ValueError(
                f"{record.path.name} is outside the folders that may be written to, which are "
                "ComfyUI's input, output and datasets folders: copy the dataset there, or keep its "
                "captions in the graph."
            )


def remove_leftovers(dataset: Dataset) -> None:
    """Remove drafts of caption files that a killed process left next to these pictures."""
    remove_drafts(record.path.parent for record in dataset.records)


def change_lines(change: FileChange) -> list[str]:
    """The name of a file, then its old and its new text; of a table, lines that differ."""
    new = (change.after or "").strip()
    if change.path.suffix.lower() in TABLES:
        lines = difflib.unified_diff(change.old.splitlines(), new.splitlines(), n=0, lineterm="")
        rows = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
        more = [f"  and {len(rows) - MOST_FILES} more lines"] if len(rows) > MOST_FILES else []
        shown = [f"  {row[0]} {row[1:301]}" for row in rows[:MOST_FILES]]
        return [change.path.name, *shown, *more]
    old = "(no file)" if change.before is None else change.old
    return [change.path.name, f"  - {old[:300]}", f"  + {new[:300]}"]
