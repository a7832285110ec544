"""A host that is up in this process, and children of it that train, for deaths that cost little.

Starting a host takes longer than a small run; a fork of one that is up starts at once. Nothing
is computed here, only in children: threads that torch has started do not live on in a fork.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
LATER = ("diffusers.optimization", "diffusers.training_utils", "prodigyopt")
"""What a run imports when it gets there, which each child would do anew"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended."""

    signal: int
    code: int
    seconds: float
    answer: Any
    """What its work returned, None when it did not come to an end"""
    log: Path

    @property
    def killed(self) -> bool:
        return self.signal == signal.SIGKILL

    def whole(self) -> Any:
        """The answer of a child that came to its end; AssertionError with its log otherwise."""
        tail = self.log.read_text(errors="replace")[-2000:]
        assert not self.signal and not self.code, f"a run ended with {self.code}: {tail}"
        return self.answer


class WarmHost:
    """The host with the tiny SD1.5 checkpoint, in a process of one thread."""

    def __init__(self) -> None:
        import conftest  # noqa: F401  - prepares the host and loads the pack
        import torch

        torch.set_num_threads(1)
        for name in LATER:
            importlib.import_module(name)
        from harness.host.checkpoints import cached_checkpoint
        from harness.host.runner import Loaded, start_host
        from world import checkpoints

        path = cached_checkpoint("sd15_short", checkpoints.build_sd15_short)
        self.host = start_host(ROOT)
        with torch.inference_mode():
            model, clip, vae = checkpoints.load_short(path)
            clip.cond_stage_model.clip_l.transformer.text_projection.weight.zero_()
        self.host.loaded["sd15"] = Loaded(model=model, clip=clip, vae=vae, path=path)

    def close(self) -> None:
        """Take the host's temporary folder away."""
        import conftest

        conftest.pytest_unconfigure()

    def child(
        self, folder: Path, work: Callable[[], Any], kill_after: float | None = None
    ) -> Ended:
        """Do `work` in a child that keeps its files in `folder`; kill it after some seconds."""
        child = Child(folder, work)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child.number, signal.SIGKILL)
        return child.ended()

    def children(self, folder: Path, works: Sequence[Callable[[], Any]]) -> list[Ended]:
        """Do several works at the same time, each in a child; all share `folder`."""
        children = [Child(folder, work, str(place)) for place, work in enumerate(works)]
        return [child.ended() for child in children]


class Child:
    """A process that does some work with its files in a folder."""

    def __init__(self, folder: Path, work: Callable[[], Any], name: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._answer, self._log = folder / f"answer{name}.json", folder / f"log{name}.txt"
        self._answer.unlink(missing_ok=True)
        sys.stdout.flush()
        self._began, self.number = time.monotonic(), os.fork()
        if self.number == 0:
            _live(folder, work, self._answer, self._log)

    def ended(self) -> Ended:
        """How it ended; waits for that."""
        _, status = os.waitpid(self.number, 0)
        code = max(os.waitstatus_to_exitcode(status), 0)
        answer = json.loads(self._answer.read_text()) if self._answer.exists() else None
        seconds = time.monotonic() - self._began
        return Ended(signal_of(status), code, seconds, answer, self._log)


def signal_of(status: int) -> int:
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _live(folder: Path, work: Callable[[], Any], answer: Path, log: Path) -> None:
    """The life of a child, which never returns."""
    code = 1
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        import folder_paths

        folder_paths.set_output_directory(str(folder / "output"))
        folder_paths.set_user_directory(str(folder / "user"))
        found = work()
        answer.write_text(json.dumps(found), encoding="utf-8")
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it is, the parent shows the log
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
