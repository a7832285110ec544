"""The order in which a run sees its pictures."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch

from ..randomness import generator


class Batches:
    """An endless sequence of batches of item indices, a pure function of seed and position.

    Every epoch shows each item `repeats` times. A batch has items of one bucket, since only latents
    of the same size can be stacked; the last batch of a bucket may be smaller.
    """

    def __init__(
        self, buckets: Sequence[Hashable], repeats: Sequence[int], batch_size: int, seed: int
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: use at least 1.")
        if not buckets or len(buckets) != len(repeats) or min(repeats) < 1:
            raise ValueError(
                f"{len(buckets)} buckets and {len(repeats)} repeats: give one bucket and "
                "one repeat count of at least 1 for each image."
            )
        self.repeats, self.batch_size, self.seed = tuple(repeats), batch_size, seed
        self.groups: dict[Hashable, list[int]] = {}
        for item, bucket in enumerate(buckets):
            self.groups.setdefault(bucket, []).append(item)
        counts = (sum(self.repeats[item] for item in group) for group in self.groups.values())
        self.per_epoch = sum(-(-count // batch_size) for count in counts)
        """Number of batches in every epoch."""
        self._epoch = (-1, list[tuple[int, ...]]())

    def at(self, index: int) -> tuple[int, ...]:
        """The item indices of batch `index`, counted from 0 over all epochs."""
        if index < 0:
            raise IndexError(f"Batch {index} does not exist: the first is batch 0.")
        epoch, place = divmod(index, self.per_epoch)
        if self._epoch[0] != epoch:  # cached, since a run goes through an epoch in order
            self._epoch = (epoch, self._shuffled(epoch))
        return self._epoch[1][place]

    def _shuffled(self, epoch: int) -> list[tuple[int, ...]]:
        rng = generator(self.seed, "order", epoch)
        batches: list[tuple[int, ...]] = []
        for group in self.groups.values():
            copies = self._passes(group, rng)
            starts = range(0, len(copies), self.batch_size)
            batches += [tuple(copies[start : start + self.batch_size]) for start in starts]
        return [batches[i] for i in _permutation(len(batches), rng)]

    def _passes(self, group: list[int], rng: torch.Generator) -> list[int]:
        """Repeats in passes over the bucket, so that a batch rarely has the same picture twice."""
        copies: list[int] = []
        for turn in range(max(self.repeats[item] for item in group)):
            present = [item for item in group if self.repeats[item] > turn]
            copies += [present[i] for i in _permutation(len(present), rng)]
        return copies


def _permutation(count: int, rng: torch.Generator) -> list[int]:
    return torch.randperm(count, generator=rng).tolist()  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
