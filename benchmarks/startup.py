"""What the pack adds to the start of ComfyUI: time, and whether it imports the heavy packages.

`dev.py bench startup` runs it. Each measurement is a fresh process: whole starts of ComfyUI's
main.py, without and with the pack in turns, which end once everything is loaded, and a probe that
times only the import of the pack.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, machine, publish

from harness.tools.environment import PACK, link

PAIRS = 5
HEAVY = ("diffusers", "prodigyopt")


def options(base: Path) -> list[str]:
    """ComfyUI's arguments for a start that touches nothing outside `base`."""
    return ["--cpu", "--base-directory", str(base), "--database-url", "sqlite:///:memory:"]


def start_seconds(host: Path, base: Path) -> float:
    """The time of one whole start of main.py; RuntimeError if the pack did not load."""
    command = [sys.executable, str(host / "main.py"), *options(base)]
    command += ["--disable-api-nodes", "--quick-test-for-ci"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    seconds = time.perf_counter() - started
    log = done.stdout + done.stderr
    if done.returncode or "IMPORT FAILED" in log:
        raise RuntimeError(f"ComfyUI did not start properly:\n{log[-2000:]}")
    return seconds


def probe(host: Path, base: Path) -> dict[str, Any]:
    """Load the host, then the pack, in this process; measures the second."""
    here = ROOT / "benchmarks"
    sys.path[:] = [str(host), *(entry for entry in sys.path if Path(entry) != here)]
    import comfy.options  # noqa: F401  - must come before cli_args
    from comfy.cli_args import args

    args.cpu, args.base_directory = True, str(base)
    server, nodes = importlib.import_module("server"), importlib.import_module("nodes")
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


def probe_in_new_process(base: Path) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks"), "startup", "--probe", str(base)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise RuntimeError(f"The probe failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(host: Path, without: Path, with_pack: Path) -> dict[str, Any]:
    """All numbers; both kinds of start take turns, so that a busy minute affects both."""
    content: dict[str, Any] = {"without": [], "with": [], "import": [], "heavy": [], "nodes": 0}
    for _ in range(PAIRS):
        content["without"].append(start_seconds(host, without))
        content["with"].append(start_seconds(host, with_pack))
        probed = probe_in_new_process(with_pack)
        content["import"].append(probed["seconds"])
        content["heavy"], content["nodes"] = probed["heavy"], probed["nodes"]
    return content | {"machine": machine()}


def page(content: Mapping[str, Any]) -> str:
    """The page of what startup.json holds."""
    columns = [content[name] for name in ("without", "with", "import")]
    rows = [
        f"| {number} | {a:.2f} | {b:.2f} | {b - a:+.2f} | {c:.3f} |"
        for number, (a, b, c) in enumerate(zip(*columns, strict=True), start=1)
    ]
    without, with_pack, imported = map(statistics.median, columns)
    heavy = ", ".join(content["heavy"]) or "none"
    return "\n".join(
        [
            "# Start of ComfyUI with and without the pack",
            "",
            f"{content['machine']}. Seconds; each number comes from a fresh process. "
            "`python3 dev.py bench startup` writes this page.",
            "",
            "| pair | start without | start with | difference | import of the pack |",
            "|---|---|---|---|---|",
            *rows,
            f"| median | {without:.2f} | {with_pack:.2f} | {with_pack - without:+.2f} | "
            f"{imported:.3f} |",
            "",
            f"The pack registers {content['nodes']} nodes. Which of diffusers, prodigyopt and the "
            f"model classes of transformers it imports at the start: {heavy}.",
            "",
        ]
    )


def main() -> None:
    """Measure and write the page or, as the probe, print a line of JSON."""
    parser = argparse.ArgumentParser(prog="dev.py bench startup", description=__doc__)
    parser.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    known = parser.parse_args()
    host = Path(os.environ["PIVOTAL_COMFYUI"])
    # ComfyUI parses sys.argv as well.
    del sys.argv[1:]
    if known.probe:
        print(json.dumps(probe(host, known.probe)))
        return
    with tempfile.TemporaryDirectory() as folder:
        bases = [Path(folder, "without"), Path(folder, "with")]
        for base in bases:
            (base / "custom_nodes").mkdir(parents=True)
        link(ROOT, bases[1] / "custom_nodes" / PACK)
        content = measure(host, *bases)
    publish(RESULTS / "startup.json", content, page)
    print(page(content))


if __name__ == "__main__":
    main()
