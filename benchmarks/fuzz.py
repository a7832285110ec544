"""Reads damaged and hostile bundle files by the hundred thousand; `dev.py bench fuzz` runs it.

Seeds run in blocks, each in a process of its own so that a crash is noticed. It resumes if it was
interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, machine, publish, read_json

BLOCK = 5000
LIMIT_SECONDS = 3600.0


def run_block(start: int, count: int) -> dict[str, Any]:
    """Read the files of `count` seeds in this process and record the outcomes."""
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
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks"), "fuzz"]
    command += ["--block", str(start), str(count)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return {"findings": [f"block {start} did not end in {LIMIT_SECONDS:.0f} s"], "counts": {}}
    if done.returncode:
        tail = done.stderr.strip()[-300:]
        return {"findings": [f"block {start} ended with {done.returncode}: {tail}"], "counts": {}}
    return json.loads(done.stdout.splitlines()[-1])


def page(content: Mapping[str, Any]) -> str:
    """The page of what fuzz.json holds."""
    blocks = content["blocks"].values()
    counts: Counter[str] = Counter()
    for block in blocks:
        counts.update(block["counts"])
    whole = [block for block in blocks if "peak" in block]
    findings = [finding for block in blocks for finding in block["findings"]]
    lines = [
        "# Damaged and hostile bundle files",
        "",
        f"{content['machine']}; one process for each block of {BLOCK} seeds. "
        "`python3 dev.py bench fuzz` writes this page. tests/harness/faults/fuzzing.py makes the "
        "files: real files with bytes changed, cut off or doubled, headers that lie, torch files "
        "that name code or claim more than they hold, odd names and odd texts.",
        "",
        "| | |",
        "|---|---|",
        f"| files read | {sum(counts.values()):,} |",
        f"| refused with a message | {counts['refused']:,} |",
        f"| loaded, and checked against their size | {counts['loaded']:,} |",
        f"| other exceptions, crashes, hangs, code executed | {len(findings)} |",
        f"| slowest file | {max(block['slowest'][0] for block in whole):.2f} s of CPU |",
        f"| largest file | {max(block['largest'] for block in whole) / 2**20:.1f} MB |",
        f"| peak memory of a process, including torch | {max(b['peak'] for b in whole)} MB |",
        f"| CPU time | {sum(block['seconds'] for block in whole):.0f} s |",
        "",
        *findings[:50],
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Run the blocks that are missing, and write the page after each."""
    parser = argparse.ArgumentParser(prog="dev.py bench fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--block", type=int, nargs=2, help=argparse.SUPPRESS)
    known = parser.parse_args()
    if known.block:
        print(json.dumps(run_block(*known.block)))
        return
    path = RESULTS / "fuzz.json"
    content = read_json(path, {"blocks": {}})
    for start in range(0, known.cases, BLOCK):
        if str(start) not in content["blocks"]:
            block = in_new_process(start, min(BLOCK, known.cases - start))
            content = {"machine": machine(), "blocks": content["blocks"] | {str(start): block}}
            publish(path, content, page)
            print(f"{start + BLOCK:,} files, {len(block['findings'])} findings")
    print(page(content))


if __name__ == "__main__":
    main()
