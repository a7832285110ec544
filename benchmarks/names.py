"""Sixteen names in a prompt: names from Load Bundle against ComfyUI's loose embedding files.

`dev.py bench names` runs it. For each `embedding:` and each text encoder, ComfyUI searches every
folder below its embeddings folders; Load Bundle's names are in memory.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common import RESULTS, machine, prepare, publish

NAMES, FOLDERS, ROUNDS = 16, 300, 7


def milliseconds(action: Callable[[], Any]) -> float:
    """The shortest of ROUNDS, which other work on the machine disturbs least, after a warm-up."""
    action()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return 1000 * min(times)


def measure(family: str, folder: Path) -> dict[str, float]:
    """Milliseconds to attach the names, and to tokenize a prompt with all of them."""
    from factories import random_vectors
    from harness.host.checkpoints import cached_checkpoint
    from harness.models.embeddings import clip_with_files, clip_with_names, write_loose
    from world import checkpoints

    build = {"sd15": checkpoints.build_sd15_short, "sdxl": checkpoints.build_sdxl_short}[family]
    path = cached_checkpoint(f"{family}_short", build)
    vectors = {f"name{n}": random_vectors(family, n, 4) for n in range(NAMES)}
    for name, tensors in vectors.items():
        write_loose(folder, name, tensors)
    prompt = " and ".join(f"embedding:{name}" for name in vectors)
    with_files = clip_with_files(path, family, [str(folder)])
    times = {"files in one folder": milliseconds(lambda: with_files.tokenize(prompt))}
    for number in range(FOLDERS):
        (folder / f"sub{number}").mkdir()
    times[f"files next to {FOLDERS} folders"] = milliseconds(lambda: with_files.tokenize(prompt))
    with_names = clip_with_names(with_files, vectors)
    times["names from a bundle"] = milliseconds(lambda: with_names.tokenize(prompt))
    times["attaching the names, once"] = milliseconds(lambda: clip_with_names(with_files, vectors))
    return times


def page(content: Mapping[str, Any]) -> str:
    """The page of what names.json holds."""
    families = content["families"]
    rows = [
        f"| {what} | " + " | ".join(f"{times[what]:.1f}" for times in families.values()) + " |"
        for what in next(iter(families.values()))
    ]
    return "\n".join(
        [
            f"# {NAMES} names in one prompt",
            "",
            f"{content['machine']}, at a load of {content['load']:.0f}. Milliseconds to tokenize a "
            f"prompt that mentions {NAMES} names of 4 vectors, the shortest of {ROUNDS}, all in "
            "one process: with ComfyUI's own loose files, and with the names bound by Load Bundle. "
            "`python3 dev.py bench names` writes this page.",
            "",
            "| | " + " | ".join(families) + " |",
            "|---|" + "---|" * len(families),
            *rows,
            "",
        ]
    )


def main() -> None:
    argparse.ArgumentParser(prog="dev.py bench names", description=__doc__).parse_args()
    families: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as base:
        prepare(base)
        for family in ("sd15", "sdxl"):
            with tempfile.TemporaryDirectory() as folder:
                families[family] = measure(family, Path(folder))
    content = {"machine": machine(), "load": os.getloadavg()[0], "families": families}
    publish(RESULTS / "names.json", content, page)
    print(page(content))


if __name__ == "__main__":
    main()
