"""A run is watched, judged, continued and told about, on the real host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from factories import CAPTIONS, write_pictures
from harness.host.graphs import Graph, Node, concept_run
from harness.host.runner import GraphFailed, Host
from pack.nodes.host.run.live import LiveRequest, live_run
from pack.nodes.host.run.reporter import Reporter
from pack.nodes.host.run.run_folder import RunFolder

STEPS = 6


def training(name: str, graph: Graph | None = None, **settings: object) -> tuple[Graph, Node]:
    return concept_run("runs", graph, run_name=name, **settings)


@pytest.fixture(autouse=True)
def pictures(host: Host, sd15) -> None:
    write_pictures(host.base / "input" / "runs", CAPTIONS)


def folder(host: Host, name: str) -> RunFolder:
    return RunFolder(host.base / "output" / "pivotal" / name, "")


def lines(host: Host, name: str, key: str) -> list[dict]:
    return [line for line in folder(host, name).reports() if key in line]


def asking(monkeypatch: pytest.MonkeyPatch, name: str, asked: dict[int, LiveRequest]) -> None:
    """Request things of a run while it trains, as the route does."""
    report_step = Reporter.report_step

    def report_and_ask(self, report):
        report_step(self, report)
        if report.step + 1 in asked:
            live_run(name).requests.append(asked[report.step + 1])

    monkeypatch.setattr(Reporter, "report_step", report_and_ask)


def test_a_graph_that_ends_in_train_concepts_runs_and_a_finished_run_is_only_read(host, run_graph):
    graph = Graph()
    graph.train(graph.base("sd15"), "runs", concepts=graph.concept(), steps=2, run_name="ends")
    run_graph(graph)
    files = [path for path in folder(host, "ends").path.rglob("*") if path.is_file()]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    assert folder(host, "ends").bundle in before
    run_graph(graph, host.executor())  # as after a restart: nothing is cached
    now = [path for path in folder(host, "ends").path.rglob("*") if path.is_file()]
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in now} == before


def test_previews_and_validation_leave_the_training_as_it_was(host, run_graph):
    plain, node = training("plain")
    wanted = run_graph(plain)[node, 0]
    graph = Graph()
    drawn = graph.add(
        "Pivotal_Previews", prompts="a photo of TOK\n(TOK:1.2) in snow", every=2, without=True,
        time_share=1.0, seeds="5", steps=2, width=64, height=64,
    )  # fmt: skip
    held = graph.add("Pivotal_LoadDataset", folder="runs").out()
    judged = graph.add("Pivotal_Validation", every=2, draws=2, dataset=held, keep_best=False)
    settings = {"previews": drawn.out(), "validation": judged.out()}
    graph, node = training("watched", graph, **settings)
    found = run_graph(graph)[node, 0]
    assert all(torch.equal(found.lora[key], value) for key, value in wanted.lora.items())
    told = lines(host, "watched", "previews")
    assert told and len(told[0]["previews"]) == 4
    names = [row["file"] for line in told for row in line["previews"]]
    pixels = [Image.open(folder(host, "watched").previews / name) for name in names]
    assert {picture.size for picture in pixels} == {(64, 64)}
    assert [line["step"] for line in lines(host, "watched", "validation")] == [2, 4, 6]
    assert set(lines(host, "watched", "validation")[0]["validation"]) == {"all", "tok"}


def test_a_preview_is_the_picture_that_the_graph_makes_of_that_bundle(host, run_graph):
    """Drawn at the last step with the training clone: the same pixels as by KSampler afterwards."""
    graph = Graph()
    drawn = graph.add(
        "Pivotal_Previews", prompts="a TOK", every=STEPS, time_share=1.0, seeds="7", steps=2,
        cfg=1.0, sampler_name="euler", scheduler="normal", width=64, height=64,
    )  # fmt: skip
    graph, node = training("same", graph, previews=drawn.out())
    sampled = graph.sample(node.out(1), node.out(2), "a embedding:tok")
    _, _, vae = graph.base("sd15")
    graph.keep(graph.add("VAEDecode", samples=sampled.out(), vae=vae).out())
    decoded = [key for key in graph if key.startswith("VAEDecode")][0]
    made = run_graph(graph)[decoded, 0][0]
    (told,) = lines(host, "same", "previews")
    picture = Image.open(folder(host, "same").previews / told["previews"][0]["file"])
    drawn_pixels = (
        torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(64, 64, 3) / 255
    )
    # The file is a JPEG and the bundle's vectors pass through the host's text weights.
    assert (drawn_pixels - made).abs().mean() < 0.02


def test_each_checkpoint_has_a_bundle_and_only_the_newest_stay(host, run_graph, monkeypatch):
    asking(monkeypatch, "kept", {1: LiveRequest("checkpoint")})
    run_graph(training("kept", checkpoint_every=1, keep_checkpoints=2)[0])
    run = folder(host, "kept")
    # What is asked for after step 1 is kept after step 2, and stays.
    assert run.saved_steps() == [2, 5, 6]
    assert all(run.bundle_at(step).exists() for step in run.saved_steps())


def test_finish_now_gives_what_there_is_and_is_not_trained_again(host, run_graph, monkeypatch):
    asking(monkeypatch, "ended", {2: LiveRequest("finish")})
    graph, node = training("ended")
    assert len(run_graph(graph)[node, 4]["loss"]) == 3
    monkeypatch.undo()
    graph, node = training("ended")
    again = run_graph(graph)
    assert "finished before" in again[node, 5] and len(again[node, 4]["loss"]) == 3
    graph, node = training("ended", steps=STEPS + 2)
    assert len(run_graph(graph)[node, 4]["loss"]) == STEPS + 2


def test_pivot_now_freezes_the_concept_and_is_told_in_the_bundle(host, run_graph, monkeypatch):
    asking(monkeypatch, "frozen", {1: LiveRequest("pivot", "tok")})
    graph, node = training("frozen")
    bundle = run_graph(graph)[node, 0]
    assert [e["what"] for e in bundle.recipe["events"]] == ["pivot"]
    at_pivot, at_end = (
        safe_open(folder(host, "frozen").bundle_at(step), "pt") for step in (2, STEPS)
    )
    for key in at_pivot.keys():  # noqa: SIM118
        equal = torch.equal(at_pivot.get_tensor(key), at_end.get_tensor(key))
        assert equal is key.startswith("bundle_emb") or key.endswith("alpha")


def test_more_steps_of_the_same_graph_go_on_from_the_end(host, run_graph):
    run_graph(training("longer")[0])
    first = folder(host, "longer").bundle_at(STEPS).read_bytes()
    graph, node = training("longer", steps=STEPS + 3)
    outputs = run_graph(graph)
    assert "3 of the steps now" in outputs[node, 5]
    assert outputs[node, 0].recipe["events"][0]["changed"] == {"steps": [STEPS, STEPS + 3]}
    assert folder(host, "longer").bundle_at(STEPS).read_bytes() == first
    assert not folder(host, "longer_2").path.exists()


def test_any_checkpoint_can_be_continued_with_other_rates(host, run_graph):
    run_graph(training("source", checkpoint_every=2, keep_checkpoints=0)[0])
    before = {p: p.read_bytes() for p in folder(host, "source").path.rglob("*.safetensors")}
    graph = Graph()
    checkpoint = f"source/step_{4:08}"
    origin = graph.add(
        "Pivotal_ContinueRun", checkpoint=checkpoint, more_steps=3, learning_rate=0.002
    )
    graph, node = training("target", graph, continue_from=origin.out())
    outputs = run_graph(graph)
    assert len(outputs[node, 4]["loss"]) == 7
    (event,) = outputs[node, 0].recipe["events"]
    assert event["from"] == "source" and event["step"] == 4
    assert event["changed"]["train.optimizer.learning_rate"] == [0.0, 0.002]
    assert {p: p.read_bytes() for p in before} == before


def test_the_best_step_by_validation_is_the_result(host, run_graph):
    graph = Graph()
    held = graph.add("Pivotal_LoadDataset", folder="runs").out()
    judged = graph.add("Pivotal_Validation", every=1, dataset=held, patience=2)
    rate = graph.add("Pivotal_Optimizer", learning_rate=0.05).out()
    settings = {"validation": judged.out(), "optimizer": rate, "embedding_optimizer": rate}
    graph, node = training(
        "best", graph, steps=12, checkpoint_every=1, keep_checkpoints=0, **settings
    )
    bundle = run_graph(graph)[node, 0]
    course = lines(host, "best", "validation")
    best = min(course, key=lambda line: line["validation"]["all"])["step"]
    assert len(course) == best + 2, "two validations without a new best end the run"
    with safe_open(folder(host, "best").bundle_at(best), "pt") as kept:
        rows = kept.get_tensor("bundle_emb.tok.clip_l")
    assert torch.equal(bundle.embeddings["tok"]["clip_l"], rows)


def test_held_out_pictures_do_not_train(host, run_graph):
    graph = Graph()
    judged = graph.add("Pivotal_Validation", every=2, hold_out=1)
    graph, node = training("held", graph, validation=judged.out())
    assert "steps on 3 images" in run_graph(graph)[node, 5]


def test_the_average_is_what_comes_out(host, run_graph):
    plain, node = training("last")
    last = run_graph(plain)[node, 0]
    graph, node = training("mean", ema_decay=0.9)
    mean = run_graph(graph)[node, 0]
    assert any(not torch.equal(mean.lora[k], v) for k, v in last.lora.items())


def test_plot_run_draws_what_was_told(host, run_graph):
    graph = Graph()
    drawn, node = training("plotted", graph)
    plots = drawn.add("Pivotal_PlotRun", run_name="plotted", after=node.out(5))
    drawn.keep(plots.out(0))
    outputs = run_graph(drawn)
    assert outputs[plots, 0].shape[-1] == 3 and outputs[plots, 0].shape[1] >= 3 * 480
    assert outputs[plots, 1]["loss"] == outputs[node, 4]["loss"]
    report = lines(host, "plotted", "losses")[-1]
    assert set(report) >= {"norms", "rates", "concepts", "pace", "memory", "seconds"}
    assert report["norms"].keys() == {"adapters"} and report["rates"]["adapters"] == 1e-4
    moved = [line for line in lines(host, "plotted", "nearest") if line["nearest"]]
    assert moved and moved[0]["nearest"]["tok"]["clip_l"][0][0] == "dog"


def test_a_number_that_is_none_stops_the_run_with_its_last_good_state(host, run_graph, monkeypatch):
    from pack.training import loop

    errors, calls = loop.batch_errors, iter(range(100))

    def broken(*arguments):
        made, noised = errors(*arguments)
        return (made * float("nan") if next(calls) == 3 else made), noised

    monkeypatch.setattr(loop, "batch_errors", broken)
    graph, node = training("nan")
    with pytest.raises(GraphFailed, match="Step 4: the loss and the gradient of the adapters"):
        run_graph(graph)
    state = folder(host, "nan").load()
    assert state.step == 4 and all(t.isfinite().all() for n, t in state.tensors.items() if "p" in n)
    monkeypatch.undo()
    graph, node = training("nan")
    assert len(run_graph(graph)[node, 4]["loss"]) == STEPS


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(host, run_graph, caplog):
    graph, node = training("damaged", checkpoint_every=2, keep_checkpoints=0)
    wanted = run_graph(graph)[node, 0]
    run = folder(host, "damaged")
    run.checkpoint(6).write_bytes(run.checkpoint(6).read_bytes()[:1000])
    (run.path / "progress.json").write_text(json.dumps({"steps": STEPS, "finished": None}))
    graph, node = training("damaged", checkpoint_every=2, keep_checkpoints=0)
    found = run_graph(graph)
    assert "2 of the steps now" in found[node, 5]
    assert "The checkpoint before it is used" in caplog.text
    assert all(torch.equal(found[node, 0].lora[k], v) for k, v in wanted.lora.items())


def test_no_link_in_a_run_folder_is_written_or_swept_through(host, run_graph, tmp_path, caplog):
    """A run folder that somebody shares can hold links to whatever its new owner has."""
    graph, node = training("linked", checkpoint_every=2)
    wanted = run_graph(graph)[node, 0]
    run = folder(host, "linked")
    (tmp_path / "user").write_text("theirs")
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "half.part").write_text("theirs")
    for name in ("report.jsonl", "report.txt", "run.json.part", "loss.png", "bundle.safetensors"):
        (run.path / name).unlink(missing_ok=True)
        (run.path / name).symlink_to(tmp_path / "user")
    (run.path / "previews").symlink_to(tmp_path / "downloads")
    (run.path / "progress.json").unlink()
    found = run_graph(training("linked", checkpoint_every=2)[0])[node, 0]
    assert all(torch.equal(found.lora[key], value) for key, value in wanted.lora.items())
    assert "report.jsonl is a link, a folder or a device and no file: delete it" in caplog.text
    assert (tmp_path / "user").read_text() == "theirs"
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["half.part"]
    assert (run.path / "report.txt").is_file() and not (run.path / "report.txt").is_symlink()
    assert not (run.path / "run.json.part").is_symlink()


@pytest.mark.parametrize("text", ["null", "[" * 200_000, '{"kept": 1}', '{"kept": [], "split": 3}'])
def test_a_plan_of_the_memory_that_is_none_is_made_anew(host, run_graph, text):
    name = f"planned {len(text)}"
    settings = {"checkpointing": "auto", "checkpoint_every": 2, "keep_checkpoints": 0}
    run_graph(training(name, **settings)[0])
    run = folder(host, name)
    run.plan.write_text(text)
    run.checkpoint(STEPS).unlink()
    (run.path / "progress.json").unlink()
    run_graph(training(name, **settings)[0])
    assert json.loads(run.plan.read_text()).keys() == {"kept", "split", "reason"}


def test_a_folder_that_vanishes_in_mid_run_is_made_again(host, run_graph, monkeypatch):
    import shutil

    report_step, root = Reporter.report_step, Path(folder(host, "gone").path)

    def report_and_delete(self, report):
        report_step(self, report)
        if report.step == 2:
            shutil.rmtree(root)

    monkeypatch.setattr(Reporter, "report_step", report_and_delete)
    graph, node = training("gone", checkpoint_every=2)
    run_graph(graph)
    assert folder(host, "gone").bundle.exists() and folder(host, "gone").saved_steps() == [4, 6]
    monkeypatch.undo()
    graph, node = training("gone", checkpoint_every=2)
    assert "finished before" in run_graph(graph)[node, 5]
