"""Prior preservation: class pictures as they are, or the unadapted model's own word."""

from __future__ import annotations

import pytest
import torch

from pack.training.config import TrainConfig
from pack.training.loop import train
from pack.training.objective import ObjectiveConfig, Prior
from pack.training.parts import Parts
from pack.training.words.concepts import Concept, check_class_words
from training.reference import condition_by_hand, guess_by_hand
from training.toys import (
    CAPTIONS,
    Prediction,
    losses,
    same,
    toy_data,
    toy_parts,
    trained,
    vectors_of,
)

TOK = Concept(placeholder="TOK", initial="small dog", class_word="dog", pivot=1.0)
CLASS_CAPTIONS = {text: (text.replace("TOK", "dog"),) for text in CAPTIONS}


def config(prior: Prior, *, steps: int = 3, weight: float = 1.0) -> TrainConfig:
    return TrainConfig(steps=steps, objective=ObjectiveConfig(prior=prior, prior_weight=weight))


def predictions(parts: Parts, prior: Prior, steps: int = 3) -> list[Prediction]:
    losses(parts, config(prior, steps=steps))
    return parts.denoiser.predictions


def loss_of(call: Prediction, target: torch.Tensor) -> float:
    sigma = call.noised.sigma
    weights = torch.minimum(sigma**-2, torch.tensor(5.0)) * sigma**2
    return (weights * (call.output - target).square().mean(dim=(1, 2, 3))).mean().item()


def test_the_base_models_target_is_the_unadapted_prediction_without_a_gradient():
    parts = toy_parts(TOK)
    calls = predictions(parts, Prior.BASE)
    assert [call.adapted for call in calls] == [True, False, True] * 3
    for call in calls[1::3]:
        assert not call.with_gradient and not call.output.requires_grad
        for x, cond, output in zip(call.noised.noisy, call.conditions, call.output, strict=True):
            caption = next(
                words
                for words in CLASS_CAPTIONS.values()
                if torch.allclose(condition_by_hand(parts, {}, words), cond[0])
            )
            torch.testing.assert_close(output, guess_by_hand(parts, {}, x, caption))
    assert all(call.output.requires_grad for call in calls[2::3])


def test_the_base_prior_sees_the_class_word_under_the_same_noise():
    parts = toy_parts(TOK, captions=("a TOK",))
    learned, base, adapted = predictions(parts, Prior.BASE, steps=1)
    assert base.noised is adapted.noised is learned.noised
    expected = condition_by_hand(parts, {}, ("a dog",))
    for cond in (*base.conditions, *adapted.conditions):
        torch.testing.assert_close(cond[0], expected)


def test_before_the_first_update_the_base_prior_costs_nothing_and_later_it_does():
    calls = predictions(parts := toy_parts(TOK), Prior.BASE, steps=6)
    gaps = [loss_of(calls[i + 2], calls[i + 1].output) for i in range(0, len(calls), 3)]
    assert gaps[0] == 0.0 and all(gap > 0 for gap in gaps[1:])
    alone, both = toy_parts(TOK), toy_parts(TOK)
    assert losses(alone, config(Prior.NONE, steps=1)) == losses(both, config(Prior.BASE, steps=1))
    assert same(trained(alone), trained(both))
    assert not any(rows.grad is not None for rows in vectors_of(parts)["TOK"].values())


def test_the_loss_is_that_of_the_pictures_plus_the_weighted_prior():
    for prior, target in ((Prior.BASE, None), (Prior.PICTURES, "noise")):
        parts = toy_parts(TOK, prior=toy_data(("a dog", "dog"), key="class") if target else None)
        reports = list(train(parts, config(prior, steps=4, weight=0.25)))
        calls, size = parts.denoiser.predictions, 2 if target else 3
        for i, report in enumerate(reports):
            step = calls[i * size : (i + 1) * size]
            wanted = step[1].noised.target if target else step[1].output
            total = loss_of(step[0], step[0].noised.target) + 0.25 * loss_of(step[-1], wanted)
            assert report.loss.item() == pytest.approx(total, rel=1e-5)


def test_a_prior_of_weight_0_changes_nothing():
    alone, both = toy_parts(TOK), toy_parts(TOK)
    without = losses(alone, config(Prior.NONE))
    assert losses(both, config(Prior.BASE, weight=0.0)) == without
    assert same(trained(alone), trained(both))


def test_class_pictures_come_with_their_own_captions_batches_and_noise():
    words = ("a dog", "two dogs", "the dog in rain")
    data = toy_data(words, batch_size=3, key="class")
    calls = predictions(parts := toy_parts(TOK, prior=data, batch_size=2), Prior.PICTURES)
    assert [len(call.conditions) for call in calls] == [2, 3] * 3
    for ours, prior in zip(calls[::2], calls[1::2], strict=True):
        sigma = prior.noised.sigma[:, None, None, None]
        latents = prior.noised.noisy - sigma * prior.noised.target
        seen = set()
        for latent, cond in zip(latents, prior.conditions, strict=True):
            (item,) = [i for i in range(3) if torch.allclose(latent, data.latents[i], atol=1e-5)]
            torch.testing.assert_close(cond[0], condition_by_hand(parts, {}, (words[item],)))
            assert prior.crops[len(seen)] == data.crops[item]
            seen.add(item)
        assert seen == {0, 1, 2}
        assert not torch.equal(ours.noised.target, prior.noised.target[:2])


def test_the_base_models_own_word_is_asked_of_class_pictures_where_there_are_some():
    data = toy_data(("a dog", "two dogs"), batch_size=2, key="class")
    parts = toy_parts(TOK, prior=data)
    calls = predictions(parts, Prior.BASE, steps=6)
    assert [call.adapted for call in calls] == [True, False, True] * 6
    for learned, base, adapted in zip(calls[::3], calls[1::3], calls[2::3], strict=True):
        assert base.noised is adapted.noised is not learned.noised
        sigma = base.noised.sigma[:, None, None, None]
        for latent in base.noised.noisy - sigma * base.noised.target:
            assert any(torch.allclose(latent, one, atol=1e-5) for one in data.latents)
    gaps = [loss_of(calls[i + 2], calls[i + 1].output) for i in range(0, len(calls), 3)]
    assert gaps[0] == 0.0 and all(gap > 0 for gap in gaps[1:])


def test_class_pictures_keep_their_captions_when_captions_are_dropped():
    data = toy_data(("a dog",), batch_size=1, key="class")
    parts = toy_parts(TOK, prior=data)
    objective = ObjectiveConfig(prior=Prior.PICTURES, caption_dropout=1.0)
    losses(parts, TrainConfig(steps=2, objective=objective))
    expected = condition_by_hand(parts, {}, ("a dog",))
    for call in parts.denoiser.predictions[1::2]:
        torch.testing.assert_close(call.conditions[0][0], expected)


def test_class_words_are_asked_for_by_the_concepts_name():
    check_class_words([TOK, Concept(placeholder="TIK", initial="cat")])
    with pytest.raises(ValueError, match='Concept "TUK" has neither class_word nor initial'):
        check_class_words([TOK, Concept(placeholder="TUK")])
