"""Routes of the runs: which there are, and what each has reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folder_paths

from .folders import RUNS
from .live import live_run
from .routes import Call, Route
from .run_folder import IDENTITY, RunFolder, read_lines

LINES_AT_ONCE = 5000


def run_list(call: Call) -> list[dict[str, Any]]:
    """Every run, the one that changed last first."""
    folders = sorted(_run_folders(), key=_changed, reverse=True)
    return [_summary(folder) for folder in folders]


def run_reports(call: Call) -> dict[str, Any]:
    """A run's reports after the first `after` of them, and where it stands."""
    folder, after = _find(call.ids["run"]), call.number("after", 0)
    lines = read_lines(folder.journal)
    part = lines[after : after + LINES_AT_ONCE]
    return {**_summary(folder), "reports": part, "next": after + len(part), "total": len(lines)}


def _run_folders() -> list[RunFolder]:
    root = Path(folder_paths.get_output_directory(), RUNS)
    if not root.is_dir():
        return []
    return [RunFolder(path, "") for path in root.iterdir() if (path / IDENTITY).is_file()]


def _find(name: str) -> RunFolder:
    """The folder of a run by its id; FileNotFoundError when no run has it."""
    for folder in _run_folders():
        if folder.path.name == name:
            return folder
    raise FileNotFoundError(f'There is no run "{name}".')


def _changed(folder: RunFolder) -> float:
    files = [path for path in (folder.journal, folder.bundle) if path.exists()]
    return max((path.stat().st_mtime for path in files), default=0.0)


def _summary(folder: RunFolder) -> dict[str, Any]:
    """Id, state and progress of a run."""
    name, live = folder.path.name, live_run(folder.path.name)
    if live is not None:
        latest = {"step": 0, **live.latest}
        return {"run": name, "state": "running", "node": live.node, "steps": live.steps, **latest}
    last = (read_lines(folder.journal) or [{}])[-1]
    steps = json.loads((folder.path / IDENTITY).read_text(encoding="utf-8"))
    return {
        "run": name,
        "state": "finished" if folder.bundle.exists() else "stopped",
        "step": last.get("step", 0),
        "steps": steps["recipe"]["train"]["steps"],
    }


ROUTES = [
    Route("GET", "/pivotal/runs", run_list),
    Route("GET", "/pivotal/runs/{run}", run_reports),
]
