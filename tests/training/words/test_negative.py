"""Negative embeddings: trained on the prediction under guidance, beside the concept's own."""

from __future__ import annotations

import pytest
import torch
from training.toys import losses, toy_parts, trained

from pack.training.config import TrainConfig
from pack.training.dataset.records import Dataset
from pack.training.loop import train
from pack.training.objective import ObjectiveConfig
from pack.training.ports import Mention
from pack.training.words.concepts import (
    Concept,
    check_concepts,
    negative_captions,
    parse_dataset,
    with_negatives,
)

CONCEPT = Concept(placeholder="TOK", name="tok", initial="dog", pivot=1.0, negative_vectors=1)
PLAIN = Concept(placeholder="TIK", initial="cat", pivot=1.0)


def config(**settings: object) -> TrainConfig:
    objective = ObjectiveConfig(min_snr_gamma=0, negative_guidance=settings.pop("guidance", 4.0))
    return TrainConfig(steps=settings.pop("steps", 3), objective=objective, **settings)


def test_a_concept_brings_its_negative_under_a_name_of_its_own():
    names = [(c.final_name, c.vectors) for c in with_negatives([CONCEPT, PLAIN])]
    assert names == [("tok", 2), ("tok-neg", 1), ("TIK", 2)]


def test_the_loss_is_that_of_the_combined_prediction():
    parts = toy_parts(CONCEPT, captions=("a TOK",), batch_size=1)
    (loss,) = losses(parts, config(steps=1))
    toward, away = parts.denoiser.predictions
    combined = away.output + 4.0 * (toward.output - away.output)
    wanted = (combined - toward.noised.target).square().mean().item()
    assert loss == pytest.approx(wanted, rel=1e-6)
    assert toward.noised is away.noised
    assert parts.text.encoded[-1] == (Mention("tok-neg"),)


def test_both_embeddings_train_and_pull_apart():
    """They start from the same words, where the combined prediction is the plain one."""
    concept = Concept(placeholder="TOK", initial="dog", vectors=1, pivot=1.0, negative_vectors=1)
    parts = toy_parts(concept, captions=("TOK",), lora=None, batch_size=1)
    start = trained(parts)
    assert torch.equal(start["TOK.clip_l"], start["TOK-neg.clip_l"])
    next(iter(train(parts, config(norm_pull=0.0))))
    moved = {name: value - start[name] for name, value in trained(parts).items()}
    assert (moved["TOK.clip_l"] * moved["TOK-neg.clip_l"]).sum() < 0


def test_only_samples_with_a_negative_are_guided():
    parts = toy_parts(CONCEPT, PLAIN, captions=("a TOK", "a TIK"), batch_size=2)
    losses(parts, config(steps=1))
    (toward, away) = parts.denoiser.predictions
    for one, other, caption in zip(
        toward.conditions, away.conditions, away_captions(parts), strict=True
    ):
        assert torch.equal(one, other) == (Mention("TIK") in caption)


def away_captions(parts) -> list:
    from pack.training.data import draw_batch

    return list(draw_batch(parts.data, 0, 0, 0.0).captions)


def test_after_the_pivot_steps_are_plain_and_cost_one_prediction():
    concept = Concept(placeholder="TOK", initial="dog", pivot=0.5, negative_vectors=1)
    parts = toy_parts(concept, captions=("a TOK",), batch_size=1)
    calls = []
    for report in train(parts, config(steps=4)):
        calls.append(len(parts.denoiser.predictions))
        if report.step == 1:
            frozen = trained(parts)
    assert calls == [2, 4, 5, 6]
    assert torch.equal(trained(parts)["TOK-neg.clip_l"], frozen["TOK-neg.clip_l"])


def test_several_negatives_stand_side_by_side():
    captions = [(Mention("b"), " and ", Mention("a")), (Mention("c"),), ("a hill",)]
    found = negative_captions(captions, {"a-neg", "b-neg"})
    assert found[0] == (Mention("a-neg"), " ", Mention("b-neg"))
    assert found[1:] == tuple(captions[1:])
    assert negative_captions(captions, {"a", "b"}) == ()


def test_a_name_that_a_negative_takes_is_refused():
    other = Concept(placeholder="tok-neg")
    with pytest.raises(ValueError, match='name "tok-neg": rename one'):
        check_concepts((CONCEPT, other), parse_dataset(Dataset(name="d", records=()), (), 0))
