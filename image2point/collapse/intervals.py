"""How far a measured number can be trusted: the grouped jackknife over mergeable parts.

Samples are dealt into G parts, and each number is computed again with one part left out. How much it moves says
how much it would move on other samples: no formula for its variance is needed, and no second pass over features.

An interval says what it speaks for (`Interval.over`): other "samples" of the same classes, other "classes", other
"episodes" of the same pool, other "seeds", other "scenes" (`bootstrap`). Measures have one only where simulation shows
that it covers (`scripts/interval_calibration.py`): plug-in measures such as NC1 and CDNV are off by their bias at few
samples, which no error bar shows; hold them against their null (`labels_at_random.null`).
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

METHODS = {
    "cdnv_corrected": "log",
    "cdnv_median": "inverse",
    "nc1_trace_ratio_corrected": "inverse",
    "vci_corrected": "centred",
}
"""Metrics that have an interval, and how it is found: "log" from the jackknife of the logarithm, "inverse" from that of
1/value, which is defined where the value is not, "centred" about the value that the jackknife corrects for its bias."""
SHARES = ("ncc_accuracy", "nc4")
"""Measures of `CentreDecisions` that have one (`share_interval`) where the centres are those of other samples."""


@dataclass(frozen=True)
class Interval:
    """A value with its standard error, and limits that hold the truth with the confidence asked for; NaN is undefined.

    `over` says what else it speaks for: "samples", "classes", "episodes", "seeds" or "scenes".

    >>> print(Interval(0.71, 0.02, 0.66, 0.76, over="classes"))
    0.71 ± 0.02 over classes
    """

    value: float
    error: float
    low: float
    high: float
    over: str = ""

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "undefined"
        if math.isnan(self.error):
            return f"{self.value:.4g}"
        return f"{self.value:.4g} ± {self.error:.2g}" + (f" over {self.over}" if self.over else "")


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
    freedom: use 10 parts or more. Not for counts, minima and maxima, in which the jackknife is inconsistent, nor for
    what is biased at few samples. Undefined (NaN) where a number is without some part, or where none moves, as for a
    share of 0 or 1: that nothing was seen to vary does not make it certain.

    Source: Busing, Meijer and van der Leeden 1999 (delete-m_j jackknife).

    >>> parts = [Statistics(1, 1).update([[float(x)], [x + 2.0]], [0, 0]) for x in range(5)]
    >>> print(jackknife(parts, lambda S: {"mean": float(S.mean)}, [2] * 5)["mean"])
    3 ± 0.71 over samples
    """
    _check_parts(parts, sizes)
    whole, without = _leave_one_out(parts, compute)
    found = {}
    for name, value in whole.items():
        _, error = _pseudo_moments(value, [other[name] for other in without], sizes)
        found[name] = _about(value, error or math.nan, len(parts), confidence)
    return found


def _pseudo_moments(value: float, others: Sequence[float], sizes: Sequence[float]) -> tuple[float, float]:
    """The weighted mean of the pseudo-values, which is `value` less its bias, and its standard error."""
    ratio = [float(sum(sizes)) / size for size in sizes]
    pseudo = [h * value - (h - 1) * other for h, other in zip(ratio, others, strict=True)]
    centre = sum(p / h for p, h in zip(pseudo, ratio, strict=True))
    variance = sum((p - centre) ** 2 / (h - 1) for p, h in zip(pseudo, ratio, strict=True)) / len(others)
    return centre, math.sqrt(variance)


def _about(value: float, error: float, parts: int, confidence: float) -> Interval:
    reach = student_quantile(check_confidence(confidence), parts - 1) * error
    return Interval(value, error, value - reach, value + reach, "samples")


def metric_intervals(
    parts: Sequence[Statistics],
    ask: str | Sequence[str] | None = None,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """`metrics` of the merged parts, each with its jackknife interval over samples: those of `METHODS`.

    Every class should occur in every part (`deal` sees to it), and keep two samples without any of them. Classes are
    taken as given. `ask` None takes what `parts` support; asking for a metric without an interval is an error. A metric
    that is undefined without some part has an undefined (NaN) interval; the upper limit of an "inverse" one is infinite
    where the data do not exclude that nothing separates the classes.

    >>> x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> labels = torch.arange(60) % 3
    >>> part = deal(labels, 10)
    >>> parts = [Statistics(3, 4).update((x + 3 * labels[:, None])[part == g], labels[part == g]) for g in range(10)]
    >>> print(metric_intervals(parts, ask="cdnv_median")["cdnv_median"])
    0.1215 ± 0.021 over samples
    """
    check_confidence(confidence)
    asked = [ask] if isinstance(ask, str) else list(ask if ask is not None else METHODS)
    if ask is None and all(part.covariance == "none" for part in parts):
        asked.remove("vci_corrected")
    without_interval = sorted(set(asked) - set(METHODS))
    if without_interval:
        raise StatisticsError(
            f"{', '.join(without_interval)}: no interval that would cover; there is one of {', '.join(METHODS)}"
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

    read = {
        name: f"{name.removesuffix('_corrected')}_inverse" if METHODS[name] == "inverse" else name for name in asked
    }
    whole, without = _leave_one_out(parts, lambda S: metrics(S, ask=list(read.values())))
    return {
        name: _interval(METHODS[name], whole[key], [other[key] for other in without], sizes, confidence)
        for name, key in read.items()
    }


def _interval(
    method: str, value: float, others: Sequence[float], sizes: Sequence[float], confidence: float
) -> Interval:
    if method == "log":
        if not (value > 0 and all(other > 0 for other in others)):
            return Interval(value, math.nan, math.nan, math.nan, "samples")
        _, error = _pseudo_moments(math.log(value), [math.log(other) for other in others], sizes)
        there = _about(math.log(value), error, len(others), confidence)
        return Interval(value, value * error, math.exp(there.low), math.exp(there.high), "samples")
    centre, error = _pseudo_moments(value, others, sizes)
    there = _about(centre if method == "centred" else value, error, len(others), confidence)
    if method == "centred":
        return there
    low, high = (1 / limit if limit > 0 else math.inf for limit in (there.high, there.low))
    if not there.value > 0:
        return Interval(math.nan, math.nan, low, high, "samples")
    return Interval(1 / there.value, there.error / there.value**2, low, high, "samples")


def share_interval(value: float, samples: int, confidence: float = 0.95) -> Interval:
    """A share of independent samples, 0..1, with an interval of positive width even where none or all count.

    That of Agresti and Coull: as many successes and failures are added as make Wilson's interval simple, and never
    narrower. (Wilson's own covers .86 of nominal .95 for shares near 1.) Where each sample contributes a share of its
    own (of its voxels, say), it is too wide rather than too narrow. `error` is half the width over the normal quantile.

    Source: Agresti and Coull 1998.

    >>> interval = share_interval(1.0, 20)
    >>> round(interval.low, 3), interval.high, round(interval.error, 3)
    (0.81, 1.0, 0.056)
    """
    z = NormalDist().inv_cdf(check_confidence(confidence))
    if value < 0 or value > 1 or samples < 1:
        raise StatisticsError(f"expected a share, 0..1, of 1 sample or more, found {value} of {samples}")
    if math.isnan(value):
        return Interval(value, math.nan, math.nan, math.nan, "samples")
    count = samples + z * z
    middle = (value * samples + z * z / 2) / count
    error = math.sqrt(middle * (1 - middle) / count)
    return Interval(value, error, max(0.0, middle - z * error), min(1.0, middle + z * error), "samples")


def mean_interval(values: Sequence[float], confidence: float = 0.95, over: str = "seeds") -> Interval:
    """The mean of independent values, one for each of what it is `over`, with Student's interval.

    Undefined (NaN) for a single value. StatisticsError for none. Positive quantities of a skewed law: give logarithms.

    >>> print(mean_interval([0.70, 0.72, 0.71]))
    0.71 ± 0.0058 over seeds
    """
    count, upper = len(values), check_confidence(confidence)
    if not count:
        raise StatisticsError("expected at least one value, found none")
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, math.nan, math.nan, math.nan, over)
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)
    reach = student_quantile(upper, count - 1) * error
    return Interval(mean, error, mean - reach, mean + reach, over)


def deal(labels: Any, parts: int, seed: int = 0) -> Tensor:
    """Which part 0..parts−1 each sample goes to, int64 [n]: at random, each class as evenly as it goes.

    >>> deal([0, 0, 0, 0, 1, 1], 2).bincount().tolist()
    [3, 3]
    """
    if parts < 1:
        raise StatisticsError(f"parts: expected 1 or more, found {parts}")
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


def check_confidence(confidence: float) -> float:
    """The probability below the upper limit of an interval; StatisticsError unless 0 < `confidence` < 1.

    >>> check_confidence(0.95)
    0.975
    """
    upper = 0.5 + confidence / 2
    if not 0.5 < upper < 1:
        raise StatisticsError(f"confidence: expected a number between 0 and 1, such as 0.95, found {confidence}")
    return upper


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t law, 0.5 ≤ probability < 1, whole degrees of freedom ≥ 1.

    Source: the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4, inverted by bisection.

    >>> round(student_quantile(0.975, 9), 4)
    2.2622
    """
    if not (0.5 <= probability < 1 and freedom >= 1):
        raise StatisticsError(
            f"Student's law: expected a probability in [0.5, 1) and 1 degree of freedom or more, found {probability} "
            f"and {freedom}"
        )
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
