"""What the pack adds to the start of ComfyUI: seconds, and whether it imports the heavy packages.

Each measurement is a fresh process: whole starts of the host's main.py, without and with the pack
in turns, that end when everything is loaded, and a probe that times the pack's import alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAIRS = 5
HEAVY = ("diffusers", "prodigyopt")
sys.path.insert(0, str(ROOT / "tests"))

from harness.tools.environment import HOST_VERSION, PACK, link  # noqa: E402


def options(base: Path) -> list[str]:
    """The host's arguments for a start that touches nothing outside `base`."""
    return ["--cpu", "--base-directory", str(base), "--database-url", "sqlite:///:memory:"]


def start_seconds(host: Path, base: Path) -> float:
    """Seconds of one whole start of main.py; RuntimeError when the pack did not load."""
    command = [sys.executable, str(host / "main.py"), *options(base)]
    command += ["--disable-api-nodes", "--quick-test-for-ci"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    seconds = time.perf_counter() - started
    log = done.stdout + done.stderr
    if done.returncode or "IMPORT FAILED" in log:
        raise RuntimeError(f"ComfyUI did not start well:\n{log[-2000:]}")
    return seconds


def probe(host: Path, base: Path) -> dict[str, Any]:
    """In this process: load the host, then the pack; return its seconds and its heavy imports."""
    sys.path[:] = [str(host), *(entry for entry in sys.path if Path(entry) != ROOT / "benchmarks")]
    import comfy.options  # noqa: F401  - must come before cli_args
    from comfy.cli_args import args

    args.cpu, args.base_directory = True, str(base)
    import server

    import nodes

    server.PromptServer(asyncio.new_event_loop())
    asyncio.run(nodes.init_builtin_extra_nodes())
    before, known, started = set(sys.modules), set(nodes.NODE_CLASS_MAPPINGS), time.perf_counter()
    asyncio.run(nodes.init_external_custom_nodes())
    seconds = time.perf_counter() - started
    new = set(sys.modules) - before
    models = {n for n in new if n.startswith("transformers.models.") and ".modeling_" in n}
    return {
        "seconds": seconds,
        "nodes": len(set(nodes.NODE_CLASS_MAPPINGS) - known),
        "heavy": sorted(models | {name for name in HEAVY if name in new}),
    }


def probe_in_new_process(host: Path, base: Path) -> dict[str, Any]:
    """Run `probe` in a process of its own."""
    command = [sys.executable, __file__, str(host), "--probe", str(base)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise RuntimeError(f"The probe failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(host: Path, without: Path, with_pack: Path) -> dict[str, Any]:
    """All numbers, the two kinds of start in turns so that a busy minute hits both."""
    found: dict[str, Any] = {"without": [], "with": [], "import": [], "heavy": [], "nodes": 0}
    for _ in range(PAIRS):
        found["without"].append(start_seconds(host, without))
        found["with"].append(start_seconds(host, with_pack))
        probed = probe_in_new_process(host, with_pack)
        found["import"].append(probed["seconds"])
        found["heavy"], found["nodes"] = probed["heavy"], probed["nodes"]
    return found | {"python": platform.python_version(), "system": platform.system()}


def report(found: dict[str, Any]) -> str:
    """The numbers as a page."""
    median: Callable[[str], float] = lambda name: statistics.median(found[name])  # noqa: E731
    rows = [
        f"| {number} | {a:.2f} | {b:.2f} | {b - a:+.2f} | {c:.3f} |"
        for number, (a, b, c) in enumerate(
            zip(found["without"], found["with"], found["import"], strict=True), start=1
        )
    ]
    heavy = ", ".join(found["heavy"]) or "none"
    return "\n".join(
        [
            "# Start of ComfyUI with and without the pack",
            "",
            f"ComfyUI {HOST_VERSION}, Python {found['python']}, {found['system']}, "
            f"{os.cpu_count()} cores, CPU only; seconds; each number is a fresh process. "
            "`python3 dev.py bench startup` writes this page.",
            "",
            "| pair | start without | start with | difference | import of the pack |",
            "|---|---|---|---|---|",
            *rows,
            f"| median | {median('without'):.2f} | {median('with'):.2f} | "
            f"{median('with') - median('without'):+.2f} | {median('import'):.3f} |",
            "",
            f"The pack registers {found['nodes']} nodes. Of diffusers, prodigyopt and the model "
            f"classes of transformers it imports at the start: {heavy}.",
            "",
        ]
    )


def main() -> None:
    """Measure and write the two files, or, as the probe, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host", type=Path)
    parser.add_argument("--probe", type=Path)
    known = parser.parse_args()
    # What follows belongs to this script; the host parses sys.argv as well.
    del sys.argv[1:]
    if known.probe:
        print(json.dumps(probe(known.host, known.probe)))
        return
    with tempfile.TemporaryDirectory() as folder:
        bases = [Path(folder, "without"), Path(folder, "with")]
        for base in bases:
            (base / "custom_nodes").mkdir(parents=True)
        link(ROOT, bases[1] / "custom_nodes" / PACK)
        found = measure(known.host, *bases)
    RESULTS.mkdir(parents=True, exist_ok=True)
    RESULTS.joinpath("startup.json").write_text(json.dumps(found, indent=1) + "\n")
    RESULTS.joinpath("startup.md").write_text(report(found))
    print(report(found))


if __name__ == "__main__":
    main()
