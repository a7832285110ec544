"""Another checkout of the pack against this one: the same settings, in turns."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .parts import Part
from .play import ROOT, Rows, in_turns, started
from .statistics import bootstrap_ratio

OURS = ("ours", "ours_all")
"""The contenders that run the pack."""


def compare(
    part: Part, other: Path, sessions: int, log: Path, say: Callable[[str], None]
) -> Iterator[list[Rows]]:
    """Measure the pack's setups of a part in both checkouts; yields the rows of sessions so far.

    Each session starts new processes, because a process can be faster or slower than its twin for
    as long as it lives. They have one thread each: the CPU time of several depends on how long they
    wait for each other. The rows of a session are pairs: this checkout's, then the other's.
    """
    setups = [setup for setup in part.setups if setup.contender in OURS]
    entries = [(setup, root) for setup in setups for root in (ROOT, other)]
    done: list[Rows] = []
    for session in range(1, sessions + 1):
        title = f"{part.name}, session {session} of {sessions}"
        with started(title, entries, log, say, threads=1) as contenders:
            for _ in in_turns(contenders, part.rounds):
                pass
            done.append([contender.row() for contender in contenders])
        yield done


def table(other: Path, sessions: Sequence[Rows]) -> str:
    """Ratios of this checkout to the other as a table."""
    lines = [
        f"This checkout ({commit(ROOT)}) to {other} ({commit(other)}), one thread each:",
        "",
        "| row | CPU time | 95 % | time | 95 % | pairs | sessions | memory | kept |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for place in range(0, len(sessions[0]), 2):
        lines.append(_line([(rows[place], rows[place + 1]) for rows in sessions]))
    return "\n".join(lines)


def _line(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    name = pairs[0][0]["name"]
    failed = [row["failed"] for pair in pairs for row in pair if "failed" in row]
    if failed:
        return f"| {name} | {failed[0]} | | | | | | | |"
    shown: list[str] = []
    for kind in ("cpu_seconds", "seconds"):
        ratio = bootstrap_ratio(
            [[a / b for a, b in zip(us[kind], them[kind], strict=True)] for us, them in pairs]
        )
        shown += [f"{ratio.median:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}"]
    shown += [str(sum(len(us["seconds"]) for us, _ in pairs)), str(len(pairs))]
    for kind in ("peak_bytes_above_model", "saved_bytes"):
        us, them = (max(pair[side][kind] for pair in pairs) for side in (0, 1))
        shown.append(f"{us / max(them, 1):.3f}")
    return f"| {name} | {' | '.join(shown)} |"


def commit(root: Path) -> str:
    """What a checkout is at, in git's words."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no commit"
