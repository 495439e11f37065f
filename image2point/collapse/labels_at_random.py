"""What a measure is where labels mean nothing: the same features with their labels permuted.

At few samples per class, uncorrected measures say more of the number of samples, classes and features than of the
network. Their null, at the same numbers, is what to hold them against: a value that its null also has says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from image2point.collapse.centres import CentreDecisions
from image2point.collapse.directional import DirectionalSpread
from image2point.collapse.inputs import StatisticsError, as_float64, check_labelled
from image2point.collapse.metrics import GROUPS, metrics
from image2point.collapse.statistics import Statistics

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
    unknown = sorted(set(names) - _WITHOUT_CLASSIFIER - {"ncc_accuracy"})
    if unknown:
        known = ", ".join(sorted(_WITHOUT_CLASSIFIER | {"ncc_accuracy"}))
        raise StatisticsError(f"unknown measure {', '.join(unknown)}; known without a classifier: {known}")
    features, labels = check_labelled(features, labels)
    covariance = "pooled" if _NEED_SCATTER & set(names) else "none"
    S = Statistics(1 + int(labels.max()) if len(labels) else 1, features.shape[1], covariance, features.device)
    S.update(features, labels)
    found = metrics(S, ask=[name for name in names if name not in ("cdnv_directional", "ncc_accuracy")])
    if "cdnv_directional" in names:
        found["cdnv_directional"] = DirectionalSpread(S.means).update(features, labels).cdnv_directional
    if "ncc_accuracy" in names:
        found["ncc_accuracy"] = CentreDecisions(S.means, count=S.count).update(features, labels).ncc_accuracy
    return {name: found[name] for name in names}


@torch.no_grad()
def null(
    features: Any, labels: Any, names: Sequence[str] = DEFAULT, permutations: int = 20, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """(mean, standard deviation) of each measure of features [n, d] over permutations of the labels [n].

    The number of samples of each class stays. Both numbers are about permutations for which the measure is defined:
    (NaN, NaN) where there is none, and a deviation of NaN where there is one.

    Args:
        names: as for `measure_features`.
        permutations: 2 or more.
        seed: of the permutations; the same for all measures and for all features of the same samples.

    Of noise, 20 classes of n = 10 samples have a CDNV of a little more than (n − 1)/2:

    >>> import torch
    >>> noise = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    >>> mean, deviation = null(noise, torch.arange(200) % 20, ["cdnv"])["cdnv"]
    >>> round(mean, 1), round(deviation, 1)
    (4.7, 0.2)
    """
    if permutations < 2:
        raise StatisticsError(f"permutations: expected 2 or more, found {permutations}")
    features, labels = check_labelled(features, labels)
    # No measure changes with a rotation, and so many samples span no more dimensions than there are of them.
    features = _in_their_span(as_float64(features, features.device))
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(labels), generator=generator).to(labels.device) for _ in range(permutations)]
    drawn = [measure_features(features, labels[order], names) for order in orders]
    return {name: _moments([found[name] for found in drawn]) for name in names}


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
