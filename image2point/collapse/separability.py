"""Scores of frozen features by how Gaussian classes overlap, and by how much of the features the labels explain.

Both stand beside LogME (`collapse.logme`) as published scores that are to foretell fine-tuning; bigger is better.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from image2point.collapse.inputs import StatisticsError, as_float64, check_labelled
from image2point.collapse.pairs import pair_distances
from image2point.collapse.statistics import Statistics

COMPONENTS = 64
"""Principal components that GBC looks at, as its source does."""
LEAST_VARIANCE = 1e-4
"""Of a class, as a share of the mean variance of one component: a class that does not vary overlaps with nothing."""


@torch.no_grad()
def bhattacharyya(features: Any, labels: Any, components: int = COMPONENTS) -> float:
    """GBC: minus the mean over pairs of classes of exp(−D), D the Bhattacharyya distance of two spherical Gaussians.

    D = ‖μ_i−μ_j‖²/(8σ²) + (d/2) ln(σ²/(σ_i σ_j)), σ² = (σ_i² + σ_j²)/2, σ_i² the variance (1/n_i) of class i per
    component. In (−1, 0], without unit; 0 where no classes overlap. Features [n, p] are first reduced to their
    `components` leading principal components, or as many as they have.

    With few samples per class, the noise of the means adds about d/(4 n) to every D: compare only at one number of
    samples. The source sums over ordered pairs where this takes the mean, so that numbers of classes compare.

    StatisticsError: fewer than two classes of two samples or more, a class of a single one, features that do not vary.

    Source: Pándy et al. 2022, "Transferability Estimation using Bhattacharyya Class Separability" (arXiv 2111.12780).

    >>> bhattacharyya([[0.0], [2.0], [100.0], [102.0]], [0, 0, 1, 1])
    -0.0
    >>> round(bhattacharyya([[0.0], [2.0], [1.0], [3.0]], [0, 0, 1, 1]), 4)  # D = 1/8
    -0.8825
    """
    centred, labels = _centred(features, labels)
    _, s, directions = torch.linalg.svd(centred, full_matrices=False)
    kept = directions[: min(components, int((s > s[0] * max(centred.shape) * torch.finfo(torch.float64).eps).sum()))]
    x = centred @ kept.mT
    S = Statistics(1 + int(labels.max()), x.shape[1], "none", x.device).update(x, labels)
    least = LEAST_VARIANCE * float(x.square().mean())
    variance = (S.variances[S.present] / x.shape[1]).clamp(min=least)
    means = S.mean[S.present]
    overlap, pairs = 0.0, 0
    for i, j, squared in pair_distances(means - means.mean(0)):
        middle = (variance[i] + variance[j]) / 2
        distance = squared / (8 * middle)
        distance = distance + x.shape[1] / 2 * (middle / (variance[i] * variance[j]).sqrt()).log()
        overlap, pairs = overlap + float(distance.neg().exp().sum()), pairs + len(squared)
    return -overlap / pairs


@torch.no_grad()
def shrunk_h_score(features: Any, labels: Any) -> float:
    """tr(Σ_α⁻¹ (1−α) Σ_z): how much of the features [n, d] is explained by their class means, over shrunk covariances.

    Σ is the covariance (1/n) of the features, Σ_z that of the features with each replaced by its class mean,
    Σ_α = (1−α) Σ + α (tr Σ/d) I with the α of Ledoit and Wolf 2004. Between 0 and C − 1, without unit; it changes
    neither with scale nor rotation. Where features are few (n ≪ d), α is near 1 and the score near 0.

    StatisticsError: as from `bhattacharyya`.

    Source: Ibrahim, Ponomareva and Mazumder 2022, "Newer is not always better" (arXiv 2110.06893); the H-score without
    shrinkage is Bao et al. 2019.

    >>> x = [[0.0, 1.0], [0.0, -1.0], [9.0, 1.0], [9.0, -1.0]] * 50
    >>> round(shrunk_h_score(x, [0, 0, 1, 1] * 50), 2)
    1.0
    """
    x, labels = _centred(features, labels)
    n, d = x.shape
    left, s, _ = torch.linalg.svd(x, full_matrices=False)
    values = s.square() / n  # eigenvalues of Σ; the others are 0
    mean = values.sum() / d
    alpha = _shrinkage(values, x.square().sum(1), n, d)
    between = _by_class_mean(left * s, labels).square().sum(0) / n
    return float(((1 - alpha) * between / ((1 - alpha) * values + alpha * mean)).sum())


def _shrinkage(values: Tensor, norms: Tensor, n: int, d: int) -> float:
    """α of Ledoit and Wolf from the eigenvalues [min(n, d)] of Σ and the squared norms [n] of the centred samples."""
    distance = float(values.square().sum() - values.sum().square() / d)  # ‖Σ − (tr Σ/d) I‖²
    noise = float((norms.square().sum() / n - values.square().sum()) / n)  # of Σ, as an estimate
    return min(1.0, max(0.0, noise / distance)) if distance > 0 else 1.0


def _by_class_mean(rows: Tensor, labels: Tensor) -> Tensor:
    count = torch.bincount(labels).clamp(min=1)[:, None]
    return (rows.new_zeros(len(count), rows.shape[1]).index_add_(0, labels, rows) / count)[labels]


def _centred(features: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """Features less their mean, float64, with labels 0, 1, … that all occur twice."""
    features, labels = check_labelled(features, labels)
    present, packed, count = labels.unique(return_inverse=True, return_counts=True)
    if len(present) < 2 or int(count.min()) < 2:
        raise StatisticsError(
            "scores: expected at least 2 classes with at least 2 samples each, found "
            f"{len(present)} classes, the smallest of {int(count.min()) if len(count) else 0}"
        )
    x = as_float64(features, features.device)
    centred = x - x.mean(0)
    if not float(centred.square().mean()) > 1e-24 * float(x.square().mean()):
        raise StatisticsError("scores: expected features that differ between samples, found the same for all")
    return centred, packed


def standardised(features: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """Features with mean zero and a mean variance of one over the columns: a penalty means the same for all networks.

    With labels 0, 1, … that all occur twice; StatisticsError otherwise, and where the features do not vary.

    >>> standardised([[1.0], [3.0], [1.0], [3.0]], [7, 7, 8, 8])[0].flatten().tolist()
    [-1.0, 1.0, -1.0, 1.0]
    """
    centred, labels = _centred(features, labels)
    return centred / math.sqrt(float(centred.square().mean())), labels
