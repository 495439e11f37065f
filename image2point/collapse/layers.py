"""Collapse at several layers at once: each measure of each layer, with its interval, from passes over the features.

Features come from a `Source`, a function that begins a pass: it yields, per batch, for each layer the rows of features
and which sample each row belongs to. A layer may have one row per sample (a feature map averaged over space) or many
(its pixels or voxels). Samples, not rows, are dealt over the parts of the jackknife, since rows of one sample are
anything but independent.

One pass gives what `Statistics` support. What needs the class means first takes another: nearest-centre decisions
(`ncc_accuracy`, `nc4`) one, `cdnv_directional` one. They go over features that were `kept`, or make them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from image2point.collapse.centres import CentreDecisions
from image2point.collapse.directional import DirectionalSpread
from image2point.collapse.inputs import StatisticsError, as_tensor, check_labels
from image2point.collapse.intervals import METHODS, SHARES, Interval, deal, metric_intervals, share_interval
from image2point.collapse.labels_at_random import BIASED, null
from image2point.collapse.metrics import GROUPS, metrics
from image2point.collapse.statistics import Statistics

Rows = tuple[Tensor, Tensor]
"""Features [m, d], and the index of the sample that each row belongs to, int64 [m]."""

Source = Callable[[], Iterable[Mapping[str, Rows]]]
Classifier = tuple[Any, Any]

DECISIONS = ("ncc_accuracy", "nc4")
DIRECTIONAL = ("cdnv_directional",)
DEFAULT = (
    "nc1", "nc1_trace_ratio", "nc1_trace_ratio_corrected", "cdnv", "cdnv_corrected", "cdnv_corrected_undefined",
    "cdnv_median", "discrimination", "nc2_equinorm", "nc2_equiangle", "min_class_distance", "ncc_accuracy",
)  # fmt: skip
WITH_CLASSIFIER = ("nc3", "nc4")
KNOWN = (*(name for group in GROUPS for name in group.names), *DECISIONS)
NEED_CLASSIFIER = {"nc4"} | {name for group in GROUPS for name in group.names if group.needs == "classifier"}
NEED_SCATTER = {name for group in GROUPS for name in group.names if group.needs == "pooled"}

BUFFER = 2048
"""Rows that wait before they are added: few updates of many rows cost less than many of a few."""

Part = TypeVar("Part", Statistics, CentreDecisions, DirectionalSpread)


@dataclass(frozen=True)
class LayerMeasures:
    """The measures of one layer.

    Attributes:
        values: every measure that was asked for.
        intervals: over samples, of those that have one (`intervals.METHODS`, and shares where `centres` are given);
            empty where a class has one or two samples.
        means: class means [C, d], NaN for a class without samples.
        count: rows of each class [C].
        nulls: (mean, deviation) under permuted labels, of the measures in `BIASED`, where permutations were asked for.
    """

    values: dict[str, float]
    intervals: dict[str, Interval]
    means: Tensor
    count: Tensor
    nulls: dict[str, tuple[float, float]] = field(default_factory=dict)


def kept(source: Source) -> Source:
    """The same features, held in memory from now on: later passes cost no forward pass."""
    batches = [dict(batch) for batch in source()]
    return lambda: batches


def gathered(source: Source) -> dict[str, Tensor]:
    """All features of each layer [n, d] in the order of the samples, for layers with one row per sample."""
    parts: dict[str, list[Rows]] = {}
    for batch in source():
        for name, rows in batch.items():
            parts.setdefault(name, []).append(rows)
    result = {}
    for name, each in parts.items():
        features, samples = torch.cat([f for f, _ in each]), torch.cat([s for _, s in each])
        order = samples.argsort()
        if not torch.equal(samples[order], torch.arange(len(samples))):
            raise StatisticsError(f"layer {name}: expected one row for each sample, found {len(samples)} rows")
        result[name] = features[order]
    return result


def measure_layers(
    source: Source,
    labels: Any,
    num_classes: int,
    ask: Sequence[str] | None = None,
    classifiers: Mapping[str, Classifier] | None = None,
    centres: Mapping[str, Tensor] | None = None,
    parts: int = 10,
    confidence: float = 0.95,
    seed: int = 0,
    permutations: int = 0,
) -> dict[str, LayerMeasures]:
    """Measure every layer that `source` gives.

    Args:
        labels: class of each sample, [n].
        ask: names of measures (`KNOWN`); None takes `DEFAULT`, and `WITH_CLASSIFIER` where there is one.
        classifiers: (weight, bias) of the linear layer that reads a layer, by its name: for NC2 of it, NC3 and NC4,
            which other layers do not have.
        centres: class means [C, d] by layer for the nearest-centre decisions, usually those of the training set;
            None takes the means of these samples. They count as given: intervals are about the samples here.
        parts: of the jackknife; fewer where the smallest class has fewer samples, and no intervals where it has one or
            two, since without a part nothing would be left to vary.
        permutations: of the labels, for the null of each measure that has one (`collapse.null`); 0 for none. It holds
            all features in memory, and needs layers with one row per sample.

    Raises:
        StatisticsError: as from `Statistics`; an unknown measure; one that needs a classifier where no layer has one.

    >>> features, labels = torch.tensor([[0.0], [2.0], [3.0], [5.0]]), torch.tensor([0, 0, 1, 1])
    >>> found = measure_layers(lambda: [{"last": (features, torch.arange(4))}], labels, 2, ["cdnv", "ncc_accuracy"])
    >>> {name: round(value, 3) for name, value in found["last"].values.items()}
    {'cdnv': 0.111, 'ncc_accuracy': 1.0}
    """
    labels = as_tensor(labels, "labels").cpu()
    labels = check_labels(labels, len(labels), num_classes)
    dealt = _deal(labels, parts, seed)
    wanted = _Wanted(ask, classifiers or {})

    def statistics(name: str, dim: int) -> Statistics:
        return Statistics(num_classes, dim, wanted.covariance(name))

    found = {}
    for name, each in _pass(source, dealt, statistics, lambda S, _, h, i: S.update(h, labels[i])).items():
        found[name] = _measures(each, wanted.of_statistics(name), wanted.classifiers.get(name), confidence)

    deciding = {name for name in found if wanted.of(name, DECISIONS)}
    if deciding:
        given = centres or {}

        def centres_of(name: str) -> CentreDecisions:
            if name in given:
                return CentreDecisions(given[name])
            return CentreDecisions(found[name].means, count=found[name].count)

        def decide(D: CentreDecisions, name: str, h: Tensor, i: Tensor) -> None:
            D.update(h, labels[i], wanted.logits(name, h))

        decisions = _pass(source, dealt, lambda name, _: centres_of(name), decide, deciding)
        for name, own in decisions.items():
            _add(found[name], own, wanted.of(name, DECISIONS))
            if name in given:  # samples that made the centres are nearer to them than others: no interval
                for share in wanted.of(name, SHARES):
                    found[name].intervals[share] = share_interval(found[name].values[share], len(labels), confidence)

    directed = {name for name in found if wanted.of(name, DIRECTIONAL)}
    if directed:
        spreads = _pass(
            source, dealt, lambda name, _: DirectionalSpread(found[name].means),
            lambda D, _, h, i: D.update(h, labels[i]), directed,
        )  # fmt: skip
        for name, spread in spreads.items():
            _add(found[name], spread, DIRECTIONAL)
    for name, features in gathered(source).items() if permutations else ():
        biased = [each for each in wanted.of(name) if each in BIASED]
        classifier = wanted.classifiers.get(name) if "nc3" in biased else None
        if biased:
            told = null(features, labels, biased, permutations, seed, classifier, (centres or {}).get(name))
            found[name].nulls.update(told)
    return found


@dataclass(frozen=True)
class _Wanted:
    """What is asked of each layer."""

    ask: Sequence[str] | None
    classifiers: Mapping[str, Classifier]

    def __post_init__(self) -> None:
        unknown = sorted(set(self.ask or ()) - set(KNOWN))
        if unknown:
            raise StatisticsError(f"unknown measure {', '.join(unknown)}; known: {', '.join(KNOWN)}")
        lacking = sorted(set(self.ask or ()) & NEED_CLASSIFIER)
        if lacking and not self.classifiers:
            raise StatisticsError(f"{', '.join(lacking)}: no layer has a classifier")

    def of(self, name: str, among: Sequence[str] = KNOWN) -> list[str]:
        asked = self.ask if self.ask is not None else (*DEFAULT, *WITH_CLASSIFIER)
        return [each for each in asked if each in among and (name in self.classifiers or each not in NEED_CLASSIFIER)]

    def of_statistics(self, name: str) -> list[str]:
        return [each for each in self.of(name) if each not in (*DECISIONS, *DIRECTIONAL)]

    def covariance(self, name: str) -> str:
        return "pooled" if NEED_SCATTER & set(self.of(name)) else "none"

    def logits(self, name: str, features: Tensor) -> Tensor | None:
        if "nc4" not in self.of(name):
            return None
        weight, bias = (None if each is None else as_tensor(each, name).to(features) for each in self.classifiers[name])
        return torch.nn.functional.linear(features, weight, bias)  # type: ignore[arg-type]


def _deal(labels: Tensor, parts: int, seed: int) -> Tensor:
    """Part of each sample [n], such that two samples of each class are left without any part; or one part for all."""
    count = torch.bincount(labels)
    smallest = int(count[count > 0].min()) if len(labels) else 0
    parts = min(parts, smallest) if smallest > 2 else 1
    return deal(labels, parts, seed) if parts > 1 else torch.zeros(len(labels), dtype=torch.int64)


def _pass(
    source: Source,
    dealt: Tensor,
    make: Callable[[str, int], Part],
    update: Callable[[Part, str, Tensor, Tensor], object],
    names: Iterable[str] | None = None,
) -> dict[str, list[Part]]:
    """One pass: for each layer (of `names`) a list of parts, made by (name, width), updated by (part, name, rows)."""
    chosen = None if names is None else set(names)
    result: dict[str, list[Part]] = {}
    waiting: dict[str, list[Rows]] = {}

    def flush(name: str) -> None:
        features = torch.cat([f for f, _ in waiting[name]])
        samples = torch.cat([s for _, s in waiting.pop(name)])
        if name not in result:
            result[name] = [make(name, features.shape[1]) for _ in range(int(dealt.max()) + 1)]
        where = dealt[samples]
        for g in where.unique().tolist():
            own = where == g
            update(result[name][g], name, features[own], samples[own])

    for batch in source():
        for name, (features, samples) in batch.items():
            if chosen is None or name in chosen:
                waiting.setdefault(name, []).append((features, samples.cpu()))
                if sum(len(s) for _, s in waiting[name]) >= BUFFER:
                    flush(name)
    for name in list(waiting):
        flush(name)
    return result


def _measures(
    parts: Sequence[Statistics], ask: Sequence[str], classifier: Classifier | None, confidence: float
) -> LayerMeasures:
    whole = _merged(parts)
    covered = [name for name in ask if name in METHODS]
    values = metrics(whole, classifier, ask)
    intervals = metric_intervals(parts, covered, confidence) if len(parts) > 1 and covered else {}
    values.update({name: interval.value for name, interval in intervals.items()})
    return LayerMeasures(values, intervals, whole.means.cpu(), whole.count.cpu())


def _add(found: LayerMeasures, parts: Sequence[Any], ask: Sequence[str]) -> None:
    """Put measures of a second pass, which are attributes of the merged parts, beside those of the first."""
    whole = _merged(parts)
    found.values.update({name: float(getattr(whole, name)) for name in ask})


def _merged(parts: Sequence[Part]) -> Part:
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    return whole
