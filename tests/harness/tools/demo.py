"""The demo: queue the first example workflow on a real server and show what came out of it.

Standard library only: the environment may not exist yet when this is imported.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.host.server import Server, ServerFailed, failure
from harness.tools.examples import FOLDER, LEARNED, opened, write_world

WORKFLOW = FOLDER / "1 Train a concept.json"
LIMIT_SECONDS = 3600.0
Say = Callable[[str], None]
Results = list[tuple[str, Path]]


def run_demo(python: Path, host: Path, base: Path, say: Say) -> Results:
    """Train and use a concept in `base`; print, and return, where the results are."""
    say("making a small checkpoint and a set of pictures")
    prepare(python, host, base)
    say("starting ComfyUI on the CPU")
    with Server(python, host, base, ["--cpu"]) as server:
        workflow, prompt = opened(server, WORKFLOW, LEARNED)
        say(f'queueing "{WORKFLOW.name}" with small pictures and few steps')
        history = follow(server, server.queue(prompt, workflow), say)
        sentence = failure(history)
        if sentence:
            raise ServerFailed(f"{sentence}\n{server.tail()}")
    results = find_results(base / "output", history, prompt)
    for label, path in results:
        say(f"{label}: {path}")
    return results


def prepare(python: Path, host: Path, base: Path) -> None:
    """Forget the last demo's files and make the checkpoint and the pictures."""
    for folder in ("input", "output", "temp", "user"):
        shutil.rmtree(base / folder, ignore_errors=True)
        (base / folder).mkdir(parents=True)
    write_world(python, host, base)


def follow(server: Server, prompt_id: str, say: Say) -> dict[str, Any]:
    """Wait for the prompt to end, and tell the training's progress at every tenth of it."""
    end, told = time.monotonic() + LIMIT_SECONDS, -1
    while time.monotonic() < end:
        found = server.history(prompt_id)
        line = last_report(server.base / "output")
        if line and line["step"] * 10 // line["steps"] > told:
            told = line["step"] * 10 // line["steps"]
            say("step {step} of {steps}, loss {loss:.4f}, {seconds:.0f} s".format(**line))
        if found is not None:
            return found
        time.sleep(0.3)
    raise ServerFailed(f"The workflow did not end in an hour.\n{server.tail()}")


def last_report(output: Path) -> dict[str, Any] | None:
    """The last whole line of the run's journal."""
    for journal in output.glob("pivotal/*/report.jsonl"):
        whole = journal.read_text(encoding="utf-8").split("\n")[:-1]
        lines = [line for line in map(json.loads, whole) if "loss" in line]
        if lines:
            return lines[-1]
    return None


def find_results(output: Path, history: dict[str, Any], prompt: dict[str, Any]) -> Results:
    """Label and path of the loss plot, of each saved picture and, last, of the bundle."""
    results = [("loss plot", path) for path in output.glob("pivotal/*/loss.png")]
    for number, shown in history["outputs"].items():
        for picture in shown.get("images", []):
            if picture["type"] == "output":
                path = output / picture["subfolder"] / picture["filename"]
                results.append((prompt[number]["_meta"]["title"], path))
    results += [("bundle", path) for path in output.glob("loras/**/*.safetensors")]
    missing = {"loss plot", "bundle"} - {label for label, _ in results}
    if missing or len(results) < 3:
        raise ServerFailed(f"The workflow ended without {' and '.join(missing) or 'a picture'}.")
    return results
