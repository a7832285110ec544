"""Reads damaged and hostile bundle files by the hundred thousand; the result is a page.

`python3 dev.py bench fuzz [--cases N]`. Seeds run in blocks, each in a process of its own so that
a crash is seen; it goes on where it was stopped, and the page says how many were run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
BLOCK = 5000
LIMIT_SECONDS = 3600.0
sys.path[:] = [entry for entry in sys.path if Path(entry) != Path(__file__).parent]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from atomic import replace_text  # noqa: E402
from conftest import load_pack  # noqa: E402


def run_block(start: int, count: int) -> dict[str, Any]:
    """In this process: read the files of `count` seeds, and say what came of it."""
    load_pack()
    from harness.faults.fuzzing import MARK, make_case, read_case

    counts: Counter[str] = Counter()
    findings: list[str] = []
    slowest, largest = (0.0, 0), 0
    os.chdir(tempfile.mkdtemp(prefix="pivotal-fuzz-"))
    for seed in range(start, start + count):
        name, content = make_case(seed)
        path = Path(name)
        path.write_bytes(content)
        largest = max(largest, len(content))
        began = time.process_time()
        try:
            counts[read_case(path)] += 1
        except Exception as error:
            findings.append(f"seed {seed}: {type(error).__name__}: {error}"[:300])
        slowest = max(slowest, (time.process_time() - began, seed))
        path.unlink()
        if Path(MARK).exists():
            findings.append(f"seed {seed} ran code")
            Path(MARK).unlink()
    os.rmdir(os.getcwd())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {
        "counts": counts,
        "findings": findings,
        "slowest": slowest,
        "largest": largest,
        "peak": peak,
        "seconds": time.process_time(),
    }


def in_new_process(start: int, count: int) -> dict[str, Any]:
    """`run_block` in a process of its own; a crash or a hang is a finding."""
    command = [sys.executable, "-W", "ignore", __file__, "--block", str(start), str(count)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return {"findings": [f"block {start} did not end in {LIMIT_SECONDS:.0f} s"], "counts": {}}
    if done.returncode:
        tail = done.stderr.strip()[-300:]
        return {"findings": [f"block {start} ended with {done.returncode}: {tail}"], "counts": {}}
    return json.loads(done.stdout.splitlines()[-1])


def report(blocks: dict[str, dict[str, Any]]) -> str:
    """The page."""
    counts: Counter[str] = Counter()
    for block in blocks.values():
        counts.update(block["counts"])
    whole = [block for block in blocks.values() if "peak" in block]
    findings = [finding for block in blocks.values() for finding in block["findings"]]
    slowest = max(block["slowest"][0] for block in whole)
    return "\n".join(
        [
            "# Damaged and hostile bundle files",
            "",
            f"Python {platform.python_version()}, {platform.system()}, one process a block of "
            f"{BLOCK} seeds. `python3 dev.py bench fuzz` writes this; "
            "tests/harness/faults/fuzzing.py makes the files: bytes of real files changed, cut and "
            "doubled, headers that lie, torch files that name code or claim more than they hold, "
            "odd names and texts.",
            "",
            "| | |",
            "|---|---|",
            f"| files read | {sum(counts.values()):,} |",
            f"| refused with a sentence | {counts['refused']:,} |",
            f"| loaded, checked against their size | {counts['loaded']:,} |",
            f"| other exceptions, crashes, hangs, code run | {len(findings)} |",
            f"| slowest file | {slowest:.2f} s of CPU |",
            f"| largest file | {max(block['largest'] for block in whole) / 2**20:.1f} MB |",
            f"| peak memory of a process, torch included | {max(b['peak'] for b in whole)} MB |",
            f"| CPU time | {sum(block['seconds'] for block in whole):.0f} s |",
            "",
            *findings[:50],
        ]
    )


def main() -> None:
    """Run the blocks that are not there yet, and write the page after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="not used: the blocks are in the results")
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--block", type=int, nargs=2)
    known = parser.parse_args()
    if known.block:
        print(json.dumps(run_block(*known.block)))
        return
    state = RESULTS / "fuzz.json"
    blocks = json.loads(state.read_text()) if state.exists() else {}
    for start in range(0, known.cases, BLOCK):
        if str(start) not in blocks:
            blocks[str(start)] = in_new_process(start, min(BLOCK, known.cases - start))
            replace_text(state, json.dumps(blocks, indent=1) + "\n")
            replace_text(RESULTS / "fuzz.md", report(blocks).rstrip() + "\n")
            print(f"{start + BLOCK:,} files, {len(blocks[str(start)]['findings'])} findings")
    print(report(blocks))


if __name__ == "__main__":
    main()
