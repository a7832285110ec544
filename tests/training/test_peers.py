"""Processes that share a run get what one process gets, whatever happens to one of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pack.training.commands import Pivot
from pack.training.config import TrainConfig
from pack.training.loop import share
from pack.training.objective import ObjectiveConfig, Prior
from pack.training.peers import Alone, Group
from pack.training.words.concepts import Concept
from training.toys import losses, toy_data, toy_parts, trained

TESTS = Path(__file__).resolve().parents[1]
TOK = Concept(placeholder="TOK", initial="dog", pivot=0.7)
CASES = {
    "micro steps": TrainConfig(steps=6, accumulation=2, batch_size=1),
    "samples of a batch": TrainConfig(steps=6, batch_size=2),
    "an average": TrainConfig(steps=6, batch_size=2, ema_decay=0.9),
}

TWO_SIZES = TrainConfig(steps=6, accumulation=2, batch_size=3)
WITH_PRIOR = TrainConfig(steps=6, batch_size=2, objective=ObjectiveConfig(prior=Prior.BASE))
ADDED = {"prior": WITH_PRIOR, "batches of two sizes": TWO_SIZES}

WORKER = """
import importlib
import json
import os
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import conftest  # gives the pack its name
import torch.distributed as dist
rank, count, folder, module, acts = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
dist.init_process_group("gloo", init_method=f"file://{{folder}}/store", rank=rank, world_size=count)
act = importlib.import_module(module)
for place, (name, *words) in enumerate(json.loads(acts)):
    getattr(act, name)(Path(folder, f"{{rank}}-{{place}}.safetensors"), *words)
dist.destroy_process_group()
# Gloo's threads let go of Python's objects a little later than the call that they served returns,
# and abort the process if the interpreter is being torn down by then (pytorch/pytorch 179291).
os._exit(0)
"""
Rows = dict[str, torch.Tensor]


def together(
    folder: Path, *acts: Sequence[str], count: int = 2, module: str = "training.test_peers"
) -> list[list[Rows]]:
    """Run functions of a test file, one after another, in several processes that start once.

    For each act, a function and its words, what each of the processes saved.
    """
    code = WORKER.format(tests=str(TESTS))
    words = [str(folder), module, json.dumps(acts)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(count), *words],
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    ends = [process.communicate(timeout=240) for process in running]
    assert [process.returncode for process in running] == [0] * count, ends
    return [
        [load_file(folder / f"{rank}-{place}.safetensors") for rank in range(count)]
        for place in range(len(acts))
    ]


def parts_of(config: TrainConfig, **more: object):
    """The toys of a case, with whatever processes there are."""
    from pack.training.peers import peers_here

    parts = toy_parts(TOK, batch_size=config.batch_size, **more)
    parts.peers = peers_here()
    return parts


def train_case(out: Path, case: str) -> None:
    """In a process: the whole run; saves what it learned and its losses."""
    from safetensors.torch import save_file

    config = (CASES | ADDED)[case]
    parts = parts_of(config)
    numbers = torch.tensor(losses(parts, config), dtype=torch.float64)
    save_file({**trained(parts), "losses": numbers}, out)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Rows]]:
    """What two processes saved for every case and every mishap."""
    acts = {name: ("train_case", name) for name in (*CASES, *ADDED)}
    acts |= {name: (name,) for name in ("short_of_memory", "commanded")}
    saved = together(tmp_path_factory.mktemp("pairs"), *acts.values())
    return dict(zip(acts, saved, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_two_processes_get_bit_for_bit_what_one_gets(case: str, pairs: dict[str, list[Rows]]):
    first, second = pairs[case]
    parts = toy_parts(TOK, batch_size=CASES[case].batch_size)
    expected = losses(parts, CASES[case])
    assert first["losses"].tolist() == second["losses"].tolist() == expected
    for name, value in trained(parts).items():
        assert torch.equal(first[name], value) and torch.equal(second[name], value), name


@pytest.mark.parametrize("case", ADDED)
def test_priors_and_batches_of_two_sizes_are_divided_by_their_samples(
    case: str, pairs: dict[str, list[Rows]]
):
    """More than two terms are added in another order, so the last bits may differ."""
    first, second = pairs[case]
    parts = toy_parts(TOK, batch_size=ADDED[case].batch_size)
    torch.testing.assert_close(first["losses"].tolist(), losses(parts, ADDED[case]))
    for name, value in trained(parts).items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-7)


def test_samples_that_do_not_divide_are_shared_as_evenly_as_they_can_be(tmp_path: Path):
    """Three processes for two samples: one of them has nothing to do, and waits for nobody."""
    (rows,) = together(tmp_path, ("train_case", "samples of a batch"), count=3)
    parts = toy_parts(TOK)
    losses(parts, CASES["samples of a batch"])
    for name, value in trained(parts).items():
        assert all(torch.equal(row[name], value) for row in rows), name


def short_of_memory(out: Path) -> None:
    """In a process: the second one runs out of memory in step 2."""
    from safetensors.torch import save_file

    from pack.training.loop import train

    config = CASES["samples of a batch"]
    parts = parts_of(config)
    predict, calls = parts.denoiser.predict, []

    def failing(*args, **kwargs):
        calls.append(1)
        if parts.peers.rank == 1 and len(calls) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return predict(*args, **kwargs)

    parts.denoiser.predict = failing
    splits = [report.run.split for report in train(parts, config)]
    save_file({**trained(parts), "splits": torch.tensor(splits)}, out)


def test_memory_that_runs_out_in_one_process_is_saved_in_all(pairs: dict[str, list[Rows]]):
    first, second = pairs["short_of_memory"]
    assert first["splits"].tolist() == second["splits"].tolist() == [False] + [True] * 5
    parts = toy_parts(TOK)
    losses(parts, CASES["samples of a batch"])
    for name, value in trained(parts).items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value)


def commanded(out: Path) -> None:
    """In a process: only the first one is asked to freeze the concept after step 2."""
    from safetensors.torch import save_file

    from pack.training.loop import train

    parts = parts_of(CASES["samples of a batch"])
    steps = train(parts, CASES["samples of a batch"])
    commands, live = None, []
    try:
        while True:
            report = steps.send(commands)
            live.append(len(report.run.live))
            asked = parts.peers.rank == 0 and report.step == 1
            commands = [Pivot("TOK")] if asked else []
    except StopIteration:
        pass
    save_file({**trained(parts), "live": torch.tensor(live)}, out)


def test_a_command_to_the_first_process_is_obeyed_by_all(pairs: dict[str, list[Rows]]):
    first, second = pairs["commanded"]
    assert first["live"].tolist() == second["live"].tolist() == [1, 1, 0, 0, 0, 0]
    assert all(torch.equal(first[name], second[name]) for name in first)


class Some(Group):
    """One of several processes, without a connection."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_every_sample_of_a_step_belongs_to_one_process(count: int):
    from pack.training.data import MicroStep, draw_batch

    data = toy_data(["a", "b", "c"], batch_size=3)
    steps = [MicroStep(draw_batch(data, 0, i, 0.0), None, number=i) for i in range(2)]
    weights = {(i, place): 0.0 for i in range(2) for place in range(3)}
    sizes = list[int]()
    for rank in range(count):
        parts = [part for part in share(steps, Some(rank, count)) if part is not None]
        sizes.append(sum(len(part.batch) for part in parts))
        for part in parts:
            for place in range(part.place, part.place + len(part.batch)):
                weights[part.number, place] += part.share / len(part.batch)
    assert weights == {key: pytest.approx(1 / 3) for key in weights}
    assert max(sizes) - min(sizes) <= 1


def test_a_process_alone_takes_whole_micro_steps_as_they_are():
    from pack.training.data import MicroStep, draw_batch

    step = MicroStep(draw_batch(toy_data(["a", "b"]), 0, 0, 0.0), None)
    assert share([step], Alone())[0] is step
