"""LogME: how well a Bayesian linear model of frozen features explains the labels, without fitting to held-out data.

For each class, targets y in {0, 1} are y = F w + noise with w ~ N(0, I/α) and noise of variance 1/β. The evidence
p(y | F) has w integrated out, so that it cannot overfit by w; α and β are set to maximise it, the noise being at least
`NOISE` of the targets, which the source does not ask for.

Source: You, Liu, Wang and Long, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", ICML 2021;
the fixed point over singular values is that of their journal version (JMLR 2022).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from image2point.collapse.inputs import StatisticsError, as_float64, check_labelled

TOLERANCE = 1e-9
"""Relative change of α/β at which its iteration ends; a class that has not come there after MAX_STEPS stays as it is:
that happens where the evidence hardly changes any more."""
MAX_STEPS = 2000
WIDEST = 1e12
"""α/β stays within this factor of the largest squared singular value, either way."""
NOISE = 1e-3
"""Least variance of the noise, as a share of the mean square of the targets. Without it the evidence has no bound where
features explain targets exactly in fewer dimensions than there are samples: clouds whose features are all zero, and of
other classes, do that, and would make a network the better the more of them it has."""
STARTS = 65
"""The evidence can have several maxima: the iteration starts from the best of so many values of α/β."""


@torch.no_grad()
def logme(features: Any, labels: Any) -> float:
    """Largest log evidence per sample, averaged over the classes that occur, in nats; bigger is better.

    Args:
        features: [n, d]; taken as they are, without a bias, as in the source. Their scale does not matter, their
            origin does.
        labels: class of each sample, [n].

    Raises:
        StatisticsError: on features of another shape or not finite, all zero, or of fewer than two classes.

    >>> labels = torch.arange(40) % 2
    >>> telling, noise = labels[:, None] - 0.5, torch.rand(40, 1, generator=torch.Generator().manual_seed(0)) - 0.5
    >>> logme(telling, labels) > logme(noise, labels)
    True
    """
    features, labels = check_labelled(features, labels)
    present, packed = labels.unique(return_inverse=True)
    if len(present) < 2:
        raise StatisticsError(f"logme: expected samples of at least 2 classes, found {len(present)}")
    targets = torch.nn.functional.one_hot(packed, len(present)).double()
    x = as_float64(features, features.device)
    scale = x.abs().max().clamp(min=torch.finfo(x.dtype).tiny)  # the squares of small numbers would be 0
    found = largest_evidence(x / scale, targets)
    return float(found.mean()) / len(features)


def largest_evidence(features: Tensor, targets: Tensor) -> Tensor:
    """log p(y | F, α, β) at the α and β that maximise it, for each column y of targets [n, C]: float64 [C].

    With F = U diag(σ) Vᵀ, z = Uᵀy and t = α/β, the stationary points satisfy (MacKay 1992)

        γ = Σ σ²/(σ² + t),   α = γ/‖m‖²,   1/β = ‖F m − y‖²/(n − γ), or the least noise,

    m being the posterior mean. They depend on t alone, which is iterated from the best of a grid.
    """
    n = len(features)
    left, singular, _ = torch.linalg.svd(features, full_matrices=False)
    if not bool(singular[0] > 0):
        raise StatisticsError("logme: expected features that are not all zero")
    squared, z = singular.square()[:, None], (left.mT @ targets).square()  # [r, 1], [r, C]
    outside = (targets.square().sum(0) - z.sum(0)).clamp(min=0)  # of y, in directions that no feature has
    low, high = float(squared[0]) / WIDEST, float(squared[0]) * WIDEST

    floor = NOISE * targets.square().mean(0)

    def evidence(t: Tensor) -> Tensor:
        """At this t [C] and the 1/β that is best for it: log N(y; 0, (I + F Fᵀ/t)/β), in the basis of U."""
        best = ((z * t / (squared + t)).sum(0) + outside) / n
        noise = best.maximum(floor)
        return -n / 2 * ((2 * math.pi * noise).log() + best / noise) - (squared / t).log1p().sum(0) / 2

    grid = torch.logspace(math.log10(low), math.log10(high), STARTS, dtype=torch.float64).to(z)
    best, place = torch.stack([evidence(t.expand(len(outside))) for t in grid]).max(0)
    t = grid[place]
    for _ in range(MAX_STEPS):
        known = squared / (squared + t)
        gamma = known.sum(0)
        mean = (known * z / (squared + t)).sum(0)
        residual = ((1 - known).square() * z).sum(0) + outside
        noise = (residual / (n - gamma)).nan_to_num(0.0).maximum(floor)
        renewed = (gamma / mean * noise).nan_to_num(low, high, low).clamp(low, high)
        change, t = (renewed / t).log().abs().max(), renewed
        if change < TOLERANCE:
            break
    return torch.maximum(best, evidence(t))
