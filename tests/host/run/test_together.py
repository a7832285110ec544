"""A run in two processes: one of them writes, and whatever ends it in one ends it in both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from training.test_peers import TESTS, Rows, parts_of, together

from pack.training.config import TrainConfig

STEPS, CANCELLED_IN = 6, 4
CONFIG = TrainConfig(steps=STEPS, batch_size=2)


class Seeing:
    """A watcher that counts what it sees, and does something after a step."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.seen, self.left, self._act = 0, False, act

    def __enter__(self) -> Seeing:
        return self

    def __exit__(self, *_: object) -> None:
        self.left = True

    def see(self, report: Any) -> list[Any]:
        self.seen += 1
        if self.seen == CANCELLED_IN:
            self._act()
        return []


def driven(out: Path, rank: str, how: str) -> None:
    """In a process: drive the toys; the process of that rank is cancelled or complains."""
    import comfy.model_management as management
    from safetensors.torch import save_file

    from pack.nodes.host.run.drive import drive
    from pack.training.loop import train
    from pack.training.peers import PeerStopped

    def complain() -> None:
        raise ValueError("the loss has exploded")

    parts = parts_of(CONFIG)
    acts = {"cancelled": management.interrupt_current_processing, "complains": complain}
    watch = Seeing(acts[how] if parts.peers.rank == int(rank) else lambda: None)
    ends = (management.InterruptProcessingException, ValueError, PeerStopped)
    try:
        drive(train(parts, CONFIG), watch)
        end = len(ends)
    except ends as error:
        end = ends.index(type(error))
    attached = parts.denoiser.attached or parts.text.attached
    numbers = {"seen": watch.seen, "left": watch.left, "end": end, "attached": attached}
    save_file({name: torch.tensor(int(value)) for name, value in numbers.items()}, out)


WAYS = [(rank, how, end) for rank in (0, 1) for end, how in enumerate(("cancelled", "complains"))]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> list[list[Rows]]:
    """How the toys ended in two processes, for each way."""
    acts = [("driven", str(rank), how) for rank, how, _ in WAYS]
    folder = tmp_path_factory.mktemp("driven")
    return together(folder, *acts, module="host.run.test_together")


@pytest.mark.parametrize(("place", "rank", "how", "end"), [(i, *w) for i, w in enumerate(WAYS)])
def test_what_ends_a_run_in_one_process_ends_it_in_the_other_after_the_same_step(
    ended: list[list[Rows]], place: int, rank: int, how: str, end: int
):
    rows = ended[place]
    assert [row["seen"].item() for row in rows] == [CANCELLED_IN] * 2
    assert all(row["left"] and not row["attached"] for row in rows)
    assert rows[rank]["end"] == end and rows[1 - rank]["end"] == 2


def training() -> tuple[Any, Any]:
    from harness.host.graphs import Graph

    graph = Graph()
    held = graph.add("Pivotal_LoadDataset", folder="held").out()
    judged = graph.add("Pivotal_Validation", every=3, draws=1, dataset=held)
    drawn = graph.add(
        "Pivotal_Previews", prompts="a TOK", every=3, time_share=1.0, steps=1, width=64, height=64
    )
    run = graph.train(
        graph.base("sd15"), "shared", concepts=graph.concept(pivot=0.5), steps=STEPS, batch_size=2,
        adapter=graph.add("Pivotal_Lora", rank=4).out(), checkpointing="auto", run_name="shared",
        previews=drawn.out(), validation=judged.out(), checkpoint_every=2,
    )  # fmt: skip
    graph.keep(run.out(5))
    return graph, run


def one_of(warm: Any, folder: Path, rank: int, count: int, cancelled: int | None) -> Any:
    """In a child: a run of several processes; the one of rank `cancelled` has Cancel pressed."""
    import comfy.model_management as management
    import torch.distributed as dist

    from harness.faults.disk_events import DiskEvents
    from harness.faults.run_trials import told
    from harness.host.runner import GraphFailed, GraphInterrupted
    from pack.nodes.host.run import drive

    store = folder / f"store{cancelled}"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    writes = list[str]()
    DiskEvents([folder / "output"], lambda number, kind, path: writes.append(str(path)))
    step, calls = drive.next_report, list[int]()

    def pressing(*given: Any) -> Any:
        calls.append(1)
        if rank == cancelled and len(calls) == CANCELLED_IN:
            management.interrupt_current_processing()
        return step(*given)

    drive.next_report = pressing
    graph, run = training()
    try:
        found = told(warm.host.run(graph), run)
    except (GraphInterrupted, GraphFailed) as error:
        found = {"ended": f"{type(error).__name__}: {error}"}
    return {**found, "writes": len(writes)}


def trials(work: Path) -> dict[str, Any]:
    """In a process of one thread: a whole run of two processes, and those that are cancelled."""
    from factories import write_pictures
    from harness.faults.warm import WarmHost

    warm, rows = WarmHost(), dict[str, Any]()
    captions = ["a picture of TOK", "TOK on grass", "a hill", "TOK at night"]
    write_pictures(warm.host.base / "input" / "shared", captions)
    write_pictures(warm.host.base / "input" / "held", captions[:1])

    def both(name: str, cancelled: int | None) -> None:
        folder = work / name.partition(" ")[0]
        works = [partial(one_of, warm, folder, rank, 2, cancelled) for rank in (0, 1)]
        rows[name] = [ended.whole() for ended in warm.children(folder, works)]
        run = folder / "output" / "pivotal" / "shared"
        journal = (run / "report.jsonl").read_text().splitlines()
        rows[f"{name}: files"] = {
            "folders": [path.name for path in run.parent.iterdir()],
            "checkpoints": sorted(path.name for path in (run / "checkpoints").iterdir()),
            "steps": sum(len(json.loads(line).get("losses", ())) for line in journal),
            "previews": len(list((run / "previews").iterdir())),
        }

    try:
        both("whole", None)
        for rank in (0, 1):
            both(f"cancelled{rank}", rank)
            both(f"cancelled{rank} resumed", None)
        alone = warm.child(work / "alone", lambda: told_alone(warm))
        rows["alone"] = alone.whole()
    finally:
        warm.close()
    return rows


def told_alone(warm: Any) -> Any:
    from harness.faults.run_trials import told

    graph, run = training()
    return told(warm.host.run(graph), run)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In a process of its own: a fork of this one would lack the threads that torch has started."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    work = tmp_path_factory.mktemp("together")
    code = (
        f"import sys, json; sys.path.insert(0, {str(TESTS)!r})\n"
        "import conftest\n"
        "from pathlib import Path\n"
        "from host.run.test_together import trials\n"
        "Path(sys.argv[1], 'rows.json').write_text(json.dumps(trials(Path(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, str(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((work / "rows.json").read_text())


def test_two_processes_learn_what_one_learns_and_one_of_them_writes(rows):
    first, second = rows["whole"]
    assert first["losses"] == second["losses"] == pytest.approx(rows["alone"]["losses"], rel=1e-3)
    assert first["result"] == second["result"]
    assert first["writes"] > 0 and second["writes"] == 0
    files = rows["whole: files"]
    assert files["folders"] == ["shared"] and files["steps"] == STEPS and files["previews"] == 4


@pytest.mark.parametrize("rank", [0, 1])
def test_cancel_in_either_process_saves_the_run_which_resumes_bit_for_bit(rows, rank: int):
    ends = [row["ended"] for row in rows[f"cancelled{rank}"]]
    assert ends[rank].startswith("GraphInterrupted")
    assert "Another process of this run has stopped" in ends[1 - rank]
    # Cancel ends the step that has begun, and the one before is the last whole step.
    saved = rows[f"cancelled{rank}: files"]
    assert saved["checkpoints"][-1] == f"step_{CANCELLED_IN - 1:08}.safetensors"
    assert saved["steps"] == CANCELLED_IN - 1
    whole, resumed = rows["whole"], rows[f"cancelled{rank} resumed"]
    assert [row["losses"] for row in resumed] == [row["losses"] for row in whole]
    assert [row["result"] for row in resumed] == [row["result"] for row in whole]
