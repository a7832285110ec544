"""Processes that train one run together: who takes which samples, and what they must agree on."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Peers(Protocol):
    """The processes of a run, which all call the same methods in the same order.

    Whatever can differ between them (free memory, a person's command, a verdict) goes through
    `any` or `same` before one acts on it; else one of them would wait in a sum forever.
    """

    rank: int
    """0 for the process that writes, reports and is asked."""
    count: int

    def share(self, samples: int) -> range:
        """This process's samples of a step, as evenly as they can be divided; may be empty."""
        ...

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Put the sum over all processes in the place of each tensor."""
        ...

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag, whether it is set in any process."""
        ...

    def same(self, value: T) -> T:
        """The value of rank 0, in every process."""
        ...


class Alone:
    """A run in one process, which is the usual case."""

    rank, count = 0, 1

    def share(self, samples: int) -> range:
        return range(samples)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        pass

    def any(self, flags: Sequence[bool]) -> list[bool]:
        return list(flags)

    def same(self, value: T) -> T:
        return value


class Group:
    """The default process group of torch.distributed.

    Flags and values travel as objects on the CPU, so that no process waits for its device.
    """

    def __init__(self) -> None:
        self.rank, self.count = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def share(self, samples: int) -> range:
        return range(samples * self.rank // self.count, samples * (self.rank + 1) // self.count)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """In one flat tensor for each dtype and device: a collective costs more than its bytes."""
        kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        for members in kinds.values():
            flat = torch.cat([tensor.flatten() for tensor in members])
            torch.distributed.all_reduce(flat)  # pyright: ignore
            start = 0
            for tensor in members:
                tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
                start += tensor.numel()

    def any(self, flags: Sequence[bool]) -> list[bool]:
        rows: list[list[bool]] = [[]] * self.count
        torch.distributed.all_gather_object(rows, list(flags))  # pyright: ignore
        return [any(column) for column in zip(*rows, strict=True)]

    def same(self, value: T) -> T:
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)  # pyright: ignore
        return box[0]


def peers_here() -> Peers:
    """The process group that a launcher has set up, if any."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return Group() if ready else Alone()


class PeerStopped(Exception):
    """Another process of the run has failed or was cancelled."""


@contextmanager
def together(peers: Peers) -> Generator[None, None, None]:
    """What raises in one process stops all of them, at the end of this context.

    Cancel, an error or a verdict happens to one process, and the others would wait for it in
    their next sum forever. Nothing within the context may wait for another process itself.
    """
    stopped = True
    try:
        yield
        stopped = False
    finally:
        # With an exception on its way this lets the others know of it.
        (anywhere,) = peers.any([stopped])
    if anywhere:
        raise PeerStopped("Another process of this run has stopped: its log says why.")


@contextmanager
def in_turn(peers: Peers) -> Generator[None, None, None]:
    """Rank 0 goes through this context first, so that the others find what it leaves in caches."""
    if peers.rank > 0:
        with together(peers):
            pass
    with together(peers):
        yield
    if peers.rank == 0:
        with together(peers):
            pass


def sum_gradients(
    peers: Peers, parameters: Sequence[nn.Parameter], others: Sequence[Tensor] = ()
) -> None:
    """Sum gradients, and other tensors in the same go; one that no process has stays absent.

    An update leaves out what has no gradient, so presence has to be the same everywhere: a
    gradient that another process has is zero here.
    """
    if peers.count == 1:
        return
    present = peers.any([parameter.grad is not None for parameter in parameters])
    gradients: list[Tensor] = []
    for parameter, there in zip(parameters, present, strict=True):
        if there:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    peers.sum([*gradients, *others])
