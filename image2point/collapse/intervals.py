"""How far a measured number can be trusted: the grouped jackknife over mergeable parts.

Samples are dealt into G parts, and each number is computed again with one part left out. How much it moves says
how much it would move on other samples: no formula for its variance is needed, and no second pass over features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from image2point.collapse.inputs import StatisticsError, as_tensor
from image2point.collapse.metrics import metrics
from image2point.collapse.statistics import Statistics

# Counts have no error, and the jackknife is inconsistent for extremes and integers, which move in jumps.
NOT_SMOOTH = frozenset(
    [
        "samples",
        "present",
        "absent",
        "singletons",
        "contributing",
        "between_rank",
        "rank_95",
        "cdnv_corrected_undefined",
    ]
) | {"min_class_distance", "discrimination"}


@dataclass(frozen=True)
class Interval:
    """A value with its standard error and the interval that covers the truth with the confidence asked for."""

    value: float
    error: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "undefined"
        return f"{self.value:.4g}" + ("" if math.isnan(self.error) else f" ± {self.error:.2g}")


class Mergeable(Protocol):
    def merge(self, other: Any, /) -> Any: ...


Part = TypeVar("Part", bound=Mergeable)


def jackknife(
    parts: Sequence[Part],
    compute: Callable[[Part], Mapping[str, float]],
    sizes: Sequence[float],
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Intervals of `compute(all parts merged)` by leaving out one of G ≥ 2 parts at a time.

    `sizes` are the numbers of samples in the parts, m_g of n. With h_g = n/m_g and θ_(g) the number without part
    g, the pseudo-values h_g θ − (h_g − 1) θ_(g) have the variance (1/G) Σ (· − their weighted mean)² / (h_g − 1),
    which for equal parts is the usual (G−1)/G Σ (θ_(g) − mean)². The interval is θ ± t·error, t of G−1 degrees of
    freedom: use 10 parts or more. Not for counts, minima and maxima (see `NOT_SMOOTH`).

    Source: Busing, Meijer and van der Leeden 1999 (delete-m_j jackknife).
    """
    _check_parts(parts, sizes)
    whole, without = _leave_one_out(parts, compute)
    count, n = len(parts), float(sum(sizes))
    reach = student_quantile(0.5 + confidence / 2, count - 1)
    found = {}
    for name, value in whole.items():
        ratio = [n / size for size in sizes]
        others = [other[name] for other in without]
        pseudo = [h * value - (h - 1) * other for h, other in zip(ratio, others, strict=True)]
        centre = sum(p / h for p, h in zip(pseudo, ratio, strict=True))
        variance = sum((p - centre) ** 2 / (h - 1) for p, h in zip(pseudo, ratio, strict=True)) / count
        error = math.sqrt(variance)
        found[name] = Interval(value, error, value - reach * error, value + reach * error)
    return found


def metric_intervals(
    parts: Sequence[Statistics],
    classifier: tuple[Any, Any | None] | None = None,
    ask: str | Sequence[str] | None = None,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """`metrics` of the merged parts, each with its jackknife interval.

    Every class should occur in every part (`deal` sees to it), and must occur in two at least. The intervals are
    about the samples: classes and classifier are taken as given. Of `NOT_SMOOTH`, nothing is returned, and asking
    for one of them is an error. A metric that is undefined without some part has an undefined (NaN) interval.
    """
    asked = [] if ask is None else [ask] if isinstance(ask, str) else list(ask)
    jumping = sorted(NOT_SMOOTH & set(asked))
    if jumping:
        raise StatisticsError(
            f"{', '.join(jumping)}: no interval; the jackknife is inconsistent for counts, minima and maxima"
        )
    sizes = [int(part.count.sum()) for part in parts]
    _check_parts(parts, sizes)
    occurs = torch.stack([part.count > 0 for part in parts]).sum(0)
    for c in (occurs == 1).nonzero()[:, 0].tolist():
        raise StatisticsError(
            f"class {c} occurs in one part only: without it, the metrics would be about other classes; "
            "deal the samples of each class over the parts"
        )
    count = torch.stack([part.count for part in parts])
    left = count.sum(0) - count
    for c in ((count.sum(0) > 1) & (left < 2).any(0)).nonzero()[:, 0].tolist():
        raise StatisticsError(
            f"class {c} has a single sample, and so no variance, where one part is left out: without it, the metrics "
            "would be about other classes; an interval needs at least 3 samples of each class, dealt over the parts"
        )

    def smooth(S: Statistics) -> dict[str, float]:
        found = metrics(S, classifier, ask)
        return {name: value for name, value in found.items() if name not in NOT_SMOOTH}

    return jackknife(parts, smooth, sizes, confidence)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of independent values (episodes, seeds) with Student's interval, undefined (NaN) for a single one."""
    count = len(values)
    if not count:
        raise StatisticsError("expected at least one value, found none")
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, math.nan, math.nan, math.nan)
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)
    reach = student_quantile(0.5 + confidence / 2, count - 1) * error
    return Interval(mean, error, mean - reach, mean + reach)


def deal(labels: Any, parts: int, seed: int = 0) -> Tensor:
    """Which part 0..parts−1 each sample goes to, int64 [n]: at random, each class as evenly as it goes."""
    labels = as_tensor(labels, "labels").cpu()
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = shuffled[labels[shuffled].argsort(stable=True)]
    part = torch.empty(len(labels), dtype=torch.int64)
    part[order] = torch.arange(len(labels)) % parts  # one round of dealing after the other, class by class
    return part


def _check_parts(parts: Sequence[Any], sizes: Sequence[float]) -> None:
    if len(parts) < 2 or len(sizes) != len(parts) or min(sizes) <= 0:
        raise StatisticsError(
            f"the jackknife leaves one part out: expected 2 or more parts, none of them empty, and the size of each; "
            f"found {len(parts)} parts, of sizes {[float(size) for size in sizes]}"
        )


def _leave_one_out(
    parts: Sequence[Part], compute: Callable[[Part], Mapping[str, float]]
) -> tuple[Mapping[str, float], list[Mapping[str, float]]]:
    """(of all, of all but each): O(G) merges, since what comes after each part is merged once and kept."""
    after = [parts[-1]]
    for part in reversed(parts[1:-1]):
        after.append(part.merge(after[-1]))
    without = [compute(after[-1])]
    before = parts[0]
    for k in range(1, len(parts)):
        after.pop()
        without.append(compute(before.merge(after[-1]) if after else before))
        before = before.merge(parts[k])
    return compute(before), without


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t law, 0.5 ≤ probability < 1, whole degrees of freedom ≥ 1.

    Source: the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4, inverted by bisection.
    """
    low, high = 0.0, 1.0
    while _student_cdf(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if _student_cdf(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return high


def _student_cdf(t: float, freedom: int) -> float:
    if freedom > 1000:  # the sums are long, and the two laws differ by less than 1e-3 of t
        return NormalDist().cdf(t * (1 - 1 / (4 * freedom)) / math.sqrt(1 + t * t / (2 * freedom)))
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom % 2:
        term, total = cosine, cosine if freedom > 1 else 0.0
        for k in range(3, freedom - 1, 2):
            term *= cosine**2 * (k - 1) / k
            total += term
        return 0.5 + (angle + sine * total) / math.pi
    term = total = 1.0
    for k in range(2, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 0.5 + sine * total / 2
