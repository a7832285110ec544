"""The trials as JSON and as a page."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from common import machine, publish
from speed.statistics import ratio_interval

Rows = Mapping[str, Mapping[str, Any]]
HEAD = """# Runs that are killed, cancelled and denied the disk

{machine}.

The tiny SD1.5 checkpoint on a real ComfyUI. `python3 dev.py bench runs` writes this page, trial by
trial. "Broken" counts trials after which anything was lost or different.
"""
KILLS = """## Kill -9

A run of 8 steps in its own process: LoRA with dropout, vectors under Prodigy, moving averages,
validation, previews, and a checkpoint every second step. It is killed at a random time, at a random
disk operation, or while it writes a tensor file, of which a random part is then on the disk. The
same graph is queued again. The bundle and the last checkpoint must be bit for bit those of a run
that was never killed (except for the date in the bundle's header), and no draft may be left.

| killed | kills | during a checkpoint or bundle | started over | resumed from a step | broken |
|---|---|---|---|---|---|"""
CANCELS = """## Cancel

A server captions 8 pictures with a tiny BLIP, then trains on them with previews every second step.
Cancel arrives over HTTP at a random moment. Afterwards every weight of MODEL, CLIP and VAE must be
what it was, with no forward, patch or injection left; the next item in the queue must make the same
picture as before; and the checkpoint must be that of the last finished step.

| in | cancels | steps done | previews drawn | seconds to stop, largest | broken |
|---|---|---|---|---|---|"""
FAULTS = """## A disk that refuses

A run of 2 steps with a preview and a checkpoint after each. Its disk operations (opening, writing,
syncing, renaming, deleting, making folders, the database of digests) are numbered and fail one at a
time, with ENOSPC and with EACCES; for every tenth, all later ones fail as well. `--faults N` tries
every Nth of these. The run must reach the same result or end with an error message, and the same
graph queued again must give the same files.

| failing | with | runs | reached the same result | ended with a message | broken |
|---|---|---|---|---|---|"""
OVERHEAD = """## Monitor, reports and previews

One run on the CPU whose steps are watched (numbers, journal, events, progress bars, and previews,
which may take {share:.0f} % of the time) and bare in turns: {pairs} pairs of blocks of {length}
steps, {threads} threads, at a load of {load} at the end. A block counts as the mean of its steps,
without those with a preview and the ones after, which load the model again. The interval of the
median ratio is of at least 95 %, from order statistics.

| | |
|---|---|
| bare, seconds per step | {bare:.4f} |
| watched, seconds per step | {watched:.4f} |
| watched / bare, median of {pairs} pairs | {ratio:.4f} |
| 95 % | {low:.4f} to {high:.4f} |
| the same for CPU time | {cpu:.4f} |
| 95 % | {cpu_low:.4f} to {cpu_high:.4f} |
| previews drawn | {previews} |
| their share of the whole time | {took:.3f} |"""


def write(trials: Rows, folder: Path) -> None:
    """Write runs.json and runs.md from the finished trials."""
    content = {"machine": machine(), "trials": dict(trials)}
    publish(folder / "runs.json", content, page)


def page(content: Mapping[str, Any]) -> str:
    """The page of what runs.json holds."""
    lines = [HEAD.format(machine=content["machine"]), *_parts(content["trials"])]
    return "\n".join(lines).rstrip() + "\n"


def _parts(trials: Rows) -> Iterator[str]:
    for kind, head, table in (
        ("kill", KILLS, _kills),
        ("cancel", CANCELS, _cancels),
        ("fault", FAULTS, _faults),
    ):
        rows = [row for name, row in trials.items() if name.startswith(f"{kind} ")]
        rows = [row for row in rows if row.get("killed", True)]
        if rows:
            yield head
            yield from table([row for row in rows if "broken" not in row])
            broken = [row["broken"] for row in rows if "broken" in row]
            yield f"| all | {len(rows)} |" + " |" * (head.count("|---") - 3) + f" {len(broken)} |"
            yield ""
            yield from (f"- {text}" for text in broken[:20])
            yield from _messages(rows) if kind == "fault" else ()
            yield ""
    if "overhead" in trials and "broken" not in trials["overhead"]:
        yield _overhead(trials["overhead"])


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


def _messages(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    """The error messages of the runs that ended with one, each once."""
    messages = Counter(row["failed"] for row in rows if "failed" in row)
    if messages:
        yield "Runs ended with these messages:"
        yield ""
        yield from (f"- {message} ({count})" for message, count in messages.most_common(10))


def _overhead(row: Mapping[str, Any]) -> str:
    ratio = ratio_interval(row["watched"], row["bare"])
    cpu = ratio_interval(row["watched_work"], row["bare_work"])
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
        cpu=cpu.median,
        cpu_low=cpu.low,
        cpu_high=cpu.high,
        previews=row["previews"],
        took=row["share_of_previews"],
    )
