"""Arms compared seed by seed: the effect with its interval, a p-value corrected for how many there are, and what so few
seeds could find at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from image2point.collapse.intervals import Interval, mean_interval

Key = TypeVar("Key")
LEVEL = 0.05
POWER = 0.8
FEWEST = 3
"""Seeds of a test. Accuracies of so many clouds are multiples of one number, so that the differences at two seeds agree
now and then by chance, and their spread says that nothing varies. Where they agree at more seeds, there is no test."""


@dataclass(frozen=True)
class Comparison:
    """Two arms over the seeds that both have.

    Attributes:
        effect: mean of first minus second, with its 95 % interval over seeds (Student); NaN bounds with fewer than
            `FEWEST` seeds, and where all differences agree.
        p: of the paired t-test that the effect is 0, corrected by Holm for the comparisons it was made with; NaN where
            there is no test, which counts as none.
        detectable: the effect that such a test finds in four of five repetitions (power .8), at this spread.
        seeds: how many both have.
    """

    effect: Interval
    p: float
    detectable: float
    seeds: int

    @property
    def tested(self) -> bool:
        """Whether there are seeds enough, and a spread, for a test."""
        return not math.isnan(self.p)

    @property
    def told_apart(self) -> bool:
        """Whether the test, corrected, rejects at 5 % that both are alike."""
        return self.p < LEVEL

    @property
    def verdict(self) -> str:
        """`larger` or `smaller` where they are told apart, else `undecided`: no test here can show that arms are alike.

        >>> compared([({"1": 0.6, "2": 0.62, "3": 0.61}, {"1": 0.5, "2": 0.52, "3": 0.52})])[0].verdict
        'larger'
        """
        return "undecided" if not self.told_apart else "larger" if self.effect.value > 0 else "smaller"


def compared(pairs: Sequence[tuple[Mapping[Key, float], Mapping[Key, float]]]) -> list[Comparison | None]:
    """Compare the two arms of each pair, values by seed; p-values are corrected over all pairs (Holm 1979).

    None where a pair has fewer than two seeds in common, or an undefined value at one of them.

    >>> (one,) = compared([({1: 3.0, 2: 5.0, 3: 4.0}, {1: 2.0, 2: 2.0, 3: 2.0})])
    >>> one.effect.value, round(one.p, 3), one.seeds
    (2.0, 0.074, 3)
    """
    found = [_alone(first, second) for first, second in pairs]
    ps = holm([each.p for each in found if each is not None and each.tested])
    return [replace(each, p=ps.pop(0)) if each is not None and each.tested else each for each in found]


def holm(ps: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down method, in the given order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, least = [0.0] * len(ps), 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min(1.0, (len(ps) - place) * ps[index]))
        corrected[index] = least
    return corrected


def _alone(first: Mapping[Key, float], second: Mapping[Key, float]) -> Comparison | None:
    differences = np.array([value - second[seed] for seed, value in first.items() if seed in second])
    if len(differences) < 2 or not np.isfinite(differences).all():
        return None
    effect = mean_interval(differences.tolist())
    largest = max(abs(value) for arm in (first, second) for seed, value in arm.items() if seed in first.keys() & second)
    agree = np.ptp(differences) <= 1e-12 * largest  # but for rounding
    if len(differences) < FEWEST or agree:
        bare = replace(effect, low=math.nan, high=math.nan)
        return Comparison(bare, math.nan, math.nan, len(differences))
    from scipy.stats import ttest_1samp

    p = float(ttest_1samp(differences, 0.0).pvalue)
    return Comparison(effect, p, detectable(float(differences.std(ddof=1)), len(differences)), len(differences))


def detectable(deviation: float, seeds: int) -> float:
    """The mean difference that a paired t-test over so many seeds finds at 5 % with a probability of .8.

    deviation: of the differences between seeds.

    >>> [round(detectable(1.0, seeds), 2) for seeds in (3, 5, 10)]
    [3.26, 1.68, 1.0]
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    quantile = float(t.ppf(1 - LEVEL / 2, seeds - 1))

    def short(shift: float) -> float:
        return float(nct.sf(quantile, seeds - 1, shift)) - POWER

    return deviation * float(brentq(short, 0.0, 40.0 * quantile)) / math.sqrt(seeds)
