"""Where vectors start, and how their norms are pulled while they train."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from training.toys import ToyText, losses, same, toy_parts, trained, vectors_of

from pack.training.config import TrainConfig
from pack.training.loop import train
from pack.training.optimizers.choices import Algorithm, OptimizerConfig
from pack.training.words.concepts import Concept
from pack.training.words.vectors import initial_vectors, pull_norms, spread_rows

STILL = OptimizerConfig(learning_rate=1e-30, weight_decay=0.0)
"""A rate so small that fp32 vectors do not move by it."""


def start(*concepts: Concept, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    return initial_vectors(concepts, ToyText(), seed)


def norms(rows: Tensor) -> Tensor:
    return rows.detach().square().sum(dim=1).sqrt()


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (1, ["cat"]),
        (2, ["red", "cat"]),
        (3, ["small", "red", "cat"]),
        (5, ["small", "red", "cat", "small", "red"]),
    ],
)
def test_vectors_start_from_the_phrases_last_rows_or_repeat_them(vectors: int, words: list[str]):
    made = start(Concept(placeholder="TOK", initial="small red cat", vectors=vectors))["TOK"]
    for key, table_rows in ToyText().rows(" ".join(words)).items():
        assert torch.equal(made[key], table_rows)


def test_starting_rows_are_copies_of_the_table_in_fp32():
    table = torch.randn(4, 3).half()
    made = spread_rows(table.float(), 4)
    made += 1
    assert torch.equal(spread_rows(table.float(), 4), table.float())
    text = ToyText()
    initial_vectors([Concept(placeholder="TOK", initial="cat")], text, 0)["TOK"]["clip_l"].data += 1
    assert torch.equal(text.tables["clip_l"], ToyText().tables["clip_l"])


def test_noise_has_the_norm_of_each_encoders_table():
    made = start(Concept(placeholder="TOK", vectors=4))["TOK"]
    assert {key: tuple(rows.shape) for key, rows in made.items()} == {
        "clip_l": (4, 3),
        "clip_g": (4, 5),
    }
    for key, norm in ToyText().norms().items():
        torch.testing.assert_close(norms(made[key]), torch.full((4,), norm), rtol=1e-6, atol=0)
        assert len(made[key].unique(dim=0)) == 4


def test_noise_is_the_same_for_a_seed_and_another_for_another():
    one, two = Concept(placeholder="TOK"), Concept(placeholder="TIK")
    assert same(start(one)["TOK"], start(one)["TOK"])
    assert not same(start(one, seed=1)["TOK"], start(one)["TOK"])
    both = start(one, two)
    assert not same(both["TOK"], both["TIK"])


def test_a_further_concept_does_not_change_anothers_start():
    alone, further = Concept(placeholder="TOK"), Concept(placeholder="TIK")
    assert same(start(further, alone)["TOK"], start(alone)["TOK"])


def test_an_initial_phrase_without_a_token_is_refused():
    class Wordless(ToyText):
        def rows(self, phrase: str) -> dict[str, Tensor]:
            return {key: table[:0] for key, table in self.tables.items()}

    with pytest.raises(ValueError, match='initial phrase "~" has no token'):
        initial_vectors([Concept(placeholder="TOK", initial="~")], Wordless(), 0)


def test_the_pull_moves_each_row_a_share_of_the_way_to_its_encoders_norm():
    rows = {"a": nn.Parameter(torch.randn(3, 4)), "b": nn.Parameter(10 * torch.randn(2, 6))}
    target, k = {"a": 2.0, "b": 0.5}, 0.3
    before = {key: value.detach().clone() for key, value in rows.items()}
    pull_norms(rows, target, k)
    for key, old in before.items():
        for new_row, old_row in zip(rows[key].detach(), old, strict=True):
            length = old_row.double().norm()
            wanted = old_row.double() / length * (length + k * (target[key] - length))
            torch.testing.assert_close(new_row.double(), wanted, rtol=1e-6, atol=1e-7)


def test_a_pull_of_1_gives_the_norm_and_of_0_nothing_and_zero_rows_stay_finite():
    rows = {"a": nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))}
    pull_norms(rows, {"a": 2.0}, 0.0)
    assert torch.equal(rows["a"], torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    pull_norms(rows, {"a": 2.0}, 1.0)
    torch.testing.assert_close(rows["a"].detach(), torch.tensor([[1.2, 1.6], [0.0, 0.0]]))


def test_norms_are_pulled_after_every_step_while_the_vectors_train_and_never_after():
    concept = Concept(placeholder="TOK", initial="small dog", pivot=0.5)
    parts = toy_parts(concept, captions=("a TOK",))
    config = TrainConfig(steps=6, norm_pull=0.25, embedding_optimizer=STILL)
    rows = vectors_of(parts)["TOK"]["clip_g"]
    target = parts.text.norms()["clip_g"]
    distance = [norms(rows) - target]
    distance += [norms(rows) - target for _ in train(parts, config)]
    for step in range(3):
        torch.testing.assert_close(distance[step + 1], 0.75 * distance[step], rtol=1e-4, atol=1e-6)
    assert all(torch.equal(later, distance[3]) for later in distance[4:])
    assert distance[3].abs().max() > 0.01, "still off the norm, and left there"


def test_without_a_pull_nothing_but_the_optimizer_moves_a_vector():
    concept = Concept(placeholder="TOK", initial="small dog", pivot=1.0)
    parts = toy_parts(concept, lora=None)
    before = trained(parts)
    losses(parts, TrainConfig(steps=2, norm_pull=0.0, embedding_optimizer=STILL))
    assert same(trained(parts), before)


def test_a_concept_is_pulled_only_in_steps_that_mention_it():
    concepts = [
        Concept(placeholder=word, initial="small dog", pivot=1.0) for word in ("TOK", "SKU")
    ]
    parts = toy_parts(*concepts, captions=("a TOK", "a SKU"), batch_size=1)
    config = TrainConfig(steps=4, norm_pull=0.25, embedding_optimizer=STILL)
    vectors = vectors_of(parts)
    states = [{name: norms(vectors[name]["clip_g"]) for name in vectors}]
    for _ in train(parts, config):
        states.append(
            {name: norms(vectors_of(parts)[name]["clip_g"]) for name in vectors_of(parts)}
        )
    for before, after in pairwise(states):
        moved = [name for name in before if not torch.equal(before[name], after[name])]
        assert len(moved) == 1, "a batch of one mentions one concept"


def test_the_pull_does_not_count_as_a_way_that_prodigy_has_gone(updates):
    """Without the shift of its origin Prodigy's d grew ten-thousandfold in these steps."""
    prodigy = OptimizerConfig(algorithm=Algorithm.PRODIGY, weight_decay=0.0)
    found = []
    for pull in (0.0, 0.25):
        concept = Concept(placeholder="TOK", initial="dog", pivot=1.0)
        parts = toy_parts(concept, captions=("a TOK",), lora=None)
        config = TrainConfig(steps=12, norm_pull=pull, embedding_optimizer=prodigy)
        losses(parts, config)
        found.append(updates[-1].d)
    assert found[1] < 20 * found[0]
