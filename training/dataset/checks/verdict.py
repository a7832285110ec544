"""The check of a whole dataset: measured, judged, flagged; a verdict with reasons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from torch import Tensor

from ..facts import Store
from ..merge import describe
from ..pictures.crops import histogram, plan_crops
from ..records import Dataset, Framing, Record
from .findings import Finding, Level, Material, find_all
from .measure import Measures, alike, measure
from .variety import Variety, described, distinct, feature_variety, hash_variety

NAMED = 8


class Gate(str, Enum):
    """Whether to train on a dataset."""

    READY = "ready"
    WARNINGS = "ready with warnings"
    NOT_READY = "not ready"


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """What a check found."""

    dataset: Dataset
    """Without the pictures that cannot be decoded, each flagged with what was found."""
    findings: tuple[Finding, ...]
    report: str

    @property
    def gate(self) -> Gate:
        """Errors decide first."""
        levels = {finding.level for finding in self.findings}
        if Level.ERROR in levels:
            return Gate.NOT_READY
        return Gate.WARNINGS if Level.WARNING in levels else Gate.READY


def measured(dataset: Dataset, store: Store) -> Iterator[Measures]:
    """The measures of every picture, one after the other; those in the store decode nothing."""
    for record in dataset.records:
        yield measure(record, store)
    store.flush()


def examine(
    dataset: Dataset,
    measures: Sequence[Measures],
    framing: Framing,
    placeholders: Sequence[str] = (),
    count_tokens: Callable[[str], int] | None = None,
    features: Sequence[Tensor] | None = None,
) -> Health:
    """Judge a measured dataset; a picture that cannot be decoded is left out with a sentence.

    `features` are those of a vision model, (d) for each picture of the dataset.
    """
    kept = [i for i, one in enumerate(measures) if not one.error]
    records = [dataset.records[i] for i in kept]
    good = [measures[i] for i in kept]
    broken = tuple(one.error for one in measures if one.error)
    crops = [each[0] for each in plan_crops(records, framing)]
    clusters = alike(good)
    compared = distinct(good, clusters)
    material = Material(
        records=records,
        measures=good,
        crops=crops,
        placeholders=placeholders,
        count_tokens=count_tokens,
        clusters=clusters,
        compared=compared,
        variety=hash_variety(good, compared),
    )
    left_out = [_left_out(text) for text in (*dataset.skipped, *broken)]
    findings = (*find_all(material), *left_out)
    flagged = replace(
        dataset, records=tuple(_flagged(records, findings)), skipped=(*dataset.skipped, *broken)
    )
    health = Health(dataset=flagged, findings=findings, report="")
    likeness = _likeness(material, None if features is None else [features[i] for i in kept])
    about = [describe(dataset), *likeness]
    report = "\n".join([_verdict(health), "", *about, "", "buckets", histogram(crops)])
    return replace(health, report=report)


def _likeness(material: Material, features: Sequence[Tensor] | None) -> Iterator[str]:
    """A line for each way in which the pictures were compared with each other."""
    found: dict[str, Variety | None] = {"light and dark": material.variety}
    if features is not None:
        found["the vision model"] = feature_variety(features, material.compared)
    names = [material.records[i] for i in material.compared]
    for by, one in found.items():
        if one is not None:
            yield described(one, names, by)


def _left_out(text: str) -> Finding:
    return Finding("left_out", Level.WARNING, text)


def _flagged(records: Sequence[Record], findings: Sequence[Finding]) -> Iterator[Record]:
    flags: dict[str, list[str]] = defaultdict(list)
    for finding in findings:
        for name in finding.names:
            flags[name].append(finding.flag)
    for record in records:
        yield replace(record, flags=tuple(dict.fromkeys(flags[record.name])))


def _verdict(health: Health) -> str:
    """The gate, then a line for each finding with the first names."""
    lines = [health.gate.value]
    for finding in health.findings:
        shown = ", ".join(finding.names[:NAMED])
        more = f" and {len(finding.names) - NAMED} more" if len(finding.names) > NAMED else ""
        own = f": {shown}{more}" if finding.names and finding.names[0] not in finding.text else ""
        lines.append(f"{finding.level.value}: {finding.text}{own}")
    return "\n".join(lines)
