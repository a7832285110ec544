"""A mask says where the loss counts: nothing outside of it moves the result."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pack.training.config import TrainConfig
from pack.training.data import draw_batch
from pack.training.objective import sample_errors
from training.toys import CAPTIONS, losses, same, toy_data, toy_parts, trained

LEFT = torch.tensor([[1.0, 0.0], [1.0, 0.0]])


def masked(*masks: torch.Tensor | None):
    parts = toy_parts()
    parts.data = replace(parts.data, masks=list(masks))
    return parts


def test_a_masked_loss_is_the_mean_over_what_counts():
    output, target = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    weights, mask = torch.tensor([2.0, 0.5]), torch.rand(2, 4, 5)
    total = 0.0
    for i in range(2):
        top = sum(
            mask[i, y, x].item() * (output[i, c, y, x] - target[i, c, y, x]).item() ** 2
            for c in range(3)
            for y in range(4)
            for x in range(5)
        )
        total += weights[i].item() * top / (3 * mask[i].sum().item())
    loss = sample_errors(output, target, weights, mask).mean()
    assert loss.item() == pytest.approx(total / 2, rel=1e-5)


def test_a_mask_of_ones_changes_nothing():
    output, target = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    plain = sample_errors(output, target, torch.ones(2)).mean()
    whole = sample_errors(output, target, torch.ones(2), torch.full((2, 4, 5), 0.3)).mean()
    torch.testing.assert_close(whole, plain)


def test_a_mask_holds_for_every_frame():
    output, target = torch.randn(1, 3, 2, 4, 5), torch.randn(1, 3, 2, 4, 5)
    mask = torch.rand(1, 4, 5)
    one = torch.ones(1)
    frames = [sample_errors(output[:, :, i], target[:, :, i], one, mask).mean() for i in range(2)]
    whole = sample_errors(output, target, one, mask).mean()
    torch.testing.assert_close(whole, sum(frames) / 2)


def test_what_is_masked_out_does_not_reach_the_parameters():
    config = TrainConfig(steps=3, batch_size=2)
    results = []
    for noise in (0.0, 5.0):
        parts = masked(*[LEFT] * 4)
        # The toy denoiser looks at one place at a time, so the right half is on its own.
        parts.data = replace(
            parts.data, latents=[one + noise * (1 - LEFT) for one in parts.data.latents]
        )
        losses(parts, config)
        results.append(trained(parts))
    assert same(*results)
    plain = toy_parts()
    losses(plain, config)
    assert not same(results[0], trained(plain))


def test_a_batch_with_and_without_masks_counts_the_unmasked_whole():
    data = replace(toy_data(CAPTIONS, batch_size=4), masks=[LEFT, None, LEFT, None])
    batch, items = draw_batch(data, 0, 0, 0.0), data.batches.at(0)
    for item, mask in zip(items, batch.mask, strict=True):
        assert torch.equal(mask, LEFT if item % 2 == 0 else torch.ones(2, 2))
    assert draw_batch(toy_data(CAPTIONS), 0, 0, 0.0).mask is None


def test_each_time_one_view_and_one_text_of_a_picture_are_drawn():
    data = toy_data(["a", "b", "c", "d", "e"], batch_size=1)
    data = replace(data, views=[(0, 1), (2,), (3,), (4,), (4,)], texts=[(3, 4), *[(0,)] * 4])
    seen = set()
    for step in range(100):
        batch = draw_batch(data, 0, step, 0.0)
        if data.batches.at(step) == (0,):
            view = next(i for i in range(5) if torch.equal(batch.latents[0], data.latents[i]))
            assert batch.crops[0] == data.crops[view]
            seen.add((view, batch.captions[0]))
    assert seen == {(view, (text,)) for view in (0, 1) for text in ("d", "e")}


def test_views_leave_every_other_draw_alone():
    data = toy_data(CAPTIONS)
    plain = draw_batch(data, 3, 5, 0.5)
    views = [(i,) for i in range(4)]
    same_views = draw_batch(replace(data, views=views, texts=views), 3, 5, 0.5)
    assert torch.equal(plain.noise, same_views.noise)
    assert torch.equal(plain.latents, same_views.latents)
    assert plain.captions == same_views.captions
