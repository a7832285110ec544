"""A stopped run goes on where it was when the graph is queued again; a finished one is read."""

from __future__ import annotations

import json
from pathlib import Path

import comfy.model_management
import pytest

from factories import CAPTIONS, same, write_pictures
from harness.host.graphs import Graph, Node, concept_run
from harness.host.runner import GraphInterrupted, Host
from pack.nodes.host.run import drive, run_folder
from pack.nodes.host.run.reporter import Reporter
from pack.nodes.host.run.run_folder import RunFolder

STEPS = 6
LORA = ("Pivotal_Lora", {"rank": 4})


def training(name: str, adapter: tuple = LORA, **settings: object) -> tuple[Graph, Node]:
    return concept_run("continue", run_name=name, kind=adapter, **settings)


@pytest.fixture(autouse=True)
def pictures(host: Host, sd15) -> None:
    write_pictures(host.base / "input" / "continue", CAPTIONS)


def files(host: Host, name: str) -> Path:
    return host.base / "output" / "pivotal" / name


def cancel_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Press Cancel when a step has been reported, once."""
    report_step = Reporter.report_step

    def report_and_cancel(self, report):
        report_step(self, report)
        if report.step + 1 == step:
            monkeypatch.setattr(Reporter, "report_step", report_step)
            comfy.model_management.interrupt_current_processing(True)

    monkeypatch.setattr(Reporter, "report_step", report_and_cancel)


@pytest.mark.parametrize(
    ("step", "adapter"),
    [
        (1, LORA),
        (3, LORA),
        (5, LORA),
        (2, ("Pivotal_TriLora", {"rank": 4, "core": "full"})),
        (4, ("Pivotal_TriLora", {"rank": 3, "rank_out": 5, "orthogonality": 0.1})),
        (4, ("Pivotal_Lora", {"rank": 4, "dropout": 0.3, "text_encoder": True})),
        (4, ("Pivotal_Dora", {"rank": 4})),
    ],
    ids=str,
)
def test_cancel_keeps_the_run_and_the_same_graph_goes_on_bit_for_bit(
    host, run_graph, monkeypatch, step: int, adapter: tuple
):
    name = "_".join(map(str, [step, adapter[0], *adapter[1].values()]))
    whole, node = training(f"whole_{name}", adapter, seed=step)
    outputs = run_graph(whole)
    cancel_after(monkeypatch, step)
    with pytest.raises(GraphInterrupted):
        run_graph(training(f"broken_{name}", adapter, seed=step)[0])
    kept = RunFolder(files(host, f"broken_{name}"), "")
    assert kept.load().step == step and kept.bundle_at(step).exists()
    broken, again = training(f"broken_{name}", adapter, seed=step)
    continued = run_graph(broken)
    assert same(continued[again, 0], outputs[node, 0])
    assert continued[again, 4] == outputs[node, 4]
    assert f"{STEPS - step} of the steps now" in continued[again, 5]
    assert not files(host, f"broken_{name}_2").exists()


def test_a_finished_run_is_read_and_not_trained_again(host, run_graph, monkeypatch):
    graph, node = training("finished")
    first = run_graph(graph)

    def train(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(drive, "train", train)
    graph, node = training("finished")
    second = run_graph(graph)
    assert "finished before" in second[node, 5]
    assert second[node, 4] == first[node, 4]
    assert same(second[node, 0].embeddings["tok"], first[node, 0].embeddings["tok"])


def test_another_recipe_under_the_same_name_leaves_the_first_run_alone(host, run_graph):
    run_graph(training("named", seed=1)[0])
    before = (files(host, "named") / "bundle.safetensors").read_bytes()
    run_graph(training("named", seed=2)[0])
    assert (files(host, "named") / "bundle.safetensors").read_bytes() == before
    identity = json.loads((files(host, "named_2") / run_folder.IDENTITY).read_text())
    assert identity["recipe"]["train"]["seed"] == 2


def test_a_run_begun_before_a_setting_existed_is_found_by_a_graph_that_leaves_it_alone(
    host, run_graph
):
    run_graph(training("older")[0])
    place = files(host, "older") / run_folder.IDENTITY
    kept = json.loads(place.read_text())
    del kept["recipe"]["train"]["objective"]["prior_batch"]
    del kept["recipe"]["concepts"][0]["negative_vectors"]
    del kept["recipe"]["adapter"]["text_rate"]
    place.write_text(json.dumps(kept))
    graph, node = training("older")
    assert "finished before" in run_graph(graph)[node, 5]
    del kept["recipe"]["train"]["seed"]
    place.write_text(json.dumps(kept))
    run_graph(training("older", seed=5)[0])
    assert files(host, "older_2").exists()


def test_checkpoints_come_every_so_many_steps(host, run_graph, monkeypatch):
    kept = []
    save = run_folder.save_state
    monkeypatch.setattr(
        run_folder, "save_state", lambda path, state: (kept.append(state.step), save(path, state))
    )
    run_graph(training("every", checkpoint_every=2)[0])
    assert kept == [2, 4, 6]


def test_a_disk_that_refuses_checkpoints_does_not_stop_the_run(run_graph, monkeypatch, caplog):
    def refuse(path, state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder, "save_state", refuse)
    graph, node = training("full", checkpoint_every=3)
    assert len(run_graph(graph)[node, 4]["loss"]) == STEPS
    assert "The checkpoint of step 3 could not be written" in caplog.text


def test_where_a_run_was_killed_before_it_was_anything_it_begins_again(host, run_graph):
    place = files(host, "unborn")
    place.mkdir(parents=True)
    (place / "run.json.part").write_text("{")
    run_graph(training("unborn")[0])
    assert (place / "bundle.safetensors").exists() and not (place / "run.json.part").exists()
    assert not files(host, "unborn_2").exists()


def test_a_folder_that_somebody_made_for_something_else_is_left_alone(host, run_graph):
    place = files(host, "mine")
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("mine")
    run_graph(training("mine")[0])
    assert [path.name for path in place.iterdir()] == ["notes.txt"]
    assert (files(host, "mine_2") / "bundle.safetensors").exists()


def test_what_a_kill_left_half_written_is_taken_away_when_the_run_goes_on(
    host, run_graph, monkeypatch
):
    cancel_after(monkeypatch, 3)
    with pytest.raises(GraphInterrupted):
        run_graph(training("torn")[0])
    place = files(host, "torn")
    drafts = [place / "checkpoints" / ".pivotal-1f.tmp", place / "progress.json.part"]
    drafts.append(place / "checkpoints" / ".tmpkVHJEF")
    drafts.append(place / "previews" / ".pivotal-2a.tmp")
    drafts[-1].parent.mkdir()
    for draft in drafts:
        draft.write_bytes(b"half")
    (place / "bundles" / ".pivotal-folder").mkdir()
    journal = place / "report.jsonl"
    whole = journal.read_text()
    journal.write_text(whole + '{"step": 3, "los')
    run_graph(training("torn")[0])
    assert not any(draft.exists() for draft in (*drafts, place / "bundles" / ".pivotal-folder"))
    lines = journal.read_text().splitlines()
    assert lines[: whole.count("\n")] == whole.splitlines()
    assert all(json.loads(line) for line in lines)
