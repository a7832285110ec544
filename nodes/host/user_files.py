"""Routes that show and prune what the pack keeps in ComfyUI's user folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comfy.cli_args import args
from server import PromptServer

from ...training.kept import Changed, KeptFile, Pruning, kept_files, prune, sums
from .dataset.gallery import is_reviewed
from .folders import user_folder
from .images import is_handed_out
from .routes import Call, Refused, Route

SHARED = (
    "All users of this server share what is kept, so that only its owner removes it: "
    "run python training/kept.py in the pack's folder."
)


def show_kept(call: Call) -> dict[str, Any]:
    """How much is kept of each kind, and what removing it costs."""
    rows = _rows(kept_files(user_folder()))
    return {"kinds": rows, "closed": SHARED if args.multi_user else ""}


def prune_kept(call: Call) -> dict[str, Any]:
    """Say which files would be removed; with the `id` of such an answer, remove exactly these."""
    if args.multi_user:
        raise Refused(403, SHARED)
    planned, pruning = call.body.get("id"), _pruning(call)
    if not isinstance(planned, str | None):
        raise ValueError("id must be that of an answer.")
    if planned is not None and _is_working():
        raise Refused(409, "A graph runs or waits and may need these files: remove them later.")
    try:
        dry_run = planned is None
        done = prune(user_folder(), pruning, dry_run=dry_run, planned=planned, in_use=_is_in_use)
    except Changed as error:
        raise Refused(409, str(error)) from error
    rows = [row for row in _rows(done.files) if row["files"]]
    return {"id": done.identity, "kinds": rows, "left": len(done.left), "is_done": not dry_run}


def _pruning(call: Call) -> Pruning:
    """What a page asks to remove; ValueError for anything that is not one of its fields."""
    kinds, days, most = (call.body.get(name) for name in ("kinds", "days", "bytes"))
    if not isinstance(kinds, list) or not kinds or not all(isinstance(k, str) for k in kinds):
        raise ValueError("Choose what to remove.")
    if isinstance(days, bool) or not isinstance(days, int | float):
        raise ValueError("days must be a number.")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int)):
        raise ValueError("bytes must be a whole number.")
    return Pruning(kinds=kinds, older_than_days=days, most_bytes=most)


def _rows(files: Sequence[KeptFile]) -> list[dict[str, Any]]:
    return [
        {
            "kind": one.kind.kind,
            "title": one.kind.title,
            "lost": one.kind.lost,
            "is_work": one.kind.is_work,
            "files": one.files,
            "bytes": one.size,
            "oldest": one.oldest,
            "newest": one.newest,
        }
        for one in sums(files)
    ]


def _is_working() -> bool:
    server = getattr(PromptServer, "instance", None)
    return server is not None and server.prompt_queue.get_tasks_remaining() > 0


def _is_in_use(path: Path) -> bool:
    """Whether this server has shown edits or given images to nodes since its start."""
    return is_reviewed(path) or is_handed_out(path)


ROUTES = [
    Route("GET", "/pivotal/kept", show_kept),
    Route("POST", "/pivotal/kept/prune", prune_kept),
]
