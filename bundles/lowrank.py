"""Low-rank algebra: a change up @ down is decomposed, trimmed and merged but never formed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

PAIRS = (
    ("lora_up.weight", "lora_down.weight"),
    ("lora_B.weight", "lora_A.weight"),
    ("lora_B.default.weight", "lora_A.default.weight"),
    ("lora.up.weight", "lora.down.weight"),
    ("lora_linear_layer.up.weight", "lora_linear_layer.down.weight"),
    ("lora_B", "lora_A"),
)
"""Names of the two factors of a layer in files, after the layer's name and a dot"""
UNDERSCORED = ("_lora.up.weight", "_lora.down.weight")
"""The spelling of old diffusers files, which has no dot"""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LowRank:
    """A layer's change as two matrices that contain its scale: delta = up @ down."""

    up: Tensor
    """(out, rank) in fp64"""
    down: Tensor
    """(rank, in * kernel) in fp64"""
    shape: tuple[int, ...]
    """Of the whole change: (out, in) or (out, in / groups, *kernel)"""

    @property
    def rank(self) -> int:
        """Columns of `up`; the change itself can have fewer directions."""
        return self.up.shape[1]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Svd:
    """delta = u @ diag(values) @ vt with orthonormal u and vt, the largest value first."""

    u: Tensor
    """(out, count)"""
    values: Tensor
    """(count,)"""
    vt: Tensor
    """(count, in * kernel)"""
    shape: tuple[int, ...]

    def low_rank(self) -> LowRank:
        """The change that these values make; both factors get the root of each value."""
        root = self.values.sqrt()
        return LowRank(up=self.u * root, down=root[:, None] * self.vt, shape=self.shape)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoraFile:
    """The tensors of a LoRA: layers in two factors, and all others."""

    layers: Mapping[str, LowRank]
    """By the layer's name as the file spells it, in the order of the file"""
    others: Mapping[str, Tensor]
    """LoHa, LoKr, OFT, full deltas, norms and `dora_scale`, under their own keys"""


def split_lora(lora: Mapping[str, Tensor]) -> LoraFile:
    """Find the layers of a LoRA in any usual spelling; ValueError for factors that do not match."""
    check_alphas(lora)
    layers: dict[str, LowRank] = {}
    used: set[str] = set()
    for key in lora:
        names = _pair(key)
        if names is None or names[1] not in lora:
            continue
        stem, down = names
        alpha, mid = f"{stem}.alpha", f"{stem}.lora_mid.weight"
        layers[stem] = _read(stem, lora[key], lora[down], lora.get(alpha), lora.get(mid))
        used |= {key, down, alpha, mid}
    return LoraFile(layers=layers, others={k: t for k, t in lora.items() if k not in used})


def check_alphas(lora: Mapping[str, Tensor]) -> None:
    """Refuse an alpha that is not a single number, for which loaders have no useful message."""
    for key, tensor in lora.items():
        if key.endswith(".alpha") and tensor.numel() != 1:
            raise ValueError(
                f"{key} holds {tensor.numel()} numbers, but the alpha of a layer is one number: "
                "the file is damaged, copy it again."
            )


def join_lora(file: LoraFile) -> dict[str, Tensor]:
    """The tensors of a LoRA in fp32, as `lora_up`, `lora_down` and `alpha` = rank."""
    tensors: dict[str, Tensor] = {}
    for stem, layer in file.layers.items():
        kernel = [1] * (len(layer.shape) - 2)
        up, down = layer.up.float(), layer.down.float()
        tensors[f"{stem}.lora_up.weight"] = up.reshape(*up.shape, *kernel)
        tensors[f"{stem}.lora_down.weight"] = down.reshape(-1, *layer.shape[1:])
        tensors[f"{stem}.alpha"] = torch.tensor(float(layer.rank))
    return tensors | dict(file.others)


def _pair(key: str) -> tuple[str, str] | None:
    """(the layer's name, the key of `down`) for the key of an `up`, None for any other key."""
    for up, down in PAIRS:
        if key.endswith(f".{up}"):
            stem = key[: -len(up) - 1]
            return stem, f"{stem}.{down}"
    up, down = UNDERSCORED
    return (key[: -len(up)], key[: -len(up)] + down) if key.endswith(up) else None


def _read(stem: str, up: Tensor, down: Tensor, alpha: Tensor | None, mid: Tensor | None) -> LowRank:
    rank = down.shape[0]
    if up.shape[1] != (rank if mid is None else mid.shape[0]):
        raise ValueError(
            f"The factors of {stem} do not match: {tuple(up.shape)} and {tuple(down.shape)}. "
            "The file is damaged, copy it again."
        )
    scale = 1.0 if alpha is None else alpha.item() / rank
    inner = down.double()
    if mid is not None:
        # A Tucker core: delta[o, i, ...] = up[o, a] mid[a, b, ...] down[b, i].
        inner = torch.einsum("ab...,bi->ai...", mid.double(), inner.flatten(1))
    return LowRank(
        up=up.double().flatten(1) * scale,
        down=inner.flatten(1),
        shape=(up.shape[0], *inner.shape[1:]),
    )


def decompose(layer: LowRank) -> Svd:
    """The exact SVD of a change, from the QR of its factors and an SVD of a (rank, rank) core.

    With up = Q1 R1 and down' = Q2 R2, delta = Q1 (R1 R2') Q2', so the singular values of the
    core are those of the whole (Golub and Van Loan, Matrix Computations, 5.4).
    """
    q1, r1 = _qr(layer.up)
    q2, r2 = _qr(layer.down.T)
    u, values, vt = _svd(r1 @ r2.T)
    return Svd(u=q1 @ u, values=values, vt=vt @ q2.T, shape=layer.shape)


def _qr(matrix: Tensor) -> tuple[Tensor, Tensor]:
    q, r = cast("tuple[Tensor, Tensor]", torch.linalg.qr(matrix))  # pyright: ignore
    return q, r


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    factors = torch.linalg.svd(matrix, full_matrices=False)  # pyright: ignore
    return cast("tuple[Tensor, Tensor, Tensor]", factors)


def trim(svd: Svd, count: int) -> Svd:
    """The best change of rank `count` (Eckart and Young 1936), or all of it if that is less."""
    return replace(svd, u=svd.u[:, :count], values=svd.values[:count], vt=svd.vt[:count])


def scale_values(svd: Svd, factors: Mapping[int, float]) -> Svd:
    """Scale values by their position, where 0 is the largest."""
    values = svd.values.clone()
    for position, factor in factors.items():
        if position < len(values):
            values[position] *= factor
    # A negative factor reverses a direction; `low_rank` takes roots, so the sign moves to u.
    return replace(svd, u=svd.u * values.sign(), values=values.abs())


def count_for_share(values: Tensor, share: float) -> int:
    """How many leading values hold `share` (0 to 1) of the energy, the sum of squares."""
    energy = values.square().cumsum(0)
    if not len(values) or energy[-1] == 0:
        return 0
    if share >= 1:
        return int((values > values[0] * torch.finfo(values.dtype).eps * len(values)).sum())
    return int((energy < share * energy[-1]).sum()) + 1


def difference(before: LowRank, after: LowRank) -> float:
    """Relative Frobenius distance |after - before| / |before|, without forming either."""
    gap = merge([before, after], [-1.0, 1.0])
    whole = _size(decompose(before).values)
    return _size(decompose(gap).values) / whole if whole else 0.0


def _size(values: Tensor) -> float:
    """The Frobenius norm of a matrix with these singular values."""
    return values.square().sum().sqrt().item()


def merge(layers: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """The exact weighted sum of several changes to a layer, from factors joined side by side."""
    shapes = {layer.shape for layer in layers}
    if len(shapes) > 1:
        raise ValueError(
            f"Layers of different shapes cannot be merged ({', '.join(map(str, shapes))}): "
            "they are made for different models."
        )
    ups = [weight * layer.up for layer, weight in zip(layers, weights, strict=True)]
    return replace(
        layers[0],
        up=torch.cat(ups, dim=1),
        down=torch.cat([layer.down for layer in layers], dim=0),
    )


def compact(layer: LowRank) -> LowRank:
    """The same change in as few directions as it really has, for instance after a merge."""
    svd = decompose(layer)
    return trim(svd, count_for_share(svd.values, 1.0)).low_rank()
