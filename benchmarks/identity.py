"""Random pairs of graphs that are the same run or not; `dev.py bench identity` runs it.

What makes a run the same run is said in nodes/host/run/identity.py, and tried by the table of
changes in tests/harness/host/same_runs.py. Pairs run through ComfyUI's own nodes on really loaded
models; for most of them only the run's identity is looked at, and every twentieth trains.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping
from typing import Any

from common import RESULTS, ROOT, machine, prepare, publish

PAIRS, QUEUED = 200, 20
"""How many pairs there are, and that every so many-th is queued and trained"""
WORDS = {True: "the same run", False: "a new run"}


def row(host: Any, seed: int) -> dict[str, Any]:
    """One pair: what both graphs have, what the second has in addition, and what came of it."""
    from harness.host.same_runs import (
        expected_same,
        identity_with,
        is_found_when_queued,
        is_same,
        random_pair,
    )

    pair = random_pair(seed)
    both, other = pair
    queued = seed % QUEUED in (0, 1) and seed // QUEUED % 2 == seed % 2
    try:
        if queued:
            found = is_found_when_queued(host, f"pair {seed}", pair)
        else:
            found = is_same(*(identity_with(host, changes) for changes in pair))
        seen = WORDS[found]
    except Exception as error:
        seen = f"{type(error).__name__}: {error}"[:300]
    expected = WORDS[expected_same(both, other)]
    return {
        "pair": seed,
        "both have": [change.name for change in both],
        "differs": [change.name for change in other if change not in both],
        "trained": queued,
        "expected": expected,
        "seen": seen,
        "right": seen == expected,
    }


def page(content: Mapping[str, Any]) -> str:
    """The page of what identity.json holds."""
    rows = content["rows"]
    expected = Counter(row["expected"] for row in rows)
    wrong = [row for row in rows if not row["right"]]
    lines = [
        "# The same run or a new one",
        "",
        f"{content['machine']}. Random pairs of graphs on tiny checkpoints of SD1.5 whose unfilled "
        "memory holds other numbers at each load. `python3 dev.py bench identity` writes this "
        "page; identity.json has a row for each pair.",
        "",
        "| | |",
        "|---|---|",
        f"| pairs | {len(rows)} |",
        f"| of these trained | {sum(row['trained'] for row in rows)} |",
        *(f"| expected: {words} | {expected[words]} |" for words in WORDS.values()),
        f"| as expected | {len(rows) - len(wrong)} |",
        "",
        *(f"pair {r['pair']}: {', '.join(r['differs'])}: {r['seen']}" for r in wrong),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench identity", description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    known = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        prepare(base)
        from harness.host import same_runs
        from harness.host.runner import start_host

        host = start_host(ROOT)
        same_runs.prepare(host)
        rows = []
        for seed in range(known.pairs):
            rows.append(row(host, seed))
            if not rows[-1]["right"]:
                print(rows[-1])
            print(f"{len(rows)} pairs, {sum(not r['right'] for r in rows)} not as expected")
    content = {"machine": machine(), "rows": rows}
    publish(RESULTS / "identity.json", content, page)
    print(page(content))


if __name__ == "__main__":
    main()
