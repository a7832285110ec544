"""Low-rank algebra: a change up @ down is decomposed, trimmed and merged but never formed."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from .bundle import short
from .layers.whole_files import host_names

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
_AT_ONCE = 8192
"""Numbers that are computed in fp64 at a time"""


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
class Factors:
    """A layer's tensors as a file holds them, which share its memory."""

    up: Tensor
    down: Tensor
    alpha: Tensor | None
    mid: Tensor | None

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha.item() / self.down.shape[0]

    def low_rank(self) -> LowRank:
        """The change in fp64."""
        inner = self.down.double()
        if self.mid is not None:
            # A Tucker core: delta[o, i, ...] = up[o, a] mid[a, b, ...] down[b, i].
            inner = torch.einsum("ab...,bi->ai...", self.mid.double(), inner.flatten(1))
        return LowRank(
            up=self.up.double().flatten(1) * self.scale,
            down=inner.flatten(1),
            shape=(self.up.shape[0], *inner.shape[1:]),
        )


class Layers(Mapping[str, LowRank]):
    """Layers that are formed whenever they are asked for, so that fp64 holds one at a time."""

    def __init__(self, factors: Mapping[str, Factors]) -> None:
        self._factors = factors

    def __getitem__(self, stem: str) -> LowRank:
        return self._factors[stem].low_rank()

    def __contains__(self, stem: object) -> bool:
        return stem in self._factors

    def __iter__(self) -> Iterator[str]:
        return iter(self._factors)

    def __len__(self) -> int:
        return len(self._factors)

    def factors(self, stem: str) -> Factors:
        """The tensors of a layer as the file holds them."""
        return self._factors[stem]

    def renamed(self, names: Mapping[str, str]) -> Layers:
        """The same layers under other names, which are given by the old ones."""
        return Layers({names[stem]: factors for stem, factors in self._factors.items()})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoraFile:
    """The tensors of a LoRA: layers in two factors, and all others."""

    layers: Layers
    """By the layer's name as the file spells it, in the order of the file"""
    others: Mapping[str, Tensor]
    """LoHa, LoKr, OFT, full deltas, norms and `dora_scale`, under their own keys"""
    empty: Sequence[str] = ()
    """Layers of rank 0, which change nothing"""


def split_lora(lora: Mapping[str, Tensor]) -> LoraFile:
    """Find the layers of a LoRA in any usual spelling.

    ValueError for factors that do not match and for NaN.
    """
    check_alphas(lora)
    lora = host_names(lora)
    layers: dict[str, Factors] = {}
    empty: list[str] = []
    used: set[str] = set()
    for key in lora:
        names = _pair(key)
        if names is None or names[1] not in lora:
            continue
        stem, down = names
        parts = (key, down, f"{stem}.alpha", f"{stem}.lora_mid.weight")
        check_numbers({part: lora[part] for part in parts if part in lora})
        factors = Factors(
            up=lora[key], down=lora[down], alpha=lora.get(parts[2]), mid=lora.get(parts[3])
        )
        _check_factors(stem, factors)
        if factors.down.shape[0]:
            layers[stem] = factors
        else:
            empty.append(stem)
        used |= {*parts}
    others = {key: tensor for key, tensor in lora.items() if key not in used}
    return LoraFile(layers=Layers(layers), others=others, empty=empty)


def check_alphas(lora: Mapping[str, Tensor]) -> None:
    """Refuse an alpha that is not a single number, for which loaders have no useful message."""
    for key, tensor in lora.items():
        if key.endswith(".alpha") and tensor.numel() != 1:
            raise ValueError(
                f"{short(key)} holds {tensor.numel()} numbers, but the alpha of a layer is one "
                "number: the file is damaged, copy it again."
            )


def check_numbers(lora: Mapping[str, Tensor]) -> None:
    """Refuse NaN, which would turn every image black."""
    for key, tensor in lora.items():
        if not_finite(tensor):
            raise ValueError(
                f"{short(key)} holds NaN or infinite values, which would turn every image black: "
                "use an earlier save of the training, or train again with a lower learning rate."
            )


def not_finite(tensor: Tensor) -> int:
    """How many numbers are NaN or infinite."""
    # Types of one byte have no such operation; a tensor without content (`meta`) has no numbers.
    if not tensor.is_floating_point() or tensor.is_meta:
        return 0
    wide = tensor.float() if tensor.element_size() == 1 else tensor
    return int((~wide.isfinite()).sum().item())


def layer_tensors(stem: str, layer: LowRank) -> dict[str, Tensor]:
    """A layer in fp32, as `lora_up`, `lora_down` and `alpha` = rank."""
    kernel = [1] * (len(layer.shape) - 2)
    up, down = layer.up.float(), layer.down.float()
    return {
        f"{stem}.lora_up.weight": up.reshape(*up.shape, *kernel),
        f"{stem}.lora_down.weight": down.reshape(-1, *layer.shape[1:]),
        f"{stem}.alpha": torch.tensor(float(layer.rank)),
    }


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A tensor in pages of its own, which is made a tensor again at the end.

    Tensors that stay from each layer, however small, lie among those that come and go, and leave
    holes that the next layer does not fit into: in the end as much memory as all results.
    """

    pages: mmap.mmap
    shape: tuple[int, ...]
    dtype: torch.dtype

    def tensor(self) -> Tensor:
        """The tensor, which shares the pages."""
        if not math.prod(self.shape):
            return torch.empty(self.shape, dtype=self.dtype)
        flat = torch.frombuffer(self.pages, dtype=self.dtype, count=math.prod(self.shape))
        return flat.reshape(self.shape)


def store(tensor: Tensor) -> Stored:
    """A copy of a tensor."""
    pages = mmap.mmap(-1, max(1, tensor.numel() * tensor.element_size()))
    stored = Stored(pages, tuple(tensor.shape), tensor.dtype)
    stored.tensor().copy_(tensor)
    return stored


def restored(stored: Mapping[str, Stored]) -> dict[str, Tensor]:
    """What was stored, by the same names."""
    return {key: one.tensor() for key, one in stored.items()}


def _pair(key: str) -> tuple[str, str] | None:
    """(the layer's name, the key of `down`) for the key of an `up`, None for any other key."""
    for up, down in PAIRS:
        if key.endswith(f".{up}"):
            stem = key[: -len(up) - 1]
            return stem, f"{stem}.{down}"
    up, down = UNDERSCORED
    return (key[: -len(up)], key[: -len(up)] + down) if key.endswith(up) else None


def _check_factors(stem: str, factors: Factors) -> None:
    up, down, mid = factors.up, factors.down, factors.mid
    if up.ndim > 1 and down.ndim > 1 and (mid is None or mid.ndim > 1):
        inner = down.shape[:1] if mid is None else mid.shape[:2]
        if (math.prod(up.shape[1:]), down.shape[0]) == (inner[0], inner[-1]):
            return
    raise ValueError(
        f"The factors of {short(stem)} do not match: {tuple(up.shape)} and {tuple(down.shape)}. "
        "The file is damaged, copy it again."
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
    _check_shapes([layer.shape for layer in layers])
    ups = [weight * layer.up for layer, weight in zip(layers, weights, strict=True)]
    return replace(
        layers[0],
        up=torch.cat(ups, dim=1),
        down=torch.cat([layer.down for layer in layers], dim=0),
    )


def joined(stem: str, parts: Sequence[Factors], weights: Sequence[float]) -> dict[str, Tensor]:
    """What `layer_tensors` makes of `merge`, for layers without a Tucker core.

    In the memory of the result and little more: large numbers in fp64 that come and go would leave
    holes in memory that nothing fits into.
    """
    shapes = [(part.up.shape[0], *part.down.shape[1:]) for part in parts]
    _check_shapes(shapes)
    ranks = [part.down.shape[0] for part in parts]
    up = torch.empty(shapes[0][0], sum(ranks))
    down = torch.empty(sum(ranks), math.prod(shapes[0][1:]))
    first = 0
    for part, weight, rank in zip(parts, weights, ranks, strict=True):
        columns = slice(first, first + rank)
        down[columns].copy_(part.down.flatten(1))
        rows = max(1, _AT_ONCE // max(1, rank))
        for row in range(0, len(up), rows):
            given = part.up[row : row + rows].flatten(1).double()
            up[row : row + rows, columns].copy_(weight * (given * part.scale))
        first += rank
    kernel = [1] * (len(shapes[0]) - 2)
    return {
        f"{stem}.lora_up.weight": up.reshape(*up.shape, *kernel),
        f"{stem}.lora_down.weight": down.reshape(-1, *shapes[0][1:]),
        f"{stem}.alpha": torch.tensor(float(sum(ranks))),
    }


def _check_shapes(shapes: Sequence[tuple[int, ...]]) -> None:
    # A kernel of 1 x 1 is the same change as none.
    different = {(shape[:2], _kernel(shape)): shape for shape in shapes}
    if len(different) > 1:
        raise ValueError(
            f"Layers of different shapes cannot be merged "
            f"({', '.join(map(str, different.values()))}): they are made for different models."
        )


def _kernel(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[2:] if math.prod(shape[2:]) > 1 else ()


def compact(layer: LowRank) -> LowRank:
    """The same change in as few directions as it really has, for instance after a merge."""
    svd = decompose(layer)
    return trim(svd, count_for_share(svd.values, 1.0)).low_rank()
