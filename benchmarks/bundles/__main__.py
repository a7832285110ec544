"""Sixteen names in a prompt: our overlay beside the host's loose files, in the same process.

`python3 dev.py bench bundles`. The host looks for each `embedding:` in every folder below its
embeddings folders, once for each text encoder; the overlay has the vectors in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
NAMES, FOLDERS, ROUNDS = 16, 300, 7
sys.path[:] = [str(ROOT / "tests"), *(p for p in sys.path if Path(p) != Path(__file__).parent)]

from conftest import load_pack, prepare_host  # noqa: E402


def prepare(work: Path) -> None:
    """The host on the CPU, and the pack, in this process."""
    prepare_host(os.environ["PIVOTAL_COMFYUI"], str(work))
    load_pack()


def milliseconds(action: Callable[[], Any]) -> float:
    """The least of ROUNDS, which other work on the machine disturbs least; one goes before."""
    action()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return 1000 * min(times)


def measure(family: str, folder: Path) -> dict[str, float]:
    """Milliseconds for one family: attaching, and tokenizing a prompt with all names."""
    from harness.host.checkpoints import cached_checkpoint
    from harness.models.embeddings import (
        clip_with_files,
        clip_with_names,
        random_vectors,
        write_loose,
    )
    from world import checkpoints

    build = {"sd15": checkpoints.build_sd15_short, "sdxl": checkpoints.build_sdxl_short}[family]
    path = cached_checkpoint(f"{family}_short", build)
    named = {f"name{n}": random_vectors(family, n, 4) for n in range(NAMES)}
    for name, vectors in named.items():
        write_loose(folder, name, vectors)
    prompt = " and ".join(f"embedding:{name}" for name in named)
    few = clip_with_files(path, family, [str(folder)])
    found = {"files in one folder": milliseconds(lambda: few.tokenize(prompt))}
    for number in range(FOLDERS):
        (folder / f"sub{number}").mkdir()
    found[f"files beside {FOLDERS} folders"] = milliseconds(lambda: few.tokenize(prompt))
    overlay = clip_with_names(few, named)
    found["overlay"] = milliseconds(lambda: overlay.tokenize(prompt))
    found["attaching the overlay, once"] = milliseconds(lambda: clip_with_names(few, named))
    return found


def report(found: dict[str, dict[str, float]]) -> str:
    """The page."""
    lines = [
        f"| {what} | " + " | ".join(f"{found[family][what]:.1f}" for family in found) + " |"
        for what in next(iter(found.values()))
    ]
    return "\n".join(
        [
            f"# {NAMES} names in one prompt",
            "",
            f"ComfyUI 0.30.0, Python {platform.python_version()}, {platform.system()}, "
            f"{os.cpu_count()} cores at a load of {os.getloadavg()[0]:.0f}, CPU only; "
            f"milliseconds to tokenize a prompt that mentions "
            f"{NAMES} names of 4 vectors, least of {ROUNDS}, all in one process. The host's own "
            "loose files, and the names bound by Load Bundle. `python3 dev.py bench bundles` "
            "writes this page.",
            "",
            "| | " + " | ".join(found) + " |",
            "|---|" + "---|" * len(found),
            *lines,
            "",
        ]
    )


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    known = parser.parse_args()
    del sys.argv[1:]
    known.work.mkdir(parents=True, exist_ok=True)
    prepare(known.work)
    found = {}
    for family in ("sd15", "sdxl"):
        with tempfile.TemporaryDirectory() as folder:
            found[family] = measure(family, Path(folder))
    RESULTS.joinpath("bundles.json").write_text(json.dumps(found, indent=1) + "\n")
    RESULTS.joinpath("bundles.md").write_text(report(found))
    print(report(found))


if __name__ == "__main__":
    main()
