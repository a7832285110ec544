"""The methods that are compared: what each trains, from what start, at what rates."""

from __future__ import annotations

from dataclasses import dataclass

from pack.training.adapters import AdapterConfig
from pack.training.adapters.lora import LoraConfig
from pack.training.adapters.targets import Targets
from pack.training.concepts import Concept
from pack.training.loop import TrainConfig
from pack.training.objective import ObjectiveConfig, Prior, Weighting
from pack.training.optimizers import OptimizerConfig
from pack.training.schedule import Schedule

from .subjects import Subject

BATCH = 4
# Attention alone learns the silhouette and not the inks: cells are what convolutions draw.
LORA = LoraConfig(rank=16, alpha=16, targets=Targets.CONVOLUTIONS)
# Words of the vocabulary that the base was never trained on.
RARE_WORDS = ("sks", "ohwx", "zwx", "bnha", "vqv", "jrk")


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What is trained, from what start."""

    embeddings: bool = True
    adapter: AdapterConfig | None = LORA
    initial_word: bool = True
    """Vectors start from the class word's, else from noise of the table's norm"""
    prior: Prior = Prior.NONE
    """Held by pictures that the base drew itself"""
    prior_weight: float = 1.0
    pivot: float = 0.4
    adapter_rate: float = 2e-3
    embedding_rate: float = 5e-3

    def words(self, subject: Subject) -> dict[str, str]:
        """Concept -> the word that stands for it in the training captions."""
        if self.embeddings:
            return {concept: concept.upper() for concept in subject.concepts}
        return dict(zip(subject.concepts, RARE_WORDS, strict=False))

    def triggers(self, subject: Subject) -> dict[str, str]:
        """Concept -> what stands for it in a prompt."""
        prefix = "embedding:" if self.embeddings else ""
        return {concept: prefix + word for concept, word in self.words(subject).items()}

    def concepts(self, subject: Subject) -> tuple[Concept, ...]:
        """What the run learns as new words; none for rare words."""
        if not self.embeddings:
            return ()
        return tuple(
            Concept(
                placeholder=word,
                initial=subject.concepts[concept] if self.initial_word else "",
                class_word=subject.concepts[concept],
                vectors=2,
                pivot=self.pivot,
            )
            for concept, word in self.words(subject).items()
        )

    def config(self, steps: int, seed: int) -> TrainConfig:
        """The run's settings; the rates are for a model of 19 M parameters."""
        return TrainConfig(
            steps=steps,
            batch_size=BATCH,
            seed=seed,
            schedule=Schedule.COSINE,
            optimizer=OptimizerConfig(learning_rate=self.adapter_rate),
            embedding_optimizer=OptimizerConfig(
                learning_rate=self.embedding_rate, weight_decay=0.0
            ),
            objective=ObjectiveConfig(
                prior=self.prior, prior_weight=self.prior_weight, weighting=Weighting.NONE
            ),
        )


METHODS: dict[str, Method] = {
    "textual_inversion": Method(adapter=None, pivot=1.0),
    "lora": Method(embeddings=False),
    "pivotal": Method(),
    "pivotal_prior": Method(prior=Prior.BASE, prior_weight=0.5),
    "pivotal_noise": Method(initial_word=False),
}
