"""Training with each command line flag of ComfyUI; `dev.py bench flags` runs it.

For each flag a real server trains on one checkpoint, then on another, and then trains the first
run on; a run without a break has to have the same losses. Memory that no file fills holds other
numbers at each load. It resumes if it was interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import RESULTS, machine, prepare, publish, read_json


def page(content: Mapping[str, Any]) -> str:
    """The page of what flags.json holds."""
    rows = content["rows"]
    lines = [
        "# Command line flags of ComfyUI",
        "",
        f"{content['machine']}. A server for each flag trains a word and a LoRA on a tiny SD1.5, "
        "then on another checkpoint, and then trains the first run on. `python3 dev.py bench "
        "flags` writes this page.",
        "",
        "| flag | run found again | same losses as without a break |",
        "|---|---|---|",
    ]
    for row in rows:
        name = f"`{row['flag']}`" if row["flag"] else "(none)"
        if "problem" in row:
            lines.append(f"| {name} | {row['problem'].replace('|', '/')} | |")
            continue
        told = (row["found_again"], row["losses_equal"])
        lines.append(f"| {name} | " + " | ".join("yes" if one else "no" for one in told) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench flags", description=__doc__)
    parser.add_argument("--again", action="store_true", help="try finished flags as well")
    known = parser.parse_args()
    path = RESULTS / "flags.json"
    rows = (
        {} if known.again else {row["flag"]: row for row in read_json(path, {"rows": []})["rows"]}
    )
    host = Path(os.environ["PIVOTAL_COMFYUI"])
    with tempfile.TemporaryDirectory() as base, tempfile.TemporaryDirectory() as own:
        # The checkpoints are built by ComfyUI in this process.
        prepare(own)
        from harness.host.flags import FLAGS, furnish, try_flag

        furnish(Path(base))
        for flag in FLAGS:
            if flag not in rows:
                rows[flag] = try_flag(Path(sys.executable), host, Path(base), flag)
                print(rows[flag])
                content = {"machine": machine(), "rows": [rows[f] for f in FLAGS if f in rows]}
                publish(path, content, page)
    print(page(read_json(path, {})))


if __name__ == "__main__":
    main()
