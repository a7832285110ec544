"""The methods that are compared and the concepts that they learn, all in the sprite world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pack.training.adapters.lora import LoraConfig
from pack.training.concepts import Concept
from pack.training.loop import TrainConfig
from pack.training.objective import ObjectiveConfig, Prior
from pack.training.optimizers import OptimizerConfig
from world.concepts import CREW, Picture, character_pictures

PLACEHOLDER = "TOK"
# A word of the vocabulary that the base was never trained on.
RARE_WORD = "sks"
CLASS_WORD = "square"
STEPS = 400
BATCH = 4
RANK = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What is trained, from what start."""

    vectors: bool = True
    adapter: bool = True
    initial: str = CLASS_WORD
    prior: Prior = Prior.NONE

    @property
    def trigger(self) -> str:
        """What stands for the concept in a prompt."""
        return f"embedding:{PLACEHOLDER}" if self.vectors else RARE_WORD


METHODS: Mapping[str, Method] = {
    "textual_inversion": Method(adapter=False),
    "lora": Method(vectors=False),
    "pivotal": Method(),
    "pivotal_prior": Method(prior=Prior.BASE),
    "pivotal_noise": Method(initial=""),
}


def pictures_for(method: Method, seed: int) -> Sequence[Picture]:
    """The eight pictures of the character under the word that the method trains with."""
    word = PLACEHOLDER if method.vectors else RARE_WORD
    return character_pictures(word, character="robot", seed=seed)


def concepts_for(method: Method) -> tuple[Concept, ...]:
    """The method's concept, or none for a rare word."""
    if not method.vectors:
        return ()
    concept = Concept(
        placeholder=PLACEHOLDER, initial=method.initial, class_word=CLASS_WORD, vectors=2
    )
    return (concept,)


def config_for(method: Method, seed: int) -> TrainConfig:
    """The same budget for every method; rates for a model of 19 M parameters."""
    return TrainConfig(
        steps=STEPS,
        batch_size=BATCH,
        seed=seed,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        embedding_optimizer=OptimizerConfig(learning_rate=5e-3, weight_decay=0.0),
        objective=ObjectiveConfig(prior=method.prior),
    )


def adapter_for(method: Method) -> LoraConfig | None:
    """The LoRA that every method but textual inversion trains."""
    return LoraConfig(rank=RANK, alpha=RANK) if method.adapter else None


CHARACTER = CREW["robot"]
