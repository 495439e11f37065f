"""Progressive collapse: does the compression of the classes fall geometrically with depth?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from image2point.collapse.inputs import StatisticsError
from image2point.collapse.intervals import student_quantile


@dataclass(frozen=True)
class Decay:
    """C_l ≈ C_0 ρ^l, fitted to log C_l by least squares over layers l = 0, 1, …

    Attributes:
        rate: ρ; below 1 where classes get tighter from layer to layer.
        low, high: its 95 % interval, if the layers scattered independently about the line (they share samples, so it
            describes the fit rather than what other data would give); NaN for two layers.
        explained: R², the share of the variance of log C_l that the line explains; NaN for two layers, through which a
            line always goes, and where all C_l are equal.
        layers: how many were fitted.
    """

    rate: float
    low: float
    high: float
    explained: float
    layers: int


def fit_decay(compression: Sequence[float]) -> Decay:
    """Fit the geometric decay of progressive collapse (Wang et al. 2023) to C_l of the layers in order.

    Layers whose C_l is not a positive finite number are left out, at their place in the order. StatisticsError where
    fewer than two are left.

    >>> round(fit_decay([8.0, 4.0, 2.0, 1.0]).rate, 6)
    0.5
    """
    kept = [(depth, c) for depth, c in enumerate(compression) if math.isfinite(c) and c > 0]
    if len(kept) < 2:
        raise StatisticsError(f"expected at least 2 layers with a positive compression, found {len(kept)}")
    x = torch.tensor([depth for depth, _ in kept], dtype=torch.float64)
    y = torch.tensor([c for _, c in kept], dtype=torch.float64).log()
    x = x - x.mean()
    slope = float((x * y).sum() / x.square().sum())
    residuals = y - y.mean() - slope * x
    left, whole = float(residuals.square().sum()), float((y - y.mean()).square().sum())
    freedom = len(kept) - 2
    reach = math.nan
    if freedom:
        reach = student_quantile(0.975, freedom) * math.sqrt(left / freedom / float(x.square().sum()))
    explained = 1 - left / whole if freedom and whole > 0 else math.nan
    return Decay(math.exp(slope), math.exp(slope - reach), math.exp(slope + reach), explained, len(kept))
