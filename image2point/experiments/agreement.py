"""How far two numbers order the same things alike: rank correlations with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from image2point.collapse import Interval

Correlation = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Agreement:
    """Rank correlations over `count` things; NaN with fewer than three, or where a number does not vary."""

    spearman: Interval
    kendall: Interval
    count: int


def agreement(
    a: Sequence[float], b: Sequence[float], resamples: int = 5000, confidence: float = 0.95, seed: int = 0
) -> Agreement:
    """Spearman's ρ and Kendall's τ-b of pairs (a, b) where neither is NaN, with percentile bootstrap intervals.

    An infinite number is above or below all others.
    The bootstrap draws things (checkpoints, say) with replacement, as if they were drawn independently of one another;
    draws in which a number does not vary are left out.
    """
    pairs = np.array([pair for pair in zip(a, b, strict=True) if not np.isnan(pair).any()]).reshape(-1, 2)
    n = len(pairs)
    if n < 3:
        nothing = Interval(np.nan, np.nan, np.nan, np.nan)
        return Agreement(nothing, nothing, n)
    first, second = (np.unique(values, return_inverse=True)[1].astype(float) for values in pairs.T)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)

    def interval(correlate: Correlation) -> Interval:
        value, others = float(correlate(first, second, np.ones((1, n)))[0]), correlate(first, second, drawn)
        others = others[np.isfinite(others)]
        if len(others) < 2:
            return Interval(value, np.nan, np.nan, np.nan)
        low, high = np.quantile(others, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Interval(value, float(others.std(ddof=1)), float(low), float(high))

    return Agreement(interval(spearman), interval(kendall), n)


def spearman(a: np.ndarray, b: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Spearman's ρ of n pairs, the i-th taken times[r, i] times: [r] for times [r, n]; ties share their mean rank."""
    first, second = (
        times @ _signs(values).T for values in (a, b)
    )  # twice the rank, less what is common: their mean is 0
    return _ratio((times * first * second).sum(1), (times * first**2).sum(1), (times * second**2).sum(1))


def kendall(a: np.ndarray, b: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Kendall's τ-b of n pairs, the i-th taken times[r, i] times: [r] for times [r, n]."""
    first, second = _signs(a), _signs(b)

    def over_pairs(values: np.ndarray) -> np.ndarray:
        return ((times @ values) * times).sum(1)

    return _ratio(over_pairs(first * second), over_pairs(first**2), over_pairs(second**2))


def _signs(values: np.ndarray) -> np.ndarray:
    """[n, n]: whether the row's value is above (1) or below (−1) the column's."""
    return np.sign(values[:, None] - values[None])


def _ratio(product: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    scale = np.sqrt(first * second)
    return np.divide(product, scale, out=np.full_like(product, np.nan), where=scale > 0)
