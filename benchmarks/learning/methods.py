"""The methods that are compared: what each one trains, from what start and at what rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from pack.training.adapters import AdapterConfig
from pack.training.adapters.lora import LoraConfig
from pack.training.adapters.targets import Targets
from pack.training.adapters.trilora import Sigma, TriLoraConfig
from pack.training.config import TrainConfig
from pack.training.objective import Density, ObjectiveConfig, Prior, Weighting
from pack.training.optimizers.choices import Algorithm, OptimizerConfig, Precision
from pack.training.optimizers.schedule import Schedule
from pack.training.words.concepts import NEGATIVE, Concept

from .subjects import Subject

# Attention alone learns the silhouette but not the colors inside it, which convolutions draw.
LORA = LoraConfig(rank=32, alpha=32, targets=Targets.CONVOLUTIONS)
# Words of the text encoder's vocabulary that the base was never trained on.
RARE_WORDS = ("sks", "ohwx", "zwx", "bnha", "vqv", "jrk")


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """The settings of one method; a field's default is what `pivotal` uses."""

    embeddings: bool = True
    adapter: AdapterConfig | None = LORA
    initial_word: bool = True
    """Whether vectors start from those of the class word, rather than from noise of equal norm"""
    prior: Prior = Prior.NONE
    """The class pictures, where it needs any, are drawn by the base itself"""
    prior_weight: float = 1.0
    pivot: float = 0.4
    adapter_rate: float = 1.5e-3
    embedding_rate: float = 1e-3
    algorithm: Algorithm = Algorithm.ADAMW
    """For the adapters and the vectors"""
    precision: Precision = Precision.FP32
    schedule: Schedule = Schedule.COSINE
    warmup: int = 20
    objective: ObjectiveConfig = ObjectiveConfig()
    """Except the prior and its weight, which are fields above"""
    ema_decay: float = 0.0
    negative_vectors: int = 0
    output: bool = False
    """Whether vectors replace what the text encoder returns, rather than what it reads"""
    flow: bool = False
    """Whether it trains the flow model instead of the base"""

    def words(self, subject: Subject) -> dict[str, str]:
        """The word for each concept in the training captions."""
        if self.embeddings:
            return {concept: concept.upper() for concept in subject.concepts}
        return dict(zip(subject.concepts, RARE_WORDS, strict=False))

    def triggers(self, subject: Subject) -> dict[str, str]:
        """The word for each concept in a prompt."""
        prefix = "embedding:" if self.embeddings else ""
        return {concept: prefix + word for concept, word in self.words(subject).items()}

    def unwanted(self, subject: Subject) -> str:
        """The negative prompt: the negative embeddings, if any are trained."""
        words = self.triggers(subject).values() if self.negative_vectors else ()
        return " ".join(word + NEGATIVE for word in words)

    def concepts(self, subject: Subject) -> tuple[Concept, ...]:
        """The concepts that get vectors; a method with rare words has none."""
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
                output=self.output,
            )
            for concept, word in self.words(subject).items()
        )

    def config(self, steps: int, batch: int, seed: int) -> TrainConfig:
        """The settings of a run on the base, which has 19 M parameters."""
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


def differing(settings: Any, plain: Any) -> Any:
    """The settings that differ from the plain ones, by name; an enum is given as its value."""
    if not is_dataclass(settings) or type(settings) is not type(plain):
        return getattr(settings, "value", settings)
    # As in the text of an adapter's settings, not as declared: digests of rows depend on the order.
    first = getattr(settings, "always_shown", ())
    names = dict.fromkeys([*first, *(field.name for field in fields(settings))])
    pairs = {name: (getattr(settings, name), getattr(plain, name)) for name in names}
    return {name: differing(*pair) for name, pair in pairs.items() if pair[0] != pair[1]}


# Two class pictures for every four pictures: half of what the prior would cost otherwise.
WITH_PRIOR = Method(prior=Prior.BASE, prior_weight=0.5, objective=ObjectiveConfig(prior_batch=2))
WAYS: Mapping[str, Method] = {
    "textual_inversion": Method(adapter=None, pivot=1.0),
    "lora": Method(embeddings=False),
    "pivotal": Method(),
    "pivotal_prior": WITH_PRIOR,
    # What the vectors learn early, the LoRA does not have to take from the base. After the pivot a
    # step runs no text encoder, which leaves time for more steps.
    "pivotal_soon": replace(WITH_PRIOR, embedding_rate=5e-3, pivot=0.2),
    "pivotal_noise": Method(initial_word=False),
    # For a set: at a rate of 0.0015 the loss stops falling after three hundred steps.
    "set": Method(adapter_rate=1e-3, embedding_rate=5e-3, pivot=0.3),
    "lora_prior": replace(WITH_PRIOR, embeddings=False),
}
"""Ways of teaching a concept."""
OPTIMIZERS: Mapping[str, Method] = {
    # As their authors advise: Prodigy with a rate of 1, Schedule-Free without a schedule.
    "prodigy": Method(algorithm=Algorithm.PRODIGY, adapter_rate=1.0, embedding_rate=1.0),
    "schedule_free": Method(algorithm=Algorithm.SCHEDULE_FREE, schedule=Schedule.CONSTANT),
    "adamw_8bit": Method(algorithm=Algorithm.ADAMW_8BIT),
    "adafactor": Method(algorithm=Algorithm.ADAFACTOR),
    "bf16_factors": Method(precision=Precision.BF16),
    "moving_average": Method(ema_decay=0.98),
}
OBJECTIVES: Mapping[str, Method] = {
    "no_weighting": Method(objective=ObjectiveConfig(weighting=Weighting.NONE)),
    "debiased": Method(objective=ObjectiveConfig(weighting=Weighting.DEBIASED)),
    "huber": Method(objective=ObjectiveConfig(huber=0.1)),
    "noise_offset": Method(objective=ObjectiveConfig(noise_offset=0.05)),
    "caption_dropout": Method(objective=ObjectiveConfig(caption_dropout=0.1)),
}
FLOWS: Mapping[str, Method] = {
    "flow_uniform": Method(flow=True),
    "flow_logit_normal": Method(flow=True, objective=ObjectiveConfig(density=Density.LOGIT_NORMAL)),
    "flow_mode": Method(flow=True, objective=ObjectiveConfig(density=Density.MODE)),
    "flow_shift": Method(flow=True, objective=ObjectiveConfig(shift=3.0)),
    "flow_huber": Method(flow=True, objective=ObjectiveConfig(huber=0.1)),
}
NEGATIVES: Mapping[str, Method] = {
    # Trained at the guidance that the samples are drawn with.
    "negative": Method(negative_vectors=2, objective=ObjectiveConfig(negative_guidance=3.0)),
}
CHOICES: Mapping[str, Method] = {**OPTIMIZERS, **OBJECTIVES, **FLOWS, **NEGATIVES}
"""Each of them changes one choice of `pivotal`."""

OUTPUT_RATES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)


def output_name(rate: float) -> str:
    """The name of the method that trains output embeddings alone at a rate."""
    return f"output_inversion_rate{rate:g}"


OUTPUTS: Mapping[str, Method] = {
    output_name(rate): Method(adapter=None, pivot=1.0, output=True, embedding_rate=rate)
    for rate in OUTPUT_RATES
}
"""Textual inversion behind the text encoder, as OneTrainer's output embeddings."""

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
RANK, OTHER_RANKS = 16, (4, 64)
STARTS: Mapping[str, Sigma] = {
    "trilora": Sigma.SCALED,
    "trilora_paper": Sigma.PAPER,
    "trilora_identity": Sigma.IDENTITY,
}
"""What TriLoRA's middle matrix starts from."""
KINDS = ("lora", *STARTS)


def adapter_of(kind: str, rank: int) -> AdapterConfig:
    """LoRA, or TriLoRA from one of its starts, with equal parameters at equal ranks.

    TriLoRA's diagonal core adds one number per direction: less than one in six hundred.
    """
    if kind == "lora":
        return LoraConfig(rank=rank, alpha=rank, targets=LORA.targets)
    return TriLoraConfig(rank=rank, sigma=STARTS[kind], targets=LORA.targets)


def adapter_name(kind: str, rank: int, rate: float) -> str:
    """The name of the method with this adapter."""
    return f"{kind}_rank{rank}_rate{rate:g}"


ADAPTERS: Mapping[str, Method] = {
    adapter_name(kind, rank, rate): Method(adapter=adapter_of(kind, rank), adapter_rate=rate)
    for kind in KINDS
    for rank in (RANK, *OTHER_RANKS)
    for rate in RATES
}
"""Pivotal tuning with every kind of adapter, at every rank and rate."""
METHODS: Mapping[str, Method] = {**WAYS, **OUTPUTS, **ADAPTERS, **CHOICES}
"""All methods, in the order of the page."""
