"""Sixteen names cost no look into a folder and no file, neither attached nor in a prompt."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from factories import random_vectors
from harness.models.embeddings import clip_with_files, clip_with_names, write_loose

EVENTS = {"open", "os.scandir", "os.listdir", "os.walk"}
seen: list[str] | None = None


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    if seen is not None and event in EVENTS:
        seen.append(f"{event} {arguments[0]}")


sys.addaudithook(audit)


def accesses(action: Callable[[], Any]) -> list[str]:
    """The files and folders that Python opened in the meantime."""
    global seen
    seen = []
    try:
        action()
        return seen
    finally:
        seen = None


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_attaching_and_tokenizing_sixteen_names_reads_nothing(request, family, tmp_path):
    loaded = request.getfixturevalue(family)
    named = {f"name{n}": random_vectors(family, n) for n in range(16)}
    prompt = " and ".join(f"embedding:{name}" for name in named)
    for name, vectors in named.items():
        write_loose(tmp_path, name, vectors)
    host = clip_with_files(loaded.path, family, [str(tmp_path)])
    made = []
    assert accesses(lambda: made.append(clip_with_names(host, named))) == []
    assert accesses(lambda: made[0].tokenize(prompt)) == []
    # The host walks the folder for each name and encoder, so the count can be seen to count.
    assert len(accesses(lambda: host.tokenize(prompt))) >= 16 * len(named["name0"])
