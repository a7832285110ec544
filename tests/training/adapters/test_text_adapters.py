"""Adapters of the text encoders: they train, at their own rate, and a run with them resumes."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest
import torch
from training.toys import losses, text_adapter_of, toy_parts

from pack.training.adapters.lora import LoraConfig
from pack.training.config import TrainConfig
from pack.training.loop import train
from pack.training.objective import ObjectiveConfig, Prior
from pack.training.words.concepts import Concept

TOK = Concept(placeholder="TOK", initial="small dog", pivot=0.5)
TEXT_LORA = LoraConfig(rank=2, alpha=2.0, text_encoder=True)


def test_adapters_of_the_text_encoders_train_and_every_caption_is_encoded_each_step():
    parts = toy_parts(TOK, lora=TEXT_LORA)
    adapter = text_adapter_of(parts)
    before = adapter.up.detach().clone()
    losses(parts, TrainConfig(steps=4))
    assert not torch.equal(adapter.up, before)
    assert parts.text.released == 0, "nothing in the captions is constant"


def test_the_text_encoders_learn_at_their_share_of_the_rate():
    parts = toy_parts(lora=replace(TEXT_LORA, text_rate=0.25))
    with closing(train(parts, TrainConfig(steps=2))) as steps:
        (groups,) = (o.param_groups for o in next(steps).run.optimizers.values())
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates["text"] == pytest.approx(0.25 * rates["adapters"])


def test_a_run_with_text_adapters_goes_on_bit_for_bit():
    config = TrainConfig(steps=5)
    whole = toy_parts(TOK, lora=TEXT_LORA)
    losses(whole, config)
    cut = toy_parts(TOK, lora=TEXT_LORA)
    with closing(train(cut, config)) as steps:
        state = [next(steps).state() for _ in range(3)][-1]
    again = toy_parts(TOK, lora=TEXT_LORA)
    for _ in train(again, config, state):
        pass
    for name, value in whole.parameters().items():
        assert torch.equal(value, again.parameters()[name]), name


def test_the_base_that_is_kept_is_the_one_without_text_adapters():
    parts = toy_parts(lora=TEXT_LORA)
    adapter = text_adapter_of(parts)
    torch.nn.init.normal_(adapter.up)
    losses(parts, TrainConfig(steps=1, objective=ObjectiveConfig(prior=Prior.BASE)))
    plain, adapted = (
        [one for one in parts.denoiser.predictions if one.adapted is state][-1]
        for state in (False, True)
    )
    assert not torch.allclose(plain.conditions[0], adapted.conditions[0])
