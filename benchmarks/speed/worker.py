"""The process of one contender: loads its model, then makes a step for every line it is sent."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any

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
"""The module of this folder that runs a contender; each has `run(setup, meter)`."""


def main() -> None:
    # The host and its libraries print, so the reports get a stream of their own.
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    base, words = sys.argv[1], sys.argv[2:]
    # The host parses sys.argv as well.
    sys.argv[1:] = []
    from common import prepare

    from speed.setup import parse

    setup = parse(words)
    prepare(base, cpu=setup.device == "cpu")

    def send(report: dict[str, Any]) -> None:
        reports.write(json.dumps(report) + "\n")

    from speed.meter import Meter, Stopped

    contender = importlib.import_module(f"speed.{MODULES[setup.contender]}")
    try:
        contender.run(setup, Meter(setup.device, lambda: bool(sys.stdin.readline()), send))
    except Stopped:
        pass
    except BaseException as error:  # noqa: BLE001 - whatever it is, the page says it
        traceback.print_exc()
        send({"failed": reason(error)})


def reason(error: BaseException) -> str:
    """The words for the page: the first line of an error."""
    text = str(error)
    words = ("out of memory", "can't allocate memory", "DefaultCPUAllocator")
    if isinstance(error, MemoryError) or any(word in text for word in words):
        return "out of memory"
    return text.partition("\n")[0]


if __name__ == "__main__":
    main()
