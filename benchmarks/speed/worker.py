"""The process of one contender: it loads its model, then makes a step for every line it is sent."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    "ours": "ours",
    "ours_all": "ours",
    "floor": "floor",
    "floor_host": "floor",
    "native": "native",
    "native_fp32": "native",
    "native_bypass": "native",
    "diffusers_peft": "peft_lora",
    "whole_table": "whole_table",
}
"""Which module of this folder runs a contender; each has `run(setup, meter)`."""


def main() -> None:
    # The host and its libraries print; the reports have a stream of their own.
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    base, words = Path(sys.argv[1]), sys.argv[2:]
    sys.argv[1:] = []
    sys.path[:] = [entry for entry in sys.path if Path(entry) != Path(__file__).parent]
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]
    from learning.__main__ import prepare

    from speed.setup import parse

    setup = parse(words)
    prepare(base, cpu=setup.device == "cpu")

    def tell(report: dict[str, Any]) -> None:
        reports.write(json.dumps(report) + "\n")

    from speed.meter import Meter, Stopped

    contender = importlib.import_module(f"speed.{MODULES[setup.contender]}")
    try:
        contender.run(setup, Meter(setup.device, lambda: bool(sys.stdin.readline()), tell))
    except Stopped:
        pass
    except BaseException as error:  # noqa: BLE001 - whatever it is, the page says it
        traceback.print_exc()
        short = "out of memory" if is_out_of_memory(error) else str(error).splitlines()[:1]
        tell({"failed": short if isinstance(short, str) else " ".join(short)})


def is_out_of_memory(error: BaseException) -> bool:
    words = ("out of memory", "can't allocate memory", "DefaultCPUAllocator")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


if __name__ == "__main__":
    main()
