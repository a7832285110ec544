"""What a pivotal step costs, in counts: encoder calls, reads of the device, bytes for backward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import pytest
from torch import nn

from harness.host.measure import kept_for_backward, make_batch, size_of
from harness.host.runner import Loaded
from harness.host.watching import counted
from pack.nodes.host.denoiser.port import HostDenoiser
from pack.nodes.host.run.drive import gradients
from pack.nodes.host.text.port import HostTextEncoder
from pack.training.adapters import build_adapters
from pack.training.adapters.adapted import Adapters
from pack.training.adapters.lora import LoraConfig
from pack.training.config import TrainConfig
from pack.training.data import TrainingData
from pack.training.dataset.batches import Batches
from pack.training.loop import train
from pack.training.parts import Parts
from pack.training.words.concepts import Concept, parse_caption
from pack.training.words.vectors import Vectors, initial_vectors

PICTURES = 16

LORA = LoraConfig(rank=4, alpha=4)


@pytest.fixture(params=["sd15", "sdxl"])
def loaded(request: pytest.FixtureRequest) -> Loaded:
    return request.getfixturevalue(request.param)


def named(count: int, pivot: float) -> tuple[Concept, ...]:
    return tuple(
        Concept(placeholder=f"thing{number}", initial="dog", vectors=2, pivot=pivot)
        for number in range(count)
    )


def encoders_of(loaded: Loaded) -> list[nn.Module]:
    encoders = loaded.clip.cond_stage_model.modules()
    return [one.transformer for one in encoders if hasattr(one, "process_tokens")]


@dataclass(frozen=True)
class Costs:
    """Of each step of a run, and how many numbers the embeddings' optimizer has of its own."""

    steps: list[dict[str, int]]
    embeddings: int


def costs(loaded: Loaded, concepts: Sequence[Concept], steps: int) -> Costs:
    """Train a LoRA, and concepts if there are some, one to a picture, counting step by step."""
    text = HostTextEncoder(loaded.clip)
    denoiser = HostDenoiser(loaded.model, checkpointing=False, companions=text.companions)
    names = [concept.placeholder for concept in concepts] or ["dog"]
    told = [f"a photo of {names[n % len(names)]} in a garden" for n in range(PICTURES)]
    captions = [parse_caption(caption, concepts) for caption in told]
    drawn = make_batch(captions)
    parts = Parts(
        denoiser=denoiser,
        text=text,
        concepts=tuple(concepts),
        trained=[
            *([Vectors(initial_vectors(concepts, text, 0), text)] if concepts else []),
            Adapters(LORA, build_adapters(LORA, denoiser.layers(), 0), {}),
        ],
        data=TrainingData(
            latents=list(drawn.latents),
            captions=captions,
            crops=list(drawn.crops),
            batches=Batches([0] * PICTURES, [1] * PICTURES, 1, 0),
        ),
    )
    made, held = list[dict[str, int]](), 0
    with closing(train(parts, TrainConfig(steps=steps))) as run:
        for _ in range(steps):
            counts: Counter[str] = Counter()
            with counted(counts, encoders_of(loaded)), kept_for_backward() as kept:
                report = next(run)
            saved = size_of([one for one in kept if not isinstance(one, nn.Parameter)])
            made.append({**counts, "saved": saved})
            if "embeddings" in report.run.optimizers:
                groups = report.run.optimizers["embeddings"].param_groups
                held = sum(p.numel() for group in groups for p in group["params"])
    return Costs(made, held)


def test_after_the_pivot_a_step_costs_what_a_lora_step_does(loaded: Loaded):
    """From the step after that which encodes every caption a last time."""
    with gradients():
        pivotal = costs(loaded, named(1, pivot=2 / 5), steps=5).steps
        plain = costs(loaded, (), steps=5).steps
    assert pivotal[1]["encoder"] == len(encoders_of(loaded))
    assert pivotal[1]["saved"] > pivotal[3]["saved"]
    assert pivotal[3:] == plain[3:]
    assert "encoder" not in plain[3]


def test_the_cost_of_a_step_does_not_grow_with_the_number_of_concepts(loaded: Loaded):
    """Each of them brings its own rows and no more."""
    with gradients():
        found = {count: costs(loaded, named(count, pivot=1.0), steps=2) for count in (1, 16)}
    one = found[1]
    assert one.steps[1]["encoder"] == len(encoders_of(loaded))
    assert one.embeddings > 0
    for count, several in found.items():
        # The first step also borrows the models.
        assert several.steps[1:] == one.steps[1:]
        assert several.embeddings == count * one.embeddings
