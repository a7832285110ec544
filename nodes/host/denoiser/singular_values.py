"""Singular values of frozen weights, cached in the user's folder from run to run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import folder_paths
from safetensors import SafetensorError
from torch import Tensor

from ....bundles.files.safetensors import read_safetensors, replace_safetensors

LOG = logging.getLogger(__name__)


def cache_file() -> Path:
    """The cache: a few hundred bytes per layer, under the digest of the layer's weight."""
    return Path(folder_paths.get_user_directory(), "pivotal", "singular_values.safetensors")


@contextmanager
def cached_singular_values() -> Iterator[dict[str, Tensor]]:
    """Values that earlier runs computed, by the weight's digest; values added here are saved.

    A file that cannot be read is replaced, and one that cannot be written is logged: the values
    can always be computed again.
    """
    path = cache_file()
    try:
        stored = read_safetensors(path)[0] if path.exists() else {}
    except (ValueError, OSError) as error:
        LOG.warning("The singular values in %s are unreadable and computed again: %s", path, error)
        stored = {}
    values = {key: tensor for key, tensor in stored.items() if tensor.isfinite().all()}
    if len(values) < len(stored):
        lost = len(stored) - len(values)
        LOG.warning("%d entries of %s are not finite and are computed again.", lost, path)
    before = dict(stored)
    yield values
    if len(values) == len(before) and all(before.get(k) is v for k, v in values.items()):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_safetensors(path, values, {})
    except (OSError, SafetensorError) as error:
        LOG.warning("The singular values could not be saved in %s: %s", path, error)
