"""Trouble in the middle of a run: nothing is lost, and the message says what to do."""

from __future__ import annotations

import comfy.model_management as management
import pytest
import torch
from host.run.test_continue import same
from host.run.test_runs import STEPS, folder, lines, pictures, training  # noqa: F401 - a fixture

from harness.host.runner import GraphFailed, GraphInterrupted
from pack.nodes.host.denoiser.port import HostDenoiser
from pack.nodes.host.run.reporter import Reporter
from pack.training import loop


def after_step(monkeypatch: pytest.MonkeyPatch, step: int, act) -> None:
    """Do something once a step has been reported, once."""
    report_step = Reporter.report_step

    def report_and_act(self, report):
        report_step(self, report)
        if report.step + 1 == step:
            monkeypatch.setattr(Reporter, "report_step", report_step)
            act()

    monkeypatch.setattr(Reporter, "report_step", report_and_act)


ALLOCATOR = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
DEVICE = torch.AcceleratorError("CUDA error: out of memory")


def out_of_memory_at(
    monkeypatch: pytest.MonkeyPatch, calls: set[int], error: Exception = ALLOCATOR
) -> None:
    """Raise an error for lack of memory in these calls of the denoiser, counted from 1."""
    predict, seen = HostDenoiser.predict, iter(range(1, 10_000))

    def short(self, *arguments, **settings):
        if next(seen) in calls:
            raise error
        return predict(self, *arguments, **settings)

    monkeypatch.setattr(HostDenoiser, "predict", short)


@pytest.mark.parametrize("step", [1, 2, STEPS])
def test_a_number_that_is_none_at_any_step_ends_the_run_with_its_last_good_state(
    run_graph, host, monkeypatch, step
):
    errors, calls = loop.batch_errors, iter(range(1, 100))

    def broken(*arguments):
        made, noised = errors(*arguments)
        return (made * float("nan") if next(calls) == step else made), noised

    monkeypatch.setattr(loop, "batch_errors", broken)
    with pytest.raises(GraphFailed, match=rf"Step {step}: the loss .* The run is saved as of step"):
        run_graph(training(f"nan {step}")[0])
    state = folder(host, f"nan {step}").load()
    assert all(t.isfinite().all() for n, t in state.tensors.items() if n.startswith("parameters"))
    monkeypatch.undo()
    graph, node = training(f"nan {step}")
    assert len(run_graph(graph)[node, 4]["loss"]) == STEPS


@pytest.mark.parametrize(
    ("step", "error"), [(1, ALLOCATOR), (3, ALLOCATOR), (STEPS, ALLOCATOR), (2, DEVICE)]
)
def test_short_memory_at_any_step_is_told_and_the_run_comes_to_its_end(
    run_graph, host, monkeypatch, step, error
):
    graph, node = training("enough", adapter=None)
    wanted = run_graph(graph)[node, 4]["loss"]
    out_of_memory_at(monkeypatch, {step}, error)
    name = f"short {step}"
    graph, node = training(name, adapter=None)
    found = run_graph(graph)[node, 4]["loss"]
    assert found == pytest.approx(wanted, rel=1e-3)
    (told,) = lines(host, name, "trouble")
    assert told["step"] == step and told["trouble"].startswith("Memory ran out: from here on")


def test_no_memory_for_a_step_at_all_ends_with_what_would_fit_and_keeps_the_run(
    run_graph, host, monkeypatch
):
    graph, node = training("none")
    wanted = run_graph(graph)[node, 4]["loss"]
    out_of_memory_at(monkeypatch, {3, 4})
    with pytest.raises(GraphFailed, match="Not enough memory for a step, .* lower resolution"):
        run_graph(training("no room")[0])
    assert folder(host, "no room").load().step == 2
    monkeypatch.undo()
    graph, node = training("no room")
    found = run_graph(graph)
    assert "4 of the steps now" in found[node, 5]
    # Picture by picture from there on, as it has been told.
    assert found[node, 4]["loss"] == pytest.approx(wanted, rel=1e-3)


def test_pictures_that_are_deleted_in_mid_run_are_not_missed(run_graph, host, monkeypatch):
    graph, node = training("kept whole")
    wanted = run_graph(graph)[node, 0]
    place = host.base / "input" / "runs"
    after_step(monkeypatch, 2, lambda: [path.unlink() for path in place.glob("*.*")])
    graph, node = training("robbed")
    assert same(run_graph(graph)[node, 0], wanted)


def test_a_picture_that_goes_before_it_is_read_is_named(run_graph, host, monkeypatch):
    from pack.nodes.host.run import drive as runs

    place = host.base / "input" / "runs" / "2.png"
    parts = runs.make_parts
    monkeypatch.setattr(runs, "make_parts", lambda *given: (place.unlink(), parts(*given))[1])
    with pytest.raises(GraphFailed, match=r"2\.png is gone since .*: put it back"):
        run_graph(training("gone before")[0])
    monkeypatch.undo()
    graph, node = training("gone before")
    assert "on 3 images" in run_graph(graph)[node, 5], "the next run takes what is there"


def test_two_recipes_in_turns_under_one_name_both_come_to_their_end(run_graph, host, monkeypatch):
    graph, node = training("alone", seed=1)
    wanted = run_graph(graph)[node, 0]
    after_step(monkeypatch, 3, management.interrupt_current_processing)
    with pytest.raises(GraphInterrupted):
        run_graph(training("shared", seed=1)[0])
    graph, node = training("shared", seed=2)
    other = run_graph(graph)[node, 0]
    graph, node = training("shared", seed=1)
    found = run_graph(graph)
    assert "3 of the steps now" in found[node, 5] and same(found[node, 0], wanted)
    assert not same(other, wanted) and folder(host, "shared_2").bundle.exists()


def numbers(bundle) -> list[bytes]:
    """All that a bundle holds, without names, of which one from a file has others."""
    rows = [rows for parts in bundle.embeddings.values() for rows in parts.values()]
    tensors = [*bundle.lora.values(), *rows]
    return sorted(tensor.float().contiguous().numpy().tobytes() for tensor in tensors)


def test_the_same_run_queued_twice_is_trained_once(run_graph, host):
    graph, node = training("twice")
    first = run_graph(graph)[node, 0]
    graph, node = training("twice")
    second = run_graph(graph)
    assert "finished before" in second[node, 5]
    assert numbers(second[node, 0]) == numbers(first)
    assert not folder(host, "twice_2").path.exists()
