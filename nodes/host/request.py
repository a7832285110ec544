"""What a graph asks to be trained, checked before any work."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from ...bundles.manifest import check_name
from ...training.adapters import AdapterConfig
from ...training.concepts import Concept, check_class_words, check_concepts
from ...training.dataset.buckets import bucket_sizes
from ...training.dataset.records import Dataset
from ...training.loop import TrainConfig
from ...training.objective import Prior
from ...training.optimizers import check_installed
from ...training.schedule import rate_factor
from .folders import checked_run_name


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a graph asks to be trained."""

    dataset: Dataset
    config: TrainConfig
    concepts: tuple[Concept, ...] = ()
    adapter: AdapterConfig | None = None
    class_dataset: Dataset | None = None
    resolution: int = 512
    checkpointing: bool = True
    run_name: str = "concept"
    checkpoint_every: int = 250
    """Steps between checkpoints; 0 keeps one at the end and on Cancel alone."""
    node: str = ""
    """Execution id of the node that asks, which the editor shows the run on"""

    def checked(self) -> Request:
        """The request ready to run; ValueError, before any work, for what cannot be trained."""
        if self.adapter is None and not self.concepts:
            raise ValueError(
                "Nothing to train: connect concepts, an adapter such as LoRA, or both."
            )
        checked_run_name(self.run_name)
        for concept in self.concepts:
            check_name(concept.final_name)
        check_concepts(self.concepts, self.dataset)
        bucket_sizes(self.resolution)
        if self.config.objective.prior is Prior.PICTURES and self.class_dataset is None:
            raise ValueError(
                "The objective asks for class pictures: connect them to class_dataset, or choose "
                'the prior "base model".'
            )
        if self.config.objective.prior is Prior.BASE:
            check_class_words(self.concepts)
        self._check_packages()
        return replace(self, concepts=self._lasting_concepts())

    def _check_packages(self) -> None:
        """Raise ImportError with the line to run before a step would."""
        rate_factor(self.config.schedule, self.config.warmup_steps, self.config.steps)
        if self.adapter is not None:
            check_installed(self.config.optimizer)
        if self.concepts:
            check_installed(self.config.embedding_optimizer)

    def recipe(self) -> dict[str, Any]:
        """How the run is made, as JSON: the same recipe on the same models is the same run."""
        return {
            "train": asdict(self.config),
            "concepts": [asdict(concept) for concept in self.concepts],
            "adapter": self.adapter
            and {"kind": type(self.adapter).__name__, **asdict(self.adapter)},
            "resolution": self.resolution,
            "dataset": _described(self.dataset),
            "class_dataset": self.class_dataset and _described(self.class_dataset),
        }

    def _lasting_concepts(self) -> tuple[Concept, ...]:
        """Without an adapter nothing can take over at the pivot, so vectors train to the end."""
        if self.adapter is not None:
            return self.concepts
        if all(concept.pivot == 0 for concept in self.concepts):
            raise ValueError(
                "Every concept has pivot 0 and there is no adapter: nothing would train."
            )
        return tuple(replace(c, pivot=1.0 if c.pivot else 0.0) for c in self.concepts)


def _described(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "pictures": len(dataset.records),
        "fingerprint": dataset.fingerprint(),
    }
