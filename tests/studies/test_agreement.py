"""Rank correlations against scipy's, the weighted ones against repeated values, intervals against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from image2point.experiments.agreement import agreement, kendall, spearman


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_those_of_scipy_and_times_means_repeated(ties: bool) -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(size=12)
    b = a + rng.normal(size=12)
    if ties:
        a, b = a.round(), b.round()
    times = rng.integers(0, 4, size=(5, 12))
    for row, rho, tau in zip(times, spearman(a, b, times), kendall(a, b, times), strict=True):
        x, y = np.repeat(a, row), np.repeat(b, row)
        assert rho == pytest.approx(spearmanr(x, y).statistic)
        assert tau == pytest.approx(kendalltau(x, y).statistic)


def test_intervals_hold_the_value_and_narrow_with_more_things() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=200)
    b = a + rng.normal(size=200)
    few, many = agreement(a[:10], b[:10]), agreement(a, b)
    for one in (few.spearman, few.kendall, many.spearman, many.kendall):
        assert -1 <= one.low <= one.value <= one.high <= 1
    assert many.spearman.high - many.spearman.low < 0.5 * (few.spearman.high - few.spearman.low)
    assert many.spearman.low < spearmanr(a, b).statistic < many.spearman.high and many.count == 200


def test_what_has_no_order_has_no_correlation() -> None:
    assert math.isnan(agreement([1, 2], [1, 2]).spearman.value)
    assert math.isnan(agreement([1, 1, 1, 1], [1, 2, 3, 4]).kendall.value)
    assert agreement([1, 2, 3, math.nan], [1, 2, 3, 0]).kendall.value == 1


def test_what_is_infinite_is_above_or_below_all_others() -> None:
    a, b = [-math.inf, 1.0, 2.0, math.inf, -math.inf, math.nan], [0.3, 0.1, 0.4, 0.2, 0.5, 0.6]
    found = agreement(a, b)
    assert found.count == 5
    assert found.spearman.value == pytest.approx(spearmanr([-9, 1, 2, 9, -9], b[:5]).statistic)
    assert found.kendall.value == pytest.approx(kendalltau([-9, 1, 2, 9, -9], b[:5]).statistic)
