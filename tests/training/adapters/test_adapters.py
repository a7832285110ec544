"""Every kind of adapter is exactly its full change of the weight, on every kind of layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from training.layers import SHAPES, Adapted, fresh, trained
from training.toys import toy_data

from pack.training.adapters import AdapterConfig
from pack.training.adapters.dora import Axis, DoraConfig
from pack.training.adapters.loha import LoHaConfig
from pack.training.adapters.lokr import LoKrConfig, split_size
from pack.training.adapters.lora import LoraConfig
from pack.training.adapters.oft import OftConfig
from pack.training.adapters.trilora import Core, Sigma, TriLoraConfig
from pack.training.data import MicroStep, draw_batch

KINDS: dict[str, AdapterConfig] = {
    "lora": LoraConfig(rank=3, alpha=2.0),
    "rslora": LoraConfig(rank=3, alpha=2.0, rank_stabilized=True),
    "trilora": TriLoraConfig(rank=3, alpha=2.0, sigma=Sigma.PAPER),
    "trilora full": TriLoraConfig(rank=3, rank_out=4, core=Core.FULL),
    "trilora wide": TriLoraConfig(rank=4, rank_out=2),
    "dora": DoraConfig(rank=3, alpha=2.0),
    "dora rows": DoraConfig(rank=3, alpha=2.0, axis=Axis.OUTPUT),
    "loha": LoHaConfig(rank=2, alpha=3.0),
    "lokr": LoKrConfig(factor=4),
    "lokr factors": LoKrConfig(factor=2, rank=1, alpha=2.0),
    "oft": OftConfig(rank=4),
    "oft with a cap": OftConfig(rank=2, alpha=0.5),
}

# Written out by hand: what is saved as alpha is rounded to fp32.
SCALES = {"rslora": 2 / 3**0.5, "trilora full": 1, "trilora wide": 1, "loha": 1.5}
SCALES |= {"lora": 2 / 3, "trilora": 2 / 3, "dora": 2 / 3, "dora rows": 2 / 3, "lokr factors": 2}


def cases() -> list[tuple[str, str]]:
    """LoKr and OFT are refused on groups; all others go everywhere."""
    whole = ("lokr", "oft")
    return [(k, s) for k in KINDS for s in SHAPES if s != "groups" or not k.startswith(whole)]


every_case = pytest.mark.parametrize(("kind", "shape"), cases())


def full_weight(made: Adapted, scale: float) -> Tensor:
    """The changed weight by its definition, from the saved tensors and the frozen weight."""
    tensors, weight = dict(made.adapter.tensors()), made.frozen.weight
    if "oft_blocks" in tensors:
        return rotated(weight, tensors["oft_blocks"], tensors["alpha"].item())
    if "hada_w1_a" in tensors:
        first = tensors["hada_w1_a"] @ tensors["hada_w1_b"]
        second = tensors["hada_w2_a"] @ tensors["hada_w2_b"]
        return weight + scale * (first * second).view(weight.shape)
    if "lokr_w1" in tensors:
        return weight + kronecker(tensors, scale).reshape(weight.shape)
    up, down = tensors["lora_up.weight"], tensors["lora_down.weight"]
    assert tensors["alpha"].item() / len(down) == pytest.approx(scale, rel=1e-6)
    changed = weight + scale * (up.flatten(1) @ down.flatten(1)).view(weight.shape)
    return lengthened(made, changed) if hasattr(made.adapter, "magnitude") else changed


def rotated(weight: Tensor, blocks: Tensor, constraint: float) -> Tensor:
    q = blocks - blocks.transpose(1, 2)
    if constraint and q.norm() > constraint:
        q = q * constraint / q.norm()
    eye = torch.eye(q.shape[-1], dtype=q.dtype)
    r = torch.block_diag(*[(eye + one) @ torch.linalg.inv(eye - one) for one in q])
    return (r.T @ weight.flatten(1)).view(weight.shape)


def kronecker(tensors: dict[str, Tensor], scale: float) -> Tensor:
    w1 = tensors["lokr_w1"]
    if "lokr_w2" in tensors:
        w2 = tensors["lokr_w2"].flatten(1)
        return torch.kron(w1, w2)
    w2 = tensors["lokr_w2_a"] @ tensors["lokr_w2_b"]
    return scale * torch.kron(w1, w2)


def lengthened(made: Adapted, changed: Tensor) -> Tensor:
    """m (W + delta) / |W + delta| with the norm taken of the whole matrix."""
    along = 1 if made.adapter.axis is Axis.INPUT else 0
    others = [place for place in range(changed.ndim) if place != along]
    norm = changed.square().sum(dim=others, keepdim=True).sqrt()
    return changed * made.adapter.magnitude.view(norm.shape) / norm


@every_case
def test_the_output_equals_that_of_the_full_change(kind: str, shape: str):
    made = trained(KINDS[kind], shape)
    wanted = made.with_weight(full_weight(made, SCALES.get(kind, 1.0)))
    assert (wanted - made.frozen(made.x)).abs().max() > 1e-3, "something has to change"
    torch.testing.assert_close(made.output(), wanted, rtol=0, atol=1e-10)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_the_start_the_output_is_the_bases_to_the_last_bit(kind, shape, dtype):
    made = fresh(KINDS[kind], shape, dtype)
    assert torch.equal(made.output(), made.frozen(made.x))


@every_case
def test_it_can_learn_from_its_start(kind: str, shape: str):
    made = fresh(KINDS[kind], shape)
    made.output().square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in made.adapter.parameters())


@pytest.mark.parametrize(
    ("kind", "shape"), [(k, s) for k, s in cases() if s in ("linear", "conv", "groups")]
)
def test_gradients_agree_with_finite_differences(kind: str, shape: str, monkeypatch):
    made = trained(KINDS[kind], shape)
    if hasattr(made.adapter, "magnitude"):
        # The norm is a constant for the gradient, as the paper has it.
        norm = made.adapter.norm()
        monkeypatch.setattr(made.adapter, "norm", lambda: norm)
    names, values = zip(*made.adapter.named_parameters(), strict=True)
    x = made.x[:1, ..., :3].clone() if shape != "linear" else made.x[:1, :2].clone()

    class Call(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.adapter = made.adapter

        def forward(self, y: Tensor) -> Tensor:
            return self.adapter.around(made.frozen, y)

    def output(y: Tensor, *moved: Tensor) -> Tensor:
        named = {f"adapter.{name}": value for name, value in zip(names, moved, strict=True)}
        return functional_call(Call(), named, (y,))

    assert torch.autograd.gradcheck(output, (x.requires_grad_(), *values), fast_mode=True)


@every_case
def test_the_same_settings_and_seed_give_the_same_adapter(kind: str, shape: str):
    first, second = fresh(KINDS[kind], shape), fresh(KINDS[kind], shape)
    for left, right in zip(first.adapter.parameters(), second.adapter.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_diagonal_core_learns_nothing_beyond_its_smaller_rank():
    made = trained(KINDS["trilora wide"], "linear")
    assert made.adapter.tensors()["lora_down.weight"].shape[0] == 2


@pytest.mark.parametrize("kind", ["LoKr", "OFT"])
def test_what_changes_a_whole_weight_is_refused_on_groups(kind: str):
    with pytest.raises(ValueError, match=f"is a convolution in groups, which {kind} cannot change"):
        fresh(KINDS[kind.lower()], "groups")


def test_oft_with_blocks_in_bf16_turns_as_with_the_same_in_fp32():
    made = trained(KINDS["oft"], "linear")
    made.adapter.blocks.data = made.adapter.blocks.data.bfloat16().double()
    whole = made.output()
    made.adapter.blocks.data = made.adapter.blocks.data.bfloat16()
    torch.testing.assert_close(made.output(), whole, rtol=0, atol=1e-6)


def test_the_split_of_a_size_is_its_largest_divisor_up_to_the_factor():
    assert split_size(1280, 16) == (16, 80)
    assert split_size(1280, -1) == (32, 40)
    assert split_size(127, 16) == (1, 127)
    assert split_size(10, 100) == (2, 5)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("loha",)])
def test_no_change_of_full_size_is_kept_for_backward(kind: str):
    made = trained(KINDS[kind], "linear")
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.append(t.numel()) or t, lambda t: t
    ):
        made.adapter.around(lambda y: y.new_zeros(2, 5, 8), made.x.requires_grad_())
    assert 8 * 12 not in sizes, "the weight has 8 x 12 numbers"


def micro_step(number: int) -> MicroStep:
    """A micro step of one sample."""
    batch = draw_batch(toy_data(["a hill"], batch_size=1), 0, 0, 0.0)
    return MicroStep(batch, None, number=number)


def test_parts_of_a_batch_drop_other_numbers_than_its_first():
    made = trained(LoraConfig(rank=4, dropout=0.5), "conv")
    whole = MicroStep(draw_batch(toy_data(["a", "b"]), 0, 0, 0.0), None, number=1)
    outputs: list[Tensor] = []
    for part in (whole, *whole.pieces()):
        made.adapter.begin(part)
        outputs.append(made.output())
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[1], outputs[2])


def test_dropout_is_drawn_anew_in_each_batch_and_rests_outside_of_them():
    made = trained(LoraConfig(rank=4, dropout=0.5), "conv")
    still = made.output()
    made.adapter.begin(micro_step(1))
    first, again = made.output(), made.output()
    made.adapter.begin(micro_step(2))
    second = made.output()
    assert torch.equal(first, again), "a block that is computed again sees the same"
    assert not torch.equal(first, second) and not torch.equal(first, still)
    made.adapter.begin(None)
    assert torch.equal(made.output(), still)


def test_dropout_keeps_the_mean():
    made = trained(LoraConfig(rank=4, dropout=0.3), "linear")
    still, total = made.output(), 0
    for step in range(2000):
        made.adapter.begin(micro_step(step))
        total = total + made.output()
    assert ((total / 2000 - still).norm() / (still - made.frozen(made.x)).norm()).item() < 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoraConfig(dropout=1.0), "dropout is 1.0: use 0"),
        (lambda: LoraConfig(text_rate=0.0), "text_rate is 0.0"),
        (lambda: LoKrConfig(factor=0), "factor is 0: use 1 or more, or -1"),
        (lambda: LoKrConfig(rank=-1), "rank is -1: use 0"),
        (lambda: OftConfig(rank=0), "rank is 0"),
        (lambda: OftConfig(alpha=-1.0), "alpha is -1.0: use 0 .no constraint."),
        (lambda: TriLoraConfig(alpha=-1.0), "alpha is -1.0: use 0 .the rank."),
        (lambda: LoraConfig(patterns="attn1 = 0"), "rank is 0: use at least 1"),
        (lambda: LoraConfig(patterns="attn1 = x"), 'The line "attn1 = x" of patterns is not'),
        (lambda: LoraConfig(patterns="attn(1 = 4"), "is not understood"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", ["dora", "dora rows", "oft"])
def test_a_layer_without_a_weight_is_one_sentence(kind: str):
    from dataclasses import replace

    from training.layers import as_layer, module

    bare = replace(as_layer(module("linear")), lend=None)
    with pytest.raises(ValueError, match="attn1.to_q has no weight that can be read: choose LoRA"):
        KINDS[kind].build(bare, torch.Generator())


def test_a_configuration_says_its_size_and_what_is_not_the_default():
    assert repr(LoraConfig(rank=8, alpha=8)) == "LoraConfig(rank=8, alpha=8)"
    assert repr(LoraConfig(dropout=0.1)) == "LoraConfig(rank=16, alpha=16.0, dropout=0.1)"
