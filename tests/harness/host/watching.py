"""One run whose steps are watched or not, in turns: what the watching costs and what it reads."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import comfy.model_management as management
import torch
from torch import Tensor, nn

from pack.nodes.host.run import drive as runs
from pack.nodes.host.run.numbers import Mailbox

READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__")
"""What makes the CPU wait for the device when it is asked of a tensor there"""


@dataclass(slots=True)
class Block:
    """Steps in a row that were watched, or that were not."""

    watched: bool
    seconds: list[float] = field(default_factory=list)
    worked: list[float] = field(default_factory=list)
    """Seconds that this process worked, which other programs disturb less"""
    counts: list[dict[str, int]] = field(default_factory=list)
    """Of each step"""
    drew: list[int] = field(default_factory=list)
    """2 for a step that a preview followed, 1 for the next, which injects the model anew, else 0"""

    def mean(self, what: str = "seconds") -> float:
        """Of a step, those with a preview left out: previews have their own share."""
        values = zip(getattr(self, what), self.drew, strict=True)
        plain = [value for value, drew in values if not drew]
        return sum(plain) / len(plain)


@contextmanager
def in_turns(
    blocks: Sequence[Block], length: int, encoders: Callable[[], Sequence[nn.Module]] | None = None
) -> Iterator[None]:
    """Within this context a run is driven block by block; with `encoders` it is counted too."""

    def drive(steps: runs.Steps, watch: runs.Shown) -> None:
        with watch, closing(steps):
            for block in blocks:
                for _ in range(length):
                    counts: Counter[str] = Counter()
                    with counted(counts, encoders()) if encoders else nullcontext():
                        _step(steps, watch, block)
                    block.counts.append(dict(counts))

    before, runs.drive = runs.drive, drive
    try:
        yield
    finally:
        runs.drive = before


def _step(steps: runs.Steps, watch: Any, block: Block) -> None:
    """One step as a run takes it, or bare."""
    began, worked = time.perf_counter(), time.process_time()
    report = runs.next_report(steps, None)
    assert report is not None, "the run was shorter than its blocks"
    previewer = watch._watch._previewer
    drawn = previewer._spent
    if block.watched:
        watch.see(report)
        management.throw_exception_if_processing_interrupted()
    block.seconds.append(time.perf_counter() - began)
    block.worked.append(time.process_time() - worked)
    before, watch.__dict__["drew"] = watch.__dict__.get("drew"), previewer._spent > drawn
    block.drew.append(2 if watch.__dict__["drew"] else int(bool(before)))


@contextmanager
def counted(counts: Counter[str], encoders: Sequence[nn.Module]) -> Iterator[None]:
    """Count calls of the encoders, and reads of tensors that no mailbox has brought."""
    delivered: set[int] = set()
    hooks = [e.register_forward_pre_hook(lambda *_: counts.update(["encoder"])) for e in encoders]
    arrived, plain = Mailbox.arrived, {name: getattr(Tensor, name) for name in READS}
    depth = [0]

    def delivering(self: Mailbox[Any], *, wait: bool = False) -> list[Any]:
        letters = arrived(self, wait=wait)
        delivered.update(id(tensor) for letter in letters for tensor in tensors_in(letter))
        return letters

    def reading(name: str) -> Callable[..., Any]:
        def read(self: Tensor, *rest: Any, **more: Any) -> Any:
            # What one read calls on its way is the same read.
            if id(self) not in delivered and not depth[0] and is_of_the_run(self):
                counts[name] += 1
            depth[0] += 1
            try:
                return plain[name](self, *rest, **more)
            finally:
                depth[0] -= 1

        return read

    Mailbox.arrived = delivering
    for name in READS:
        setattr(Tensor, name, reading(name))
    try:
        yield
    finally:
        Mailbox.arrived = arrived
        for name, method in plain.items():
            setattr(Tensor, name, method)
        for hook in hooks:
            hook.remove()


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in a dataclass, and in the mappings and tuples of its fields."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        yield from tensors_in(tuple(getattr(value, field.name) for field in fields(value)))
    elif isinstance(value, Mapping | tuple):
        inner = value.values() if isinstance(value, Mapping) else value
        yield from (tensor for one in inner for tensor in tensors_in(one))


def is_of_the_run(tensor: Tensor) -> bool:
    """Whether it would lie on the device: numbers that torch itself keeps on the CPU do not."""
    return tensor.is_floating_point() and tensor.dtype is not torch.float64
