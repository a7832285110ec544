"""The methods that are compared: what each trains, from what start, at what rates."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from pack.training.adapters import AdapterConfig
from pack.training.adapters.lora import LoraConfig
from pack.training.adapters.targets import Targets
from pack.training.loop import TrainConfig
from pack.training.objective import ObjectiveConfig, Prior
from pack.training.optimizers.choices import Algorithm, OptimizerConfig, Precision
from pack.training.optimizers.schedule import Schedule
from pack.training.words.concepts import NEGATIVE, Concept

from .subjects import Subject

# Attention alone learns the silhouette and not the inks: cells are what convolutions draw.
LORA = LoraConfig(rank=32, alpha=32, targets=Targets.CONVOLUTIONS)
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
    adapter_rate: float = 1.5e-3
    embedding_rate: float = 1e-3
    algorithm: Algorithm = Algorithm.ADAMW
    """Of the adapters and the vectors"""
    precision: Precision = Precision.FP32
    schedule: Schedule = Schedule.COSINE
    warmup: int = 20
    objective: ObjectiveConfig = ObjectiveConfig()
    """All but its prior, which is above"""
    ema_decay: float = 0.0
    negative_vectors: int = 0
    flow: bool = False
    """Whether the base is the one that predicts flows"""

    def words(self, subject: Subject) -> dict[str, str]:
        """Concept -> the word that stands for it in the training captions."""
        if self.embeddings:
            return {concept: concept.upper() for concept in subject.concepts}
        return dict(zip(subject.concepts, RARE_WORDS, strict=False))

    def triggers(self, subject: Subject) -> dict[str, str]:
        """Concept -> what stands for it in a prompt."""
        prefix = "embedding:" if self.embeddings else ""
        return {concept: prefix + word for concept, word in self.words(subject).items()}

    def unwanted(self, subject: Subject) -> str:
        """The negative prompt: the negative embeddings, where they are trained."""
        words = self.triggers(subject).values() if self.negative_vectors else ()
        return " ".join(word + NEGATIVE for word in words)

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
                negative_vectors=self.negative_vectors,
            )
            for concept, word in self.words(subject).items()
        )

    def config(self, steps: int, batch: int, seed: int) -> TrainConfig:
        """The run's settings; the rates are for a model of 19 M parameters."""
        optimizer = OptimizerConfig(
            algorithm=self.algorithm, precision=self.precision, learning_rate=self.adapter_rate
        )
        return TrainConfig(
            steps=steps,
            batch_size=batch,
            seed=seed,
            schedule=self.schedule,
            warmup_steps=self.warmup,
            optimizer=optimizer,
            embedding_optimizer=replace(
                optimizer, learning_rate=self.embedding_rate, weight_decay=0.0
            ),
            objective=replace(self.objective, prior=self.prior, prior_weight=self.prior_weight),
            ema_decay=self.ema_decay,
        )


# Two class pictures beside four pictures: half of what the prior would cost.
HELD = Method(prior=Prior.BASE, prior_weight=0.5, objective=ObjectiveConfig(prior_batch=2))


def differing(settings: Any, plain: Any) -> Any:
    """What of the settings differs from the plain ones; of an enum its value."""
    if not is_dataclass(settings) or type(settings) is not type(plain):
        return getattr(settings, "value", settings)
    pairs = [(f.name, getattr(settings, f.name), getattr(plain, f.name)) for f in fields(settings)]
    return {name: differing(ours, theirs) for name, ours, theirs in pairs if ours != theirs}


METHODS: dict[str, Method] = {
    "textual_inversion": Method(adapter=None, pivot=1.0),
    "lora": Method(embeddings=False),
    "pivotal": Method(),
    "pivotal_prior": HELD,
    # What the vectors learn soon, the LoRA need not take from the base; behind the pivot a step
    # costs no text encoder, so there is time for more of them.
    "pivotal_soon": replace(HELD, embedding_rate=5e-3, pivot=0.2),
    "pivotal_noise": Method(initial_word=False),
    # For a set: at 0.0015 the loss stands still from the three hundredth step on.
    "set": Method(adapter_rate=1e-3, embedding_rate=5e-3, pivot=0.3),
    "lora_prior": replace(HELD, embeddings=False),
}
