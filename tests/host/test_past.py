"""What an earlier version left in a user's folders is taken up by this one."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from comfy.sd import VAE
from safetensors.torch import load_file

from factories import tensors
from harness.host.graphs import Give, Graph
from harness.host.runner import Outputs
from pack.nodes.host.dataset.caption_files import undo_captions
from pack.nodes.host.dataset.gallery import dataset_id
from pack.training.dataset.facts import Store, content_digest
from pack.training.dataset.folder.read import read_folder

PAST = Path(__file__).resolve().parents[1] / "past" / "15e7634"
ROOT, DATED = "/past", 1_700_000_000 * 10**9
"""Where the folders lay when they were made, and the date of the pictures."""
NUMBERS = json.loads((PAST / "continued" / "numbers.json").read_text(encoding="utf-8"))
MACHINE = {
    "torch": torch.__version__,
    "cpu": torch.backends.cpu.get_cpu_capability(),
    "threads": torch.get_num_threads(),
}
TOLERANCE = 0.0 if NUMBERS["machine"] == MACHINE else 1e-3
"""Another processor or thread count adds in another order."""


@pytest.fixture
def past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the folders of then, which the host has for its own while the test runs."""
    base = tmp_path / "past"
    shutil.copytree(PAST, base)
    for picture in base.glob("input/*/*.png"):
        os.utime(picture, ns=(DATED, DATED))
    moved(base)
    for kind in ("input", "output", "user"):
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(base / kind))
    yield base


def moved(base: Path) -> None:
    """Write the new place into the files that name pictures by their absolute path."""
    history = base / "user" / "pivotal" / "history.jsonl"
    history.write_text(history.read_text().replace(f'"{ROOT}/', f'"{base.as_posix()}/'))
    with sqlite3.connect(base / "user" / "pivotal" / "facts.sqlite") as facts:
        old, new = (text.encode().hex() for text in (ROOT, str(base)))
        facts.execute("UPDATE facts SET path = replace(path, ?, ?)", (old, new))
    facts.close()


def queued(run_graph: Any, base: Path, prompt: str) -> tuple[Outputs, dict[str, str]]:
    """The outputs of a stored graph, and its nodes by their class."""
    graph = Graph(json.loads((base / "prompts" / f"{prompt}.json").read_text()))
    return run_graph(graph), {node["class_type"]: name for name, node in graph.items()}


def lines(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()]


def test_the_tiny_checkpoint_is_built_as_it_was_then(sd15):
    assert content_digest(sd15.path) == NUMBERS["checkpoint"]


@pytest.mark.parametrize("name", NUMBERS["losses"])
def test_a_run_of_the_past_is_found_by_its_graph_and_continues_bit_for_bit(
    name: str, past, sd15, run_graph, monkeypatch
):
    folder = past / "output" / "pivotal" / name
    step = int(max((folder / "checkpoints").iterdir()).stem.removeprefix("step_"))
    before = [line for line in lines(folder / "report.jsonl") if line["step"] <= step]
    kept = load_file(past / "user" / "pivotal" / "singular_values.safetensors").keys()

    def encode(*_: Any):
        raise AssertionError("the latents that were kept are not found")

    monkeypatch.setattr(VAE, "encode", encode)
    outputs, nodes = queued(run_graph, past, name)
    run = nodes["Pivotal_TrainConcepts"]
    losses = outputs[run, 4]["loss"]
    assert f"{len(losses) - step} of the steps now" in outputs[run, 5]
    assert not folder.with_name(f"{name}_2").exists()
    assert lines(folder / "report.jsonl")[: len(before)] == before
    assert load_file(past / "user" / "pivotal" / "singular_values.safetensors").keys() == kept

    assert losses == pytest.approx(NUMBERS["losses"][name], rel=TOLERANCE, abs=0)
    then, now = load_file(PAST / "continued" / f"{name}.safetensors"), tensors(outputs[run, 0])
    torch.testing.assert_close(now, then, rtol=TOLERANCE, atol=TOLERANCE)


class Colors:
    """The captioner of then."""

    identity = "colors"

    def __init__(self) -> None:
        self.asked = 0

    def caption(self, pictures: Any, *_: Any) -> list[str]:
        self.asked += len(pictures)
        return [f"a picture of {' '.join(map(str, p.getpixel((8, 8))))}" for p in pictures]


def test_a_captioning_that_was_killed_is_taken_up(past, run_graph):
    folder, captioner = past / "input" / "to_caption", Colors()
    assert list(folder.glob(".*.pivotal-part"))
    # Makes the node that gives a value of the test known.
    Graph().give(captioner)
    Give.VALUES["captioner"] = captioner
    outputs, nodes = queued(run_graph, past, "captions")
    records = outputs[nodes["Pivotal_CaptionDataset"], 0].records
    wanted = ["by hand", *(f"a picture of {10 * n} 200 90" for n in (1, 2, 3))]
    assert [record.caption for record in records] == wanted
    assert [(folder / f"{n}.txt").read_text().strip() for n in range(4)] == wanted
    report = outputs[nodes["Pivotal_CaptionDataset"], 2]
    assert "1 captioned now" in report and "1 kept from before, 2 skipped" in report
    assert captioner.asked == 1
    assert not list(folder.glob(".*.pivotal-part"))


def test_captions_written_in_the_past_can_be_undone(past):
    # The second was noted, as it has to be, before it was written, and never came.
    assert undo_captions(1) == "revision 1 is undone"
    assert sorted(p.name for p in (past / "input" / "to_caption").glob("*.txt")) == ["0.txt"]


def test_a_review_of_the_past_is_applied(past, run_graph):
    (journal,) = (past / "user" / "pivotal" / "reviews").iterdir()
    own = dataset_id(read_folder(past / "input" / "pictures"))
    journal.rename(journal.with_name(f"{own}.jsonl"))
    outputs, nodes = queued(run_graph, past, "review")
    node = nodes["Pivotal_ReviewDataset"]
    assert [(record.name, record.caption) for record in outputs[node, 0].records] == [
        ("0.png", "TOK, edited"),
        ("2.png", "a hill"),
        ("3.png", "TOK at noon"),
        ("4.png", "TOK in the rain"),
    ]
    assert outputs.ui[node]["review"] == [{"dataset": own, "revision": 5}]


@pytest.mark.skipif(os.name == "nt", reason="an absolute path has a drive there")
def test_a_review_of_the_past_is_found_under_its_name(monkeypatch):
    pictures = read_folder(PAST / "input" / "pictures")
    there = pictures.with_records(
        lambda record: type(record)(
            path=Path(ROOT, "input", "pictures", record.path.name),
            caption=record.caption,
            width=record.width,
            height=record.height,
        )
    )
    (journal,) = (PAST / "user" / "pivotal" / "reviews").iterdir()
    assert dataset_id(there) == journal.stem


def test_what_was_found_out_about_pictures_is_known(past, run_graph, monkeypatch):
    found_out = []
    monkeypatch.setattr(Store, "put", lambda self, kind, path, value: found_out.append(kind))
    outputs, nodes = queued(run_graph, past, "check")
    assert outputs[nodes["Pivotal_CheckDataset"], 1].startswith("ready with warnings\n")
    # Those versions took a plain ground for a border: such pictures are measured anew.
    assert set(found_out) <= {"measures 1 white"}
