"""What a contender's process measures of itself: seconds, peak memory, what backward keeps."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .setup import WARM_STEPS


class Stopped(BaseException):
    """Leaves a contender's loop; no Exception, so that nothing in it catches this."""


class Memory:
    """The most memory in use since `restart`, in bytes: of the GPU, or of this process."""

    def __init__(self, device: str):
        self._cuda = device == "cuda"

    def restart(self) -> int:
        """Forget the peak; what is in use now."""
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")

    def settled(self) -> int:
        """What is in use once garbage is returned to the system."""
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
    """Called by a contender when its models are there and after every step."""

    def __init__(self, device: str, wait: Any, tell: Any):
        self._device, self._wait, self._tell = device, wait, tell
        self._memory = Memory(device)
        self._resident: dict[int, Tensor] = {}
        self._encoders: list[nn.Module] = []
        self._counting = ExitStack()
        self._counts: dict[str, int] = {}
        self._step, self._base, self._started, self._worked = 0, 0, 0.0, 0.0

    def ready(self, models: Sequence[nn.Module], encoders: Sequence[nn.Module] = ()) -> None:
        """The resident models are loaded: all memory and time from here on is the trainer's."""
        for model in models:
            for one in (*model.parameters(), *model.buffers()):
                one.detach().flatten()[::4096].float().sum()
                self._resident[one.untyped_storage().data_ptr()] = one
        self._encoders = list(encoders)
        self._base = self._memory.settled()
        self._tell({"resident": self._base})
        self._next()

    def done(self) -> None:
        """A step is over: report it and wait for the word to go on."""
        if self._device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self._started
        worked = time.process_time() - self._worked
        self._counting.close()
        report = {"step": self._step, "seconds": seconds, "cpu_seconds": worked}
        report["peak"] = self._memory.peak() - self._base
        self._tell(report | self._counts)
        self._next()

    def _next(self) -> None:
        if not self._wait():
            raise Stopped
        self._step += 1
        self._counts = {}
        if self._step == WARM_STEPS:
            self._counting.enter_context(self._counted())
        self._memory.restart()
        self._started, self._worked = time.perf_counter(), time.process_time()

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
        """Bytes by storage of what autograd keeps, without the resident models' own."""
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
    """Every time the CPU has to wait for the GPU; what torch can see of it."""
    if device != "cuda":
        yield []
        return
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        yield found
        torch.cuda.set_sync_debug_mode("default")
