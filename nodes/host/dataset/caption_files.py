"""Captions beside pictures, in ComfyUI's own folders only, with a history of what they were."""

from __future__ import annotations

from ....bundles.files.atomic import remove_drafts
from ....training.dataset.records import Dataset
from ....training.dataset.writing.write import (
    CaptionFile,
    Change,
    History,
    OnExisting,
    plan_changes,
)
from ..folders import is_writable, user_folder, writable_roots

SHOWN = 20


def history() -> History:
    """The history of all caption files."""
    return History(user_folder() / "history.jsonl")


def save_captions(dataset: Dataset, kind: CaptionFile, mode: OnExisting, *, dry_run: bool) -> str:
    """Write, or say what would be written; ValueError for pictures outside of ComfyUI's folders."""
    check_writable(dataset)
    if not dry_run:
        tidy(dataset)
    changes = list(plan_changes(dataset.records, kind, mode))
    shown = [line for change in changes[:SHOWN] for line in described(change)]
    if len(changes) > SHOWN:
        shown.append(f"and {len(changes) - SHOWN} more")
    if dry_run or not changes:
        verb = "would be written: switch dry_run off to write" if changes else "have to be written"
        return "\n".join([f"{len(changes)} files {verb}", *shown])
    kept = history()
    number = kept.revision() + 1
    count = kept.write(changes, number)
    return "\n".join([f"{count} files written as revision {number}", *shown])


def undo_captions(revision: int) -> str:
    """Put back what files held before a revision, and say which could not be."""
    refused = history().undo(revision)
    return "\n".join([f"revision {revision} is undone", *refused])


def check_writable(dataset: Dataset) -> None:
    """ValueError when a picture lies where the pack may not write beside it."""
    for record in dataset.records:
        if not is_writable(record.path):
            roots = ", ".join(str(root) for root in writable_roots())
            raise ValueError(
                f"{record.path.name} lies outside of the folders that may be written to "
                f"({roots}): copy the dataset there, or keep its captions in the graph."
            )


def tidy(dataset: Dataset) -> None:
    """Remove what a killed process left of captions that it was writing beside these pictures."""
    remove_drafts(record.path.parent for record in dataset.records)


def described(change: Change) -> list[str]:
    """A file with its old and new text."""
    old = "(no file)" if change.before is None else change.before.strip()
    return [change.path.name, f"  - {old[:300]}", f"  + {(change.after or '').strip()[:300]}"]
