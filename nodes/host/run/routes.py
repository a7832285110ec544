"""Routes of runs: their list, their reports and previews, and requests to one that trains."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ....training.series import SERIES
from ..routes import Call, Refused, Route
from .live import CHECKPOINT, FINISH, PIVOT, PREVIEW, LiveRequest, live_run
from .run_folder import RunFolder, run_folders

LINES_AT_ONCE = 2000
WAITING_LIMIT = 32


def run_list(call: Call) -> dict[str, Any]:
    """Every run, the one that changed last first, and the series that runs report."""
    folders = sorted(run_folders(), key=_changed, reverse=True)
    return {
        "runs": [summary(folder) for folder in folders],
        "series": [asdict(series) for series in SERIES],
    }


def run_reports(call: Call) -> dict[str, Any]:
    """A run's reports after the first `after` of them, and its progress."""
    folder, after = find(call.ids["run"]), call.number("after", 0)
    part, total = list[Any](), 0
    for total, line in enumerate(folder.reports(), start=1):
        if after < total <= after + LINES_AT_ONCE:
            part.append(line)
    return {**summary(folder), "reports": part, "next": after + len(part), "total": total}


def run_preview(call: Call) -> Path:
    """A preview picture of a run."""
    return find(call.ids["run"]).previews / call.ids["picture"]


def ask_run(call: Call) -> dict[str, Any]:
    """Request that a run finish, save a checkpoint, draw previews or freeze a concept."""
    name, what = call.ids["run"], call.body.get("ask")
    concept = call.body.get("concept", "")
    live = live_run(find(name).path.name)
    if what not in (FINISH, CHECKPOINT, PREVIEW, PIVOT):
        raise Refused(400, "Ask for finish, checkpoint, preview or pivot.")
    if live is None:
        raise Refused(409, f'The run "{name}" is not training now.')
    if what == PIVOT and concept not in live.concepts:
        raise Refused(400, "The run has no such concept.")
    if len(live.requests) >= WAITING_LIMIT:
        raise Refused(429, "The run has not handled earlier requests yet: wait for its next step.")
    live.requests.append(LiveRequest(what, concept if what == PIVOT else ""))
    return {"asked": what}


def find(name: str) -> RunFolder:
    """The folder of a run by its id; FileNotFoundError when no run has it."""
    for folder in run_folders():
        if folder.path.name == name:
            return folder
    raise FileNotFoundError(f'There is no run "{name}".')


def summary(folder: RunFolder) -> dict[str, Any]:
    """Id, state and progress of a run."""
    name, progress = folder.path.name, folder.progress()
    live, steps = live_run(name), progress.get("steps", 0)
    if live is not None:
        running = {"state": "running", "node": live.node, "steps": live.steps}
        step = live.latest.get("step", 0)
        return {"run": name, **running, "concepts": live.concepts, "step": step}
    finished, saved = progress.get("finished"), folder.saved_steps()
    step = finished if finished is not None else (saved[-1] if saved else 0)
    state = "stopped" if finished is None else "finished"
    return {"run": name, "state": state, "steps": steps, "step": step}


def _changed(folder: RunFolder) -> float:
    files = [path for path in (folder.journal.path, folder.bundle, folder.path) if path.exists()]
    return max((path.stat().st_mtime for path in files), default=0.0)


ROUTES = [
    Route("GET", "/pivotal/runs", run_list),
    Route("GET", "/pivotal/runs/{run}", run_reports),
    Route("GET", "/pivotal/runs/{run}/previews/{picture}", run_preview),
    Route("POST", "/pivotal/runs/{run}/ask", ask_run),
]
