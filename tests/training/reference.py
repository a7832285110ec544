"""The loss of the toys written out by hand, to compare with what the engine makes of its parts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pack.training.data import Batch
from pack.training.parts import Parts
from pack.training.ports import Caption, Mention
from training.toys import FEED, LORA, QUERY, VALUE


def loss_by_hand(
    parts: Parts, values: Mapping[str, Tensor], batch: Batch, gamma: float = 5.0
) -> Tensor:
    """The min-SNR loss of a batch with `values` as vectors and factors, sample by sample."""
    each = []
    samples = zip(batch.latents, batch.noise, batch.positions, batch.captions, strict=True)
    for latent, noise, position, caption in samples:
        sigma = 0.1 * 100 ** position.item()
        error = guess_by_hand(parts, values, latent + sigma * noise, caption) - noise
        each.append(min(sigma**-2, gamma) * sigma**2 * (error**2).mean())
    return torch.stack(each).mean()


def guess_by_hand(
    parts: Parts, values: Mapping[str, Tensor], noisy: Tensor, caption: Caption
) -> Tensor:
    """What the toy denoiser says of one picture, from full weights with their deltas added."""
    query, value, feed = (weight_by_hand(parts, values, n) for n in (QUERY, VALUE, FEED))
    conditioning = condition_by_hand(parts, values, caption)
    hidden = torch.einsum("oc,chw->ohw", query, noisy) + (value @ conditioning)[:, None, None]
    return torch.einsum("oc,chw->ohw", feed, hidden.tanh())


def weight_by_hand(parts: Parts, values: Mapping[str, Tensor], name: str) -> Tensor:
    weight = parts.denoiser.weights[name]
    if f"{name}.up" not in values:
        return weight
    return weight + LORA.alpha / LORA.rank * values[f"{name}.up"] @ values[f"{name}.down"]


def condition_by_hand(parts: Parts, values: Mapping[str, Tensor], caption: Caption) -> Tensor:
    means = []
    for key, table in parts.text.tables.items():
        rows = [torch.zeros(table.shape[1])]
        for part in caption:
            if isinstance(part, Mention):
                rows += values[f"{part.concept}.{key}"]
            else:
                rows += parts.text.rows(part)[key]
        means.append(sum(rows) / len(rows))
    return torch.tanh(torch.cat(means))
