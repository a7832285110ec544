"""A real training run on the tiny checkpoint that is killed, or whose disk fails, at any moment."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from factories import write_pictures
from harness.faults.disk_events import DiskEvents
from harness.faults.warm import WarmHost
from harness.host.graphs import Graph, Link, Node

RUN, STEPS, SHORT_STEPS = "trial", 8, 2
TIME, DISK, TORN = "at a time", "at a step on the disk", "within a tensor file"
DRAFT = re.compile(r"\.pivotal-|\.part$|\.tmp$")


@dataclass(frozen=True, slots=True)
class Kill:
    """When a run is killed: after seconds, at a step on the disk, or in the midst of a file."""

    kind: str
    moment: float
    share: float = 1.0
    """Of a torn file, what is written"""


class Trials:
    """Runs in children of a warm host; every one has a folder of its own."""

    def __init__(self, warm: WarmHost, work: Path) -> None:
        self._warm, self._work = warm, work
        captions = ["a picture of TOK", "TOK on grass", "a hill", "TOK at night"]
        write_pictures(warm.host.base / "input" / "long", captions)
        write_pictures(warm.host.base / "input" / "held", captions[:1])
        write_pictures(warm.host.base / "input" / "short", captions[:2])

    def _fresh(self, name: str) -> Path:
        """A folder without what a trial left that was stopped itself."""
        folder = self._work / name
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def long_run(self) -> Any:
        """Everything that has a state: two optimizers, dropout, averages, validation, previews."""
        graph = Graph()
        held = graph.add("Pivotal_LoadDataset", folder="held").out()
        judged = graph.add("Pivotal_Validation", every=3, draws=1, dataset=held)
        prodigy = graph.add("Pivotal_Optimizer", algorithm="Prodigy").out()
        more = {"previews": previews(graph, every=4), "validation": judged.out(), "ema_decay": 0.9}
        more |= {"embedding_optimizer": prodigy, "checkpoint_every": 2, "batch_size": 2}
        return self._run(graph, "long", {"rank": 4, "dropout": 0.2}, steps=STEPS, **more)

    def short_run(self) -> Any:
        """A checkpoint after every step, of which one stays."""
        more = {"checkpoint_every": 1, "keep_checkpoints": 1}
        graph = Graph()
        more |= {"previews": previews(graph, every=2), "steps": SHORT_STEPS}
        return self._run(graph, "short", {"rank": 2}, **more)

    def _run(self, graph: Graph, folder: str, adapter: dict[str, Any], **settings: Any) -> Any:
        base, lora = graph.base("sd15"), graph.add("Pivotal_Lora", **adapter).out()
        own = {"concepts": graph.concept(pivot=0.5), "adapter": lora, "checkpointing": "auto"}
        own |= {"run_name": RUN, **settings}
        run = graph.train(base, folder, **own)
        graph.keep(run.out(5))
        return told(self._warm.host.run(graph), run)

    def reference(self, run: Callable[[], Any]) -> dict[str, Any]:
        """What the run comes to when nothing happens, with its time and its steps on the disk."""
        folder = self._fresh(f"reference_{run.__name__}")
        self._warm.child(folder / "warm", run).whole()

        def counted() -> Any:
            kinds: list[str] = []
            events = DiskEvents(roots_of(folder), lambda number, kind, path: kinds.append(kind))
            found = run()
            return {**found, "events": events.count, "kinds": kinds}

        ended = self._warm.child(folder, counted)
        return {**ended.whole(), "seconds": ended.seconds, **left(folder)}

    def kill(self, name: str, kill: Kill, wanted: dict[str, Any]) -> dict[str, Any]:
        """Kill a run, look at what is left, continue it; AssertionError when something is lost."""
        folder = self._fresh(name)

        def doomed() -> Any:
            if kill.kind == DISK:
                DiskEvents(roots_of(folder), dies_at(int(kill.moment)))
            elif kill.kind == TORN:
                tear(int(kill.moment), kill.share)
            return self.long_run()

        after = kill.moment if kill.kind == TIME else None
        ended = self._warm.child(folder, doomed, kill_after=after)
        kept, drafts = look(folder)
        again = self._warm.child(folder, self.long_run)
        found = {**again.whole(), **left(folder)}
        same_end(found, wanted)
        strays = look(folder)[1]
        assert not strays, f"drafts that nobody needs stay in {strays}"
        row = {**asdict(kill), "killed": ended.killed, "drafts": drafts}
        return row | {"went_on": max(kept, default=0)}

    def fail(self, name: str, fault: Fault, wanted: dict[str, Any]) -> dict[str, Any]:
        """Let steps on the disk fail in a short run, and queue it again on a disk that works."""
        folder, run = self._fresh(name), self.short_run

        def hurt() -> Any:
            DiskEvents(roots_of(folder), fault)
            try:
                return run()
            except Exception as error:  # noqa: BLE001 - what the user reads is looked at below
                return {"failed": f"{type(error).__name__}: {error}"}

        found = self._warm.child(folder, hurt)
        answer = found.whole()
        again = {**self._warm.child(folder, run).whole(), **left(folder)}
        same_end(again, wanted)
        log = found.log.read_text(errors="replace")
        kinds = wanted["kinds"]
        row = {"code": errno.errorcode[fault.code], "first": fault.first, "last": fault.last}
        row |= {"kind": kinds[fault.first - 1] if fault.first <= len(kinds) else "none"}
        if "failed" in answer:
            return row | {"failed": answer["failed"]}
        assert answer["losses"] == wanted["losses"] and answer["result"] == wanted["result"], (
            "the run went on to another result"
        )
        signs = (os.strerror(fault.code), "disk is full", "readonly database")
        said = [line for line in log.splitlines() if any(sign in line for sign in signs)]
        return row | {"said": [clipped(line, folder) for line in said][:1]}


@dataclass(frozen=True, slots=True)
class Fault:
    """Steps on the disk that are refused, from the first to the last of them."""

    code: int
    first: int
    last: int

    def __call__(self, number: int, kind: str, path: Path) -> None:
        if not self.first <= number <= self.last:
            return
        text = os.strerror(self.code)
        if kind == "sqlite":
            full = self.code == errno.ENOSPC
            raise sqlite3.OperationalError(
                "database or disk is full" if full else "attempt to write a readonly database"
            )
        if kind == "save_file":
            from safetensors import SafetensorError

            raise SafetensorError(
                f"Error while serializing: I/O error: {text} (os error {self.code})"
            )
        raise OSError(self.code, text, str(path))


def kills(wanted: dict[str, Any], seed: int) -> Iterator[Kill]:
    """Moments without end: half at a time, a quarter each at a disk's step and within a file."""
    draw = random.Random(seed)
    files = wanted["kinds"].count("save_file")
    for number in itertools.count():
        kind = (TIME, DISK, TIME, TORN)[number % 4]
        if kind == TIME:
            yield Kill(kind, draw.uniform(0.05, 0.95) * wanted["seconds"])
        elif kind == DISK:
            yield Kill(kind, draw.randint(1, int(0.9 * wanted["events"])))
        else:
            yield Kill(kind, draw.randint(1, files), draw.random())


def faults(wanted: dict[str, Any]) -> list[Fault]:
    """Every step on the disk refused once, and each tenth with all that come after it."""
    count, codes = wanted["events"], (errno.ENOSPC, errno.EACCES)
    once = [Fault(code, number, number) for code in codes for number in range(1, count + 1)]
    return once + [Fault(code, n, 10**9) for code in codes for n in range(1, count + 1, 10)]


def previews(graph: Graph, every: int) -> Link:
    """Small pictures of one prompt, with no cap on their time."""
    drawn = graph.add(
        "Pivotal_Previews", prompts="a photo of TOK", every=every, time_share=1.0, seeds="5",
        steps=1, width=64, height=64,
    )  # fmt: skip
    return drawn.out()


def dies_at(moment: int) -> Callable[[int, str, Path], None]:
    def act(number: int, kind: str, path: Path) -> None:
        if number == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


def tear(moment: int, share: float) -> None:
    """Die in the midst of writing a tensor file, the `moment`th of this process."""
    from pack.bundles.files import safetensors as files

    save, count = files.save_file, 0

    def torn(tensors: Any, file: Path, metadata: Any = None) -> None:
        nonlocal count
        count += 1
        save(tensors, file, metadata=metadata)
        if count == moment:
            os.truncate(file, int(share * file.stat().st_size))
            os.kill(os.getpid(), signal.SIGKILL)

    files.save_file = torn


def roots_of(folder: Path) -> list[Path]:
    return [folder / "output", folder / "user"]


def told(outputs: Any, run: Node) -> dict[str, Any]:
    """What the graph gave: the losses, and a digest of every tensor.

    Without their names, of which a bundle that was read from its file has others.
    """
    bundle = outputs[run, 0]
    vectors = [rows for parts in bundle.embeddings.values() for rows in parts.values()]
    tensors = [*bundle.lora.values(), *vectors]
    contents = sorted(tensor.float().contiguous().numpy().tobytes() for tensor in tensors)
    return {
        "losses": outputs[run, 4]["loss"],
        "result": hashlib.sha256(b"".join(contents)).hexdigest(),
    }


def left(folder: Path) -> dict[str, Any]:
    """The finished files of a run's folder, and its name."""
    run, *others = sorted((folder / "output" / "pivotal").iterdir())
    assert not others, f"the run went on in {others[0].name}"
    last = max((run / "checkpoints").glob("step_*.safetensors"))
    return {
        "name": run.name,
        "bundle": sealed(run / "bundle.safetensors"),
        "checkpoint": f"{last.name} {sealed(last)}",
    }


def sealed(file: Path) -> str:
    """A digest of a tensor file: of its header but for the date, and of all that follows.

    The library writes the fields of a header in another order each time.
    """
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"].pop("modelspec.date", None)
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + data[end:]).hexdigest()


def look(folder: Path) -> tuple[list[int], list[str]]:
    """The steps whose checkpoints are there, each read whole, and the folders that have drafts."""
    from pack.nodes.host.run.run_folder import RunFolder
    from pack.training.state import load_state

    run = RunFolder(folder / "output" / "pivotal" / RUN, "")
    for step in run.saved_steps():
        load_state(run.checkpoint(step))
    inside = (path.relative_to(run.path) for path in run.path.rglob("*"))
    drafts = [path for path in inside if DRAFT.search(path.name)]
    return run.saved_steps(), [path.parts[0] if path.parts[1:] else "the run" for path in drafts]


def same_end(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for what in ("name", "losses", "result", "bundle", "checkpoint"):
        assert found[what] == wanted[what], f"{what} is {found[what]} and not {wanted[what]}"


def clipped(line: str, folder: Path) -> str:
    """A log line without what differs from run to run."""
    return line.rpartition("WARNING:")[2].replace(f"{folder}/", "")[:400]
