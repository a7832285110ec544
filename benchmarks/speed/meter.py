"""What a contender's process measures about itself: time, peak memory, what autograd keeps."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .setup import WARM_STEPS


class Stopped(BaseException):
    """Ends a contender's loop; not an Exception, so that no handler in the loop catches it."""


class Memory:
    """The peak memory since `restart`, in bytes, of the GPU or of this process."""

    def __init__(self, device: str):
        self._cuda = device == "cuda"

    def restart(self) -> int:
        """Reset the peak to what is in use now, and return that."""
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")

    def settled(self) -> int:
        """Return garbage to the system, then restart."""
        gc.collect()
        if not self._cuda and sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
        return self.restart()

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self._cuda else _status("VmHWM")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}.")


class Meter:
    """Called by a contender once its models are loaded, and after every step."""

    def __init__(
        self, device: str, wait: Callable[[], bool], send: Callable[[dict[str, Any]], None]
    ):
        self._device, self._wait, self._send = device, wait, send
        self._memory = Memory(device)
        self._resident: dict[int, Tensor] = {}
        self._encoders: list[nn.Module] = []
        self._counting = ExitStack()
        self._counts: dict[str, int] = {}
        self._step, self._base, self._started, self._cpu_started = 0, 0, 0.0, 0.0

    def ready(self, models: Sequence[nn.Module], encoders: Sequence[nn.Module] = ()) -> None:
        """The models are loaded: all memory and time from here on belongs to the trainer."""
        for model in models:
            for tensor in (*model.parameters(), *model.buffers()):
                # Touches every page of a file that is mapped into memory.
                tensor.detach().flatten()[::4096].float().sum()
                self._resident[tensor.untyped_storage().data_ptr()] = tensor
        self._encoders = list(encoders)
        self._base = self._memory.settled()
        self._send({"resident": self._base})
        self._next()

    def done(self) -> None:
        """A step is done: report it, then wait for the next one."""
        if self._device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self._started
        # User and system time of all threads.
        cpu_seconds = time.process_time() - self._cpu_started
        self._counting.close()
        report = {"step": self._step, "seconds": seconds, "cpu_seconds": cpu_seconds}
        report["peak"] = self._memory.peak() - self._base
        self._send(report | self._counts)
        self._next()

    def _next(self) -> None:
        if not self._wait():
            raise Stopped
        self._step += 1
        self._counts = {}
        if self._step == WARM_STEPS:
            self._counting.enter_context(self._counted())
        self._memory.restart()
        self._started, self._cpu_started = time.perf_counter(), time.process_time()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with ExitStack() as stack:
            kept = stack.enter_context(self._kept())
            calls = stack.enter_context(_calls(self._encoders))
            syncs = stack.enter_context(_syncs(self._device))
            yield
            self._counts = {"saved": sum(kept.values()), "calls": len(calls), "syncs": len(syncs)}

    @contextmanager
    def _kept(self) -> Iterator[dict[int, int]]:
        """Bytes of each storage that autograd keeps, except those of the resident models."""
        kept: dict[int, int] = {}
        alive: list[Tensor] = []

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._resident and not isinstance(tensor, nn.Parameter):
                kept[storage.data_ptr()] = storage.nbytes()
                alive.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield kept
        alive.clear()


@contextmanager
def _calls(modules: Sequence[nn.Module]) -> Iterator[list[int]]:
    calls: list[int] = []
    hooks = [m.register_forward_pre_hook(lambda *_: calls.append(1)) for m in modules]
    yield calls
    for hook in hooks:
        hook.remove()


@contextmanager
def _syncs(device: str) -> Iterator[list[Any]]:
    """Each time the CPU has to wait for the GPU, as far as torch can see."""
    if device != "cuda":
        yield []
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        yield caught
        torch.cuda.set_sync_debug_mode("default")
