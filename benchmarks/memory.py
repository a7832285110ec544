"""The most memory that Inspect, Trim, Merge and Convert take, as a multiple of their files.

`dev.py bench memory` runs it. Each measurement is a process of its own, from reading the file to
the result; what the process holds before that is taken off. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, machine, publish
from safetensors.torch import save_file

from pack.bundles.bundle import Bundle
from pack.bundles.edit import NameClash, merge_bundles
from pack.bundles.inspection import as_text, inspect_bundle
from pack.bundles.load import load_bundle
from pack.bundles.save import Container, save_bundle
from pack.bundles.trim import Keep, Trimming, spectrum_plot, spectrum_report, trim_lora

SIDE, RANK, GIGABYTE = 3072, 64, 1024**3
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}


def inspect(bundles: Sequence[Bundle], folder: Path) -> object:
    return [as_text(inspect_bundle(bundle)) for bundle in bundles]


def trim(bundles: Sequence[Bundle], folder: Path) -> object:
    trimmed = trim_lora(bundles[0].lora, Trimming(keep=Keep.COUNT, count=RANK // 2))
    return trimmed, spectrum_report(trimmed), spectrum_plot(trimmed)


def merge(bundles: Sequence[Bundle], folder: Path) -> object:
    return merge_bundles(bundles, [1.0] * len(bundles), NameClash.ERROR)


def convert(bundles: Sequence[Bundle], folder: Path) -> object:
    return save_bundle(bundles[0], folder / "converted.safetensors", Container.A1111, None)


ACTIONS: dict[str, Callable[[Sequence[Bundle], Path], object]] = {
    "Inspect": inspect,
    "Trim to half the rank": trim,
    "Merge two files": merge,
    "Convert": convert,
}


def write_lora(path: Path, size: int, dtype: torch.dtype) -> None:
    """A LoRA of about `size` bytes with layers of Flux' width."""
    rng = torch.Generator().manual_seed(0)
    layer = 2 * SIDE * RANK * dtype.itemsize
    tensors: dict[str, torch.Tensor] = {}
    for number in range(max(1, size // layer)):
        stem = f"diffusion_model.layers.{number}.attention.out"
        up, down = torch.randn(2, SIDE, RANK, generator=rng).to(dtype)
        tensors[f"{stem}.lora_up.weight"] = up.clone()
        tensors[f"{stem}.lora_down.weight"] = down.T.contiguous()
    save_file(tensors, path)


def worker(action: str, files: Sequence[Path], small: Path) -> int:
    """Bytes at the peak above what the same action on one layer takes, in this process."""
    folder = small.parent
    ACTIONS[action]([load_bundle(small)] * len(files), folder / "small")
    before = _peak()
    result = ACTIONS[action]([load_bundle(file) for file in files], folder / "large")
    peak = _peak() - before
    del result
    return peak


def _peak() -> int:
    # Not `ru_maxrss`, which a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def measure(action: str, size: int, dtype: str) -> dict[str, float]:
    """Size of the files and the peak in bytes, from a process of its own."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        count = 2 if action.startswith("Merge") else 1
        files = [folder / f"{number}.safetensors" for number in range(count)]
        for file in files:
            write_lora(file, size // count, DTYPES[dtype])
        small = folder / "small.safetensors"
        write_lora(small, 1, DTYPES[dtype])
        command = [sys.executable, str(Path(__file__).with_name("__main__.py")), "memory"]
        command += ["--worker", action, str(small), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=_alone())
        peak = json.loads(done.stdout.splitlines()[-1])
        return {"files": float(sum(file.stat().st_size for file in files)), "peak": float(peak)}


def _alone() -> dict[str, str]:
    """One thread, whose scratch memory is the same everywhere."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def page(content: Mapping[str, Any]) -> str:
    """The page of what memory.json holds."""
    rows = [
        f"| {action} | "
        + " | ".join(f"{kinds[kind]['peak'] / kinds[kind]['files']:.2f}" for kind in DTYPES)
        + " |"
        for action, kinds in content["actions"].items()
    ]
    return "\n".join(
        [
            "# Memory of Inspect, Trim, Merge and Convert",
            "",
            f"{content['machine']}. The peak of a process's memory, with the pages of the file "
            f"that the system maps, as a multiple of the files: {content['size'] / GIGABYTE:.1f} "
            f"GiB of layers {SIDE} x {SIDE} of rank {RANK}. The files themselves count once; the "
            "results of Trim and Merge are in fp32, which is twice as large as fp16. "
            "`python3 dev.py bench memory` writes this page.",
            "",
            "| | " + " | ".join(f"a file in {kind}" for kind in DTYPES) + " |",
            "|---|" + "---|" * len(DTYPES),
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench memory", description=__doc__)
    parser.add_argument("--size", type=int, default=GIGABYTE, help="bytes of the files")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        action, small, *files = given.worker
        print(worker(action, [*map(Path, files)], Path(small)))
        return
    actions = {
        action: {kind: measure(action, given.size, kind) for kind in DTYPES} for action in ACTIONS
    }
    content = {"machine": machine(), "size": given.size, "actions": actions}
    publish(RESULTS / "memory.json", content, page)
    print(page(content))


if __name__ == "__main__":
    main()
