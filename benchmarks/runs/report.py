"""The trials of runs as JSON and as a page."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from atomic import replace_text
from speed.statistics import ratio_interval

Rows = Mapping[str, Mapping[str, Any]]
HEAD = """# Runs that are killed, cancelled and refused the disk

{machine}.
The tiny SD1.5 checkpoint on a real ComfyUI. `python3 dev.py bench runs` writes this page, trial by
trial. "Broken" counts trials after which anything was lost or different.
"""
KILLS = """## Kill -9

A run of 8 steps with LoRA with dropout, vectors under Prodigy, moving averages, validation,
previews and a checkpoint every second step, in a process of its own. It is killed at a random
time, at a random step on the disk, or within the writing of a tensor file, of which then a random
part is there. The same graph is queued again: the bundle and the last checkpoint have to be those
of a run that nobody killed, bit for bit (but for the date in the bundle's header), and no draft
may be left over.

| killed | kills | within a checkpoint or bundle | began again | went on from a step | broken |
|---|---|---|---|---|---|"""
CANCELS = """## Cancel

A server captions 8 pictures with a tiny BLIP and trains on them with previews every second step;
Cancel comes over HTTP at a random moment. Afterwards every weight of MODEL, CLIP and VAE has to be
what it was, with no forward, patch or injection left, the next item of the queue has to make the
same picture as before, and the checkpoint has to be that of the last step done.

| in | cancels | steps done | previews drawn | seconds to stop, largest | broken |
|---|---|---|---|---|---|"""
FAULTS = """## A disk that refuses

A run of 2 steps with a preview and a checkpoint after each, whose steps on the disk (opening,
writing, syncing, renaming, deleting, making folders, the database of digests) are numbered and
refused one at a time, with ENOSPC and with EACCES, and every tenth also with all that follow;
`--faults N` tries every Nth of these. The run has to come to the same result or end with a
sentence, and the same graph queued again has to give the same files.

| refused | with | runs | came to the same result | ended with a sentence | broken |
|---|---|---|---|---|---|"""
OVERHEAD = """## Monitor, reports and previews

One run on the CPU whose steps are watched (numbers, journal, events, progress bars, previews, for
which {share:.0f} % of the time is allowed) and bare in turns, {pairs} pairs of blocks of {length}
steps, {threads} threads, on a machine at a load of {load} at the end. A block counts as the mean of
its steps but for those with a preview and the next, which loads the model anew; the interval of the
median ratio is of at least 95 %, from order statistics.

| | |
|---|---|
| bare, s a step | {bare:.4f} |
| watched, s a step | {watched:.4f} |
| watched / bare, median of {pairs} pairs | {ratio:.4f} |
| 95 % | {low:.4f} to {high:.4f} |
| the same of CPU time | {worked:.4f} |
| 95 % | {worked_low:.4f} to {worked_high:.4f} |
| previews drawn | {previews} |
| share of the whole time that they took | {took:.3f} |"""


def write(rows: Rows, folder: Path) -> None:
    """runs.json and runs.md from the trials that are done."""
    found = {"machine": machine(), "trials": dict(rows)}
    replace_text(folder / "runs.json", json.dumps(found, indent=1) + "\n")
    replace_text(folder / "runs.md", "\n".join(_page(rows)).rstrip() + "\n")


def machine() -> str:
    import torch

    from harness.tools.environment import HOST_VERSION

    return (
        f"ComfyUI {HOST_VERSION}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.system()}, {os.cpu_count()} cores, CPU only"
    )


def _page(rows: Rows) -> Iterator[str]:
    yield HEAD.format(machine=machine())
    for kind, head, table in (
        ("kill", KILLS, _kills),
        ("cancel", CANCELS, _cancels),
        ("fault", FAULTS, _faults),
    ):
        found = [row for name, row in rows.items() if name.startswith(f"{kind} ")]
        found = [row for row in found if row.get("killed", True)]
        if found:
            yield head
            yield from table([row for row in found if "broken" not in row])
            broken = [row["broken"] for row in found if "broken" in row]
            yield f"| all | {len(found)} |" + " |" * (head.count("|---") - 3) + f" {len(broken)} |"
            yield ""
            yield from (f"- {text}" for text in broken[:20])
            yield from _sentences(found) if kind == "fault" else ()
            yield ""
    if "overhead" in rows and "broken" not in rows["overhead"]:
        yield _overhead(rows["overhead"])


def _grouped(rows: list[Mapping[str, Any]], *names: str) -> dict[Any, list[Mapping[str, Any]]]:
    groups = defaultdict[Any, list[Mapping[str, Any]]](list)
    for row in rows:
        groups[tuple(row[name] for name in names)].append(row)
    return dict(sorted(groups.items()))


def _kills(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    for (kind,), group in _grouped(rows, "kind").items():
        killed = [row for row in group if row["killed"]]
        drafts = sum(bool({"checkpoints", "bundles"} & set(row["drafts"])) for row in killed)
        fresh = sum(not row["went_on"] for row in killed)
        yield f"| {kind} | {len(killed)} | {drafts} | {fresh} | {len(killed) - fresh} | 0 |"


def _cancels(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    for (where,), group in _grouped(rows, "where").items():
        steps = [row["steps"] for row in group]
        drawn = sum(row["previews"] for row in group)
        slow = max(row["seconds_to_stop"] for row in group)
        span = f"{min(steps)} to {max(steps)}"
        yield f"| {where} | {len(group)} | {span} | {drawn} | {slow:.2f} | 0 |"


def _faults(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    named: list[Mapping[str, Any]] = [
        row if row["first"] == row["last"] else {**row, "kind": "all that follow"} for row in rows
    ]
    for (kind, code), group in _grouped(named, "kind", "code").items():
        ended = sum("failed" in row for row in group)
        yield f"| {kind} | {code} | {len(group)} | {len(group) - ended} | {ended} | 0 |"


def _sentences(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    """What the runs that ended said, each once."""
    said = Counter(row["failed"] for row in rows if "failed" in row)
    if said:
        yield "What the runs that ended said:"
        yield ""
        yield from (f"- {sentence} ({count})" for sentence, count in said.most_common(10))


def _overhead(row: Mapping[str, Any]) -> str:
    ratio = ratio_interval(row["watched"], row["bare"])
    worked = ratio_interval(row["watched_work"], row["bare_work"])
    return OVERHEAD.format(
        share=100 * row["allowed_share"],
        load=row["load"],
        pairs=ratio.count,
        length=row["steps_a_block"],
        threads=row["threads"],
        bare=median(row["bare"]),
        watched=median(row["watched"]),
        ratio=ratio.median,
        low=ratio.low,
        high=ratio.high,
        worked=worked.median,
        worked_low=worked.low,
        worked_high=worked.high,
        previews=row["previews"],
        took=row["share_of_previews"],
    )
