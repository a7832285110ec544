"""Where the pack keeps what it found out about pictures: the user's folder, never beside them."""

from __future__ import annotations

from ...training.dataset.facts import Store
from .folders import user_folder


def file_facts() -> Store:
    """Facts about files: digests and measurements."""
    return Store(user_folder() / "facts.sqlite")
