"""What a graph asks to be trained, checked before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any

from ....bundles.bundle import check_name
from ....training.adapters import AdapterConfig
from ....training.config import TrainConfig
from ....training.dataset.pictures.buckets import bucket_sizes
from ....training.dataset.records import Dataset
from ....training.objective import Prior, check_density
from ....training.optimizers.choices import check_installed
from ....training.optimizers.schedule import rate_factor
from ....training.validation import ValidationConfig
from ....training.words.concepts import (
    Concept,
    ParsedDataset,
    check_class_words,
    check_concepts,
    hold_out,
    parse_dataset,
    unnamed,
    with_class_words,
    with_negatives,
)
from ..folders import checked_run_name
from .continuation import Origin
from .previews import PreviewConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """What a run is validated on: pictures of their own, or some of its training pictures."""

    config: ValidationConfig
    dataset: Dataset | None
    hold_out: int
    """Pictures taken out of the training dataset when there is no other"""


class Checkpointing(str, Enum):
    """Whether blocks are computed a second time in the backward pass, to save memory."""

    ON = "on"
    OFF = "off"
    AUTO = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A request that can be trained, with its captions, which are parsed once for the run."""

    request: Request
    training: ParsedDataset
    held_out: ParsedDataset | None
    prior: ParsedDataset | None
    """Class pictures for prior preservation"""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a graph asks to be trained."""

    dataset: Dataset
    config: TrainConfig
    concepts: tuple[Concept, ...] = ()
    adapter: AdapterConfig | None = None
    class_dataset: Dataset | None = None
    resolution: int = 512
    checkpointing: Checkpointing = Checkpointing.AUTO
    run_name: str = "concept"
    checkpoint_every: int = 250
    """Steps between checkpoints; 0 keeps one at the end and on Cancel alone."""
    keep_checkpoints: int = 3
    """The newest that are kept; 0 keeps all"""
    previews: PreviewConfig | None = None
    validation: HeldOut | None = None
    origin: Origin | None = None
    """The checkpoint of another run that this one starts from"""
    node: str = ""
    """Execution id of the node that asks, which the editor shows the run on"""

    def checked(self) -> Checked:
        """The request ready to run; ValueError, before any work, for what cannot be trained."""
        if self.adapter is None and not self.concepts:
            raise ValueError(
                "Nothing to train: connect concepts, an adapter such as LoRA, or both."
            )
        checked_run_name(self.run_name)
        config = self.origin.applied_to(self.config) if self.origin else self.config
        for concept in with_negatives(self.concepts):
            check_name(concept.final_name)
        parsed = parse_dataset(self.dataset, self.concepts, config.seed)
        check_concepts(self.concepts, parsed)
        concepts = with_class_words(self.concepts, self.dataset)
        bucket_sizes(self.resolution)
        if config.objective.prior is Prior.PICTURES and self.class_dataset is None:
            raise ValueError(
                "The objective asks for class pictures: connect them to class_dataset, or choose "
                'the prior "base model".'
            )
        if config.objective.prior is Prior.BASE and self.class_dataset is None:
            check_class_words(concepts)
        request = replace(self, config=config, concepts=concepts)
        request._check_packages()
        return request._with_captions(parsed)

    def _with_captions(self, parsed: ParsedDataset) -> Checked:
        """The validation pictures apart from those that train, and the class pictures' captions."""
        validation, held, training = self.validation, None, parsed
        if validation is not None and validation.dataset is not None:
            held = parse_dataset(validation.dataset, self.concepts, self.config.seed)
        elif validation is not None:
            held, training = hold_out(parsed, validation.hold_out, self.config.seed)
        notes = unnamed(self.concepts, training)
        request = replace(
            self,
            dataset=replace(training.dataset, notes=(*training.dataset.notes, *notes)),
            concepts=self._lasting_concepts(),
            validation=validation and replace(validation, dataset=held and held.dataset),
        )
        prior = None
        if self.class_dataset is not None and self.config.objective.prior is not Prior.NONE:
            prior = parse_dataset(self.class_dataset, self.concepts, self.config.seed + 1)
        return Checked(request=request, training=training, held_out=held, prior=prior)

    def _check_packages(self) -> None:
        """Raise ImportError with the line to run before a step would."""
        check_density(self.config.objective)
        rate_factor(self.config.schedule, self.config.warmup_steps, self.config.steps)
        if self.adapter is not None:
            check_installed(self.config.optimizer)
        if self.concepts:
            check_installed(self.config.embedding_optimizer)

    def recipe(self) -> dict[str, Any]:
        """How the run is made, as JSON: the same recipe on the same models is the same run."""
        return dict(self._recipe)

    @cached_property
    def _recipe(self) -> dict[str, Any]:
        """Looked up once, since pictures may change or go while the run trains."""
        made = {
            **_settings(self.config, self.concepts, self.adapter),
            "resolution": self.resolution,
            "dataset": _described(self.dataset),
            "class_dataset": self.class_dataset and _described(self.class_dataset),
        }
        if self.validation is not None and self.validation.dataset is not None:
            described = _described(self.validation.dataset)
            made["validation"] = {**asdict(self.validation.config), "dataset": described}
        if self.origin is not None:
            made["continues"] = {"run": self.origin.run, "step": self.origin.step}
        return made

    def usual(self) -> dict[str, Any]:
        """The recipe's settings as they are when nobody sets them, without those that all set."""
        concepts = [Concept(placeholder=concept.placeholder) for concept in self.concepts]
        adapter = self.adapter and type(self.adapter)()
        made = _settings(TrainConfig(steps=self.config.steps), concepts, adapter)
        for concept in made["concepts"]:
            del concept["placeholder"]
        return made

    def _lasting_concepts(self) -> tuple[Concept, ...]:
        """Without an adapter nothing can take over at the pivot, so vectors train to the end."""
        if self.adapter is not None:
            return self.concepts
        if all(concept.pivot == 0 for concept in self.concepts):
            raise ValueError(
                "Every concept has pivot 0 and there is no adapter: nothing would train."
            )
        return tuple(replace(c, pivot=1.0 if c.pivot else 0.0) for c in self.concepts)


def _settings(
    config: TrainConfig, concepts: Sequence[Concept], adapter: AdapterConfig | None
) -> dict[str, Any]:
    """The part of a recipe that is settings."""
    return {
        "train": asdict(config),
        "concepts": [asdict(concept) for concept in concepts],
        "adapter": adapter and {"kind": type(adapter).__name__, **asdict(adapter)},
    }


def _described(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "pictures": len(dataset.records),
        "fingerprint": dataset.fingerprint(),
    }
