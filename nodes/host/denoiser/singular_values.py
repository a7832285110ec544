"""Singular values of frozen weights, kept in a file of the user's folder from run to run."""

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


def spectra_file() -> Path:
    """Where they are kept: a few hundred bytes a layer, found again by the weight's digest."""
    return Path(folder_paths.get_user_directory(), "pivotal", "singular_values.safetensors")


@contextmanager
def kept_spectra() -> Iterator[dict[str, Tensor]]:
    """What earlier runs computed, by the weight's digest; what is added is kept for later ones.

    A file that cannot be read is written anew, and one that cannot be written is a log line:
    the values can always be computed again.
    """
    path = spectra_file()
    try:
        kept = read_safetensors(path)[0] if path.exists() else {}
    except (ValueError, OSError) as error:
        LOG.warning("The singular values kept in %s are computed anew: %s", path, error)
        kept = {}
    before = len(kept)
    yield kept
    if len(kept) == before:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_safetensors(path, kept, {})
    except (OSError, SafetensorError) as error:
        LOG.warning("The singular values could not be kept in %s: %s", path, error)
