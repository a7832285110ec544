"""The check of a whole dataset: a verdict with findings, and flags for its pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from torch import Tensor

from ..facts import Store
from ..folder.notes import Notes
from ..merge import describe
from ..pictures.crops import histogram, plan_crops
from ..records import Dataset, Framing, Record
from .findings import Finding, Level, Material, all_findings
from .measure import Measures, measure, near_copies
from .variety import Variety, distinct, feature_variety, hash_variety, variety_line

NAMED = 8


class Gate(str, Enum):
    """Whether a dataset is ready for training."""

    READY = "ready"
    WARNINGS = "ready with warnings"
    NOT_READY = "not ready"


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetVerdict:
    """The result of a check."""

    dataset: Dataset
    """The flagged pictures, without those that cannot be decoded."""
    findings: tuple[Finding, ...]
    report: str

    @property
    def gate(self) -> Gate:
        levels = {finding.level for finding in self.findings}
        if Level.ERROR in levels:
            return Gate.NOT_READY
        return Gate.WARNINGS if Level.WARNING in levels else Gate.READY


def measured(dataset: Dataset, store: Store) -> Iterator[Measures]:
    """The measures of every picture; stored ones are not computed again."""
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
) -> DatasetVerdict:
    """Judge a measured dataset; pictures that cannot be decoded are left out with a sentence.

    `features` are those of a vision model, (d) for each picture of the dataset.
    """
    kept = [i for i, measure in enumerate(measures) if not measure.error]
    records = [dataset.records[i] for i in kept]
    good = [measures[i] for i in kept]
    unread = Notes()
    for record, measured in zip(dataset.records, measures, strict=True):
        if measured.error:
            unread.add(measured.error, record.path.name)
    broken = unread.sentences()
    crops = [each[0] for each in plan_crops(records, framing)]
    clusters = near_copies(good)
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
    findings = (*all_findings(material), *left_out)
    flagged = replace(
        dataset, records=tuple(_flagged(records, findings)), skipped=(*dataset.skipped, *broken)
    )
    verdict = DatasetVerdict(dataset=flagged, findings=findings, report="")
    likeness = _likeness(material, None if features is None else [features[i] for i in kept])
    about = [describe(dataset), *likeness]
    report = "\n".join([_findings_report(verdict), "", *about, "", "buckets", histogram(crops)])
    return replace(verdict, report=report)


def _likeness(material: Material, features: Sequence[Tensor] | None) -> Iterator[str]:
    """One line for each way of comparing the pictures."""
    varieties: dict[str, Variety | None] = {"light and dark": material.variety}
    if features is not None:
        varieties["the vision model"] = feature_variety(features, material.compared)
    records = [material.records[i] for i in material.compared]
    for by, variety in varieties.items():
        if variety is not None:
            yield variety_line(variety, records, by)


def _left_out(text: str) -> Finding:
    return Finding("left_out", Level.WARNING, text)


def _flagged(records: Sequence[Record], findings: Sequence[Finding]) -> Iterator[Record]:
    flags: dict[str, list[str]] = defaultdict(list)
    for finding in findings:
        for name in finding.names:
            flags[name].append(finding.flag)
    for record in records:
        yield replace(record, flags=tuple(dict.fromkeys(flags[record.name])))


def _findings_report(verdict: DatasetVerdict) -> str:
    """The gate, then one line for each finding with the first names."""
    lines = [verdict.gate.value]
    for finding in verdict.findings:
        shown = ", ".join(finding.names[:NAMED])
        more = f" and {len(finding.names) - NAMED} more" if len(finding.names) > NAMED else ""
        own = f": {shown}{more}" if finding.names and finding.names[0] not in finding.text else ""
        lines.append(f"{finding.level.value}: {finding.text}{own}")
    return "\n".join(lines)
