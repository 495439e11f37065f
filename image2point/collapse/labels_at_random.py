"""What a measure is where labels mean nothing: the same features with their labels permuted.

At few samples per class, uncorrected measures say more of the number of samples, classes and features than of the
network. Their null, at the same numbers, is what to hold them against: a value that its null also has says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from image2point.collapse.centres import CentreDecisions
from image2point.collapse.directional import DirectionalSpread
from image2point.collapse.inputs import StatisticsError, as_float64, check_labelled
from image2point.collapse.metrics import GROUPS, metrics
from image2point.collapse.statistics import Statistics

PERMUTATIONS = 20
BIASED = (
    "nc1", "nc1_raw", "nc1_trace_ratio", "cdnv", "discrimination", "min_class_distance", "nc2_equinorm",
    "nc2_equiangle", "nc2_etf", "nc3", "ncc_accuracy",
    "cdnv_directional",
)  # fmt: skip
"""Measures that depend on the number of samples, classes or features, and so are shown beside their null."""
DEFAULT = ("nc1", "nc1_trace_ratio", "cdnv", "cdnv_directional", "ncc_accuracy")
_NEED_SCATTER = {name for group in GROUPS for name in group.names if group.needs == "pooled"}
_WITHOUT_CLASSIFIER = {name for group in GROUPS for name in group.names if group.needs != "classifier"}


@torch.no_grad()
def measure_features(features: Any, labels: Any, names: Sequence[str] = DEFAULT) -> dict[str, float]:
    """Measures of features [n, d] with labels [n], by name: those of `metrics` that need no classifier, `ncc_accuracy`.

    `cdnv_directional` takes a second pass rather than all class covariances. The nearest class mean is that of these
    very samples, so that `ncc_accuracy` is too high; see `few_shot` and `linear_probe` for held-out ones.

    StatisticsError: an unknown name; features or labels that `Statistics` does not take.

    >>> measure_features([[0.0], [2.0], [3.0], [5.0]], [0, 0, 1, 1], ["cdnv", "ncc_accuracy"])
    {'cdnv': 0.1111111111111111, 'ncc_accuracy': 1.0}
    """
    _check_names(names)
    features, labels = check_labelled(features, labels)
    covariance = "pooled" if _NEED_SCATTER & set(names) else "none"
    S = Statistics(1 + int(labels.max()) if len(labels) else 1, features.shape[1], covariance, features.device)
    return _measured(S.update(features, labels), features, labels, names)


def _check_names(names: Sequence[str], with_classifier: bool = False) -> None:
    known = _WITHOUT_CLASSIFIER | {"ncc_accuracy"} | ({"nc3"} if with_classifier else set())
    if unknown := sorted(set(names) - known):
        without = "" if with_classifier else " without a classifier"
        raise StatisticsError(f"unknown measure {', '.join(unknown)}; known{without}: {', '.join(sorted(known))}")


def _measured(
    S: Statistics, x: Tensor, labels: Tensor, names: Sequence[str], classifier: tuple[Any, Any | None] | None = None
) -> dict[str, float]:
    """Measures of features x with labels, whose statistics are S."""
    found = metrics(S, classifier, [name for name in names if name not in ("cdnv_directional", "ncc_accuracy")])
    if "cdnv_directional" in names:
        found["cdnv_directional"] = DirectionalSpread(S.means).update(x, labels).cdnv_directional
    if "ncc_accuracy" in names:
        found["ncc_accuracy"] = CentreDecisions(S.means, count=S.count).update(x, labels).ncc_accuracy
    return {name: found[name] for name in names}


@torch.no_grad()
def null(
    features: Any,
    labels: Any,
    names: Sequence[str] = DEFAULT,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    classifier: tuple[Any, Any | None] | None = None,
    centres: Any | None = None,
) -> dict[str, tuple[float, float]]:
    """(mean, standard deviation) of each measure of features [n, d] over permutations of the labels [n].

    The number of samples of each class stays. Both numbers are about permutations for which the measure is defined:
    (NaN, NaN) where there is none, and a deviation of NaN where there is one.

    A permutation costs one sum over the features and, where a measure needs the scatter, C·d² operations: the scatter
    of all samples is the same for all of them.

    Args:
        names: as for `measure_features`; with a classifier, `nc3` too.
        permutations: 2 or more.
        seed: of the permutations; the same for all measures and for all features of the same samples.
        classifier: (weight [C, d], bias or None), as for `metrics`.
        centres: class means [C, d] of other samples, for `ncc_accuracy`; None takes those of these samples.

    Of noise, 20 classes of n = 10 samples have a CDNV of a little more than (n − 1)/2:

    >>> import torch
    >>> noise = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    >>> mean, deviation = null(noise, torch.arange(200) % 20, ["cdnv"])["cdnv"]
    >>> round(mean, 1), round(deviation, 1)
    (4.7, 0.2)
    """
    if permutations < 2:
        raise StatisticsError(f"permutations: expected 2 or more, found {permutations}")
    _check_names(names, classifier is not None)
    features, labels = check_labelled(features, labels)
    x = as_float64(features, features.device)
    nearest = None
    classes = 1 + int(labels.max()) if len(labels) else 1
    for what, given in (("centres", centres), ("classifier", None if classifier is None else classifier[0])):
        if given is not None and len(given) < classes:
            raise StatisticsError(f"{what}: expected a row for each of the {classes} classes, found {len(given)} rows")
    if "ncc_accuracy" in names and centres is not None:
        nearest = CentreDecisions(centres).nearest(x)
    if classifier is None:  # no measure changes with a rotation, and n samples span no more than n dimensions
        x = _in_their_span(x)
    generator = torch.Generator().manual_seed(seed)
    draws = _Permuted(x, labels, names, classes if classifier is None else len(classifier[0]))
    found = []
    for _ in range(permutations):
        order = torch.randperm(len(labels), generator=generator).to(labels.device)
        permuted = labels[order]
        values = _measured(draws.statistics(permuted), x, permuted, names, classifier)
        if nearest is not None:
            values["ncc_accuracy"] = float((nearest == permuted).double().mean())
        found.append(values)
    return {name: _moments([values[name] for values in found]) for name in names}


def with_nulls(values: Mapping[str, float], nulls: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """The nulls of `values` by name: `NAME_null` and `NAME_null_sd`, and the share of it `NAME_over_null`.

    >>> with_nulls({"cdnv": 1.0}, {"cdnv": (4.0, 0.5)})
    {'cdnv_null': 4.0, 'cdnv_null_sd': 0.5, 'cdnv_over_null': 0.25}
    """
    found: dict[str, float] = {}
    for name, (mean, deviation) in nulls.items():
        found |= {f"{name}_null": mean, f"{name}_null_sd": deviation}
        found[f"{name}_over_null"] = over_null(values[name], mean)
    return found


def over_null(value: float, mean: float) -> float:
    """The share of its null that a measure is; NaN where either is undefined or the null is 0.

    >>> over_null(0.5, 2.0)
    0.25
    """
    return value / mean if math.isfinite(value) and math.isfinite(mean) and mean else math.nan


class _Permuted:
    """Statistics of features x [n, d] under permuted labels, from what no permutation changes."""

    def __init__(self, x: Tensor, labels: Tensor, names: Sequence[str], classes: int) -> None:
        self.classes, self.mean = classes, x.mean(0)
        self.centred = x - self.mean  # class means are near 0 then: what follows loses no digits
        self.norms = self.centred.square().sum(1)
        self.count = torch.bincount(labels, minlength=classes)
        self.scatter = self.centred.mT @ self.centred if _NEED_SCATTER & set(names) else None

    def statistics(self, labels: Tensor) -> Statistics:
        sums = self.centred.new_zeros(self.classes, self.centred.shape[1]).index_add_(0, labels, self.centred)
        means = sums / self.count.clamp(min=1)[:, None]
        norms = self.norms.new_zeros(self.classes).index_add_(0, labels, self.norms)
        squares = (norms - self.count * means.square().sum(1)).clamp(min=0)
        state = {"count": self.count, "mean": (means + self.mean) * (self.count > 0)[:, None], "squares": squares}
        if self.scatter is not None:
            state["scatter"] = torch.addmm(self.scatter, means.mT, sums, alpha=-1)
        return Statistics.from_state(state, self.centred.device)


def _in_their_span(features: Tensor) -> Tensor:
    """Rows of the same inner products, min(n, d) wide."""
    if len(features) >= features.shape[1]:
        return features
    return torch.linalg.qr(features.mT).R.mT


def _moments(values: Sequence[float]) -> tuple[float, float]:
    defined = torch.tensor(values, dtype=torch.float64)
    defined = defined[torch.isfinite(defined)]
    deviation = float(defined.std()) if len(defined) > 1 else torch.nan
    return float(defined.mean()) if len(defined) else torch.nan, deviation
