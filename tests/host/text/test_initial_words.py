"""What a concept starts from: words, files of vectors, and names that the CLIP knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from factories import random_vectors
from harness.models.embeddings import clip_with_files, clip_with_names, write_loose
from pack.nodes.host.text.port import HostTextEncoder
from pack.training.words.concepts import Concept
from pack.training.words.vectors import initial_vectors


def started(clip: Any, initial: str, vectors: int) -> dict[str, torch.Tensor]:
    concept = Concept(placeholder="TOK", name="tok", initial=initial, vectors=vectors)
    with torch.inference_mode(False):
        return dict(initial_vectors([concept], HostTextEncoder(clip), 0)["tok"])


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("source", ["file", "name"])
def test_a_concept_starts_from_the_vectors_of_an_embedding(
    request: Any, tmp_path: Path, family: str, source: str
):
    loaded, mine = request.getfixturevalue(family), random_vectors(family, 3, 2)
    if source == "file":
        write_loose(tmp_path, "mine", mine)
        clip = clip_with_files(loaded.path, family, [str(tmp_path)])
    else:
        clip = clip_with_names(loaded.clip, {"mine": mine})
    for key, rows in started(clip, "embedding:mine", 2).items():
        assert torch.equal(rows, mine[key].float()), key
    # As with words: the last ones if there are too many, repeated in turn if too few.
    for key, rows in started(clip, "embedding:mine", 1).items():
        assert torch.equal(rows, mine[key][-1:].float()), key
    for key, rows in started(clip, "embedding:mine", 3).items():
        assert torch.equal(rows, mine[key].float()[[0, 1, 0]]), key


def test_words_stand_beside_an_embedding(sd15: Any):
    mine = random_vectors("sd15", 3, 1)
    clip = clip_with_names(sd15.clip, {"mine": mine})
    (word,) = started(sd15.clip, "red", 1).values()
    (rows,) = started(clip, "red embedding:mine", 2).values()
    assert torch.equal(rows, torch.cat([word, mine["clip_l"].float()]))


def test_an_embedding_that_is_not_there_is_refused(sd15: Any, tmp_path: Path):
    clip = clip_with_files(sd15.path, "sd15", [str(tmp_path)])
    with pytest.raises(ValueError, match="embedding:gone"):
        started(clip, "embedding:gone", 2)
