"""Kills a captioning at random moments and looks at what is left."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from pack.bundles.files.atomic import remove_drafts
from pack.bundles.files.journal import Journal
from pack.training.dataset.captioning.ask import (
    Asking,
    Memory,
    Order,
    caption_dataset,
    question_digest,
)
from pack.training.dataset.facts import content_digest
from pack.training.dataset.folder.read import read_folder
from pack.training.dataset.writing.write import (
    CaptionFile,
    CaptionHistory,
    OnExisting,
    plan_changes,
)

PICTURES = 24
SECONDS_A_BATCH = 0.004


class Steady:
    """Answers from the picture alone, so that two runs can be compared."""

    identity = "steady"

    def caption(
        self, pictures: Sequence[Image.Image], asking: Asking, seeds: Sequence[int]
    ) -> list[str]:
        time.sleep(SECONDS_A_BATCH)
        digests = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures]
        # Long, so that a half-written file would show, and without a loop, which is no caption.
        return [" ".join(d[i : i + 4] for i in range(0, len(d), 2)) for d in digests]


def make_set(folder: Path) -> Path:
    """Pictures, every third with a caption of its own."""
    folder.mkdir(parents=True)
    draw = random.Random(0)
    for number in range(PICTURES):
        color = tuple(draw.randrange(256) for _ in range(3))
        Image.new("RGB", (16, 16), color).save(folder / f"{number:02}.png")
        if number % 3 == 0:
            (folder / f"{number:02}.txt").write_text(own(number), encoding="utf-8")
    return folder


def own(number: int) -> str:
    return f"by hand {number} ünï"


def run(folder: Path, user: Path) -> None:
    """Caption a folder, each caption kept and appended to its file as it comes."""
    order = Order(batch_size=2, on_existing=OnExisting.APPEND)
    asking, history = Asking(), CaptionHistory(user / "history.jsonl")
    path = user / f"{question_digest(Steady.identity, asking)}.jsonl"
    memory = Memory(Journal(path), lambda record: content_digest(record.path))
    revision = history.revision() + 1
    remove_drafts([folder])
    for progress in caption_dataset(read_folder(folder), Steady(), asking, order, memory):
        described = [replace(record, caption=text) for record, text in progress.fresh]
        history.write(plan_changes(described, CaptionFile.TXT, order.on_existing), revision)


@dataclass(frozen=True, slots=True)
class Left:
    """What a folder and its journals hold."""

    files: dict[str, str]
    strays: list[str]
    kept: Counter[str]


def look(folder: Path, user: Path) -> Left:
    files = {p.name: p.read_bytes().decode("utf-8") for p in folder.glob("*.txt")}
    strays = [p.name for p in folder.iterdir() if p.suffix not in (".txt", ".png")]
    journals = [p for p in user.glob("*.jsonl") if p.name != "history.jsonl"]
    entries = [entry for path in journals for entry in Journal(path).entries()]
    return Left(files, strays, Counter(str(entry["name"]) for entry in entries))


def kill_once(work: Path, moment: float, wanted: dict[str, str]) -> dict[str, int | bool]:
    """Start, kill after `moment` seconds, check, go on to the end, check; AssertionError if bad."""
    folder, user = make_set(work / "set"), work / "user"
    child = os.fork()
    if child == 0:
        try:
            run(folder, user)
        finally:
            os._exit(0)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    left = look(folder, user)
    for name, text in left.files.items():
        before = own(int(name[:2])) if int(name[:2]) % 3 == 0 else None
        assert text in (before, wanted[name]), f"{name} is neither the old nor the new: {text!r}"
    lost = [n for n in range(0, PICTURES, 3) if f"{n:02}.txt" not in left.files]
    assert not lost, f"captions lost: {lost}"
    run(folder, user)
    end = look(folder, user)
    assert end.files == wanted, "the end is another than without a kill"
    assert set(end.kept.values()) == {1}, "a caption was made twice"
    return {"killed": os.WIFSIGNALED(status), "kept": sum(left.kept.values()),
            "written": sum(t == wanted[n] for n, t in left.files.items()),
            "drafts": len(left.strays), "drafts_at_the_end": len(end.strays)}  # fmt: skip


def reference(work: Path) -> tuple[dict[str, str], float]:
    """What a run leaves that nobody kills, and how long it takes."""
    folder, user = make_set(work / "set"), work / "user"
    started = time.monotonic()
    run(folder, user)
    seconds, left = time.monotonic() - started, look(folder, user)
    assert len(left.files) == len(left.kept) == PICTURES, "the reference run captioned nothing"
    return left.files, seconds
