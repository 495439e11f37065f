"""The grouped jackknife: textbook cases, an independent loop, coverage on drawn data, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from image2point.collapse import (
    CentreDecisions,
    Statistics,
    StatisticsError,
    deal,
    jackknife,
    metric_intervals,
    metrics,
)
from image2point.collapse.intervals import METHODS, share_interval, student_quantile


def draw(rng: np.random.Generator, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(n) % 4
    return 2 * np.eye(4, 6)[labels] + rng.normal(size=(n, 6)), labels


def parts_of(features: np.ndarray, labels: np.ndarray, group: np.ndarray) -> list[Statistics]:
    return [Statistics(4, 6).update(features[group == g], labels[group == g]) for g in range(group.max() + 1)]


def test_of_a_mean_it_is_the_standard_error() -> None:
    """One sample per part, and the mean of the samples: the jackknife gives s/√n exactly."""
    x = np.random.default_rng(0).normal(size=30)
    parts = [Statistics(1, 1, "none").update([[value]], [0]) for value in x]
    found = jackknife(parts, lambda S: {"mean": float(S.mean[0, 0])}, [1] * 30)["mean"]
    assert found.value == pytest.approx(x.mean(), rel=1e-12)
    assert found.error == pytest.approx(x.std(ddof=1) / math.sqrt(30), rel=1e-9)
    assert found.high - found.value == pytest.approx(2.04523 * found.error, rel=1e-5)
    assert found.value - found.low == pytest.approx(found.high - found.value, rel=1e-12)


@pytest.mark.parametrize("equal", [True, False])
def test_agrees_with_leaving_out_by_hand(equal: bool) -> None:
    features, labels = draw(np.random.default_rng(1))
    group = deal(labels, 5).numpy()
    if not equal:
        group = np.where((group == 4) & (np.arange(200) % 3 > 0), 0, group)
    parts, sizes = parts_of(features, labels, group), np.bincount(group)
    names = ("nc1", "cdnv", "vci_corrected", "nc2_equiangle", "rank_nuclear")
    found = jackknife(parts, lambda S: metrics(S, ask=names), sizes.tolist())
    whole = metrics(Statistics(4, 6).update(features, labels), ask=names)
    h = 200 / sizes
    for name in names:
        pseudo = h * whole[name] - (h - 1) * np.array(without(features, labels, group, name))
        left = np.array(without(features, labels, group, name))
        variance = np.mean((pseudo - (pseudo / h).sum()) ** 2 / (h - 1))
        if equal:
            assert variance == pytest.approx(4 / 5 * ((left - np.mean(left)) ** 2).sum(), rel=1e-6)
        assert found[name].value == pytest.approx(whole[name], rel=1e-10)
        assert found[name].error == pytest.approx(math.sqrt(variance), rel=1e-6)
        if name == "vci_corrected":  # about the value less its bias
            centred = metric_intervals(parts, ask=name)[name]
            assert centred.value == pytest.approx((pseudo / h).sum(), rel=1e-9)
            assert centred.high - centred.value == pytest.approx(2.77645 * centred.error, rel=1e-5)


def without(features: np.ndarray, labels: np.ndarray, group: np.ndarray, name: str) -> list[float]:
    """The metric without each part in turn."""
    rest = [group != g for g in range(group.max() + 1)]
    return [metrics(Statistics(4, 6).update(features[own], labels[own]), ask=name)[name] for own in rest]


def test_scales_of_the_intervals() -> None:
    """Of logarithms, and of the inverse: the limits are those of the transformed number, transformed back."""
    features, labels = draw(np.random.default_rng(1))
    group = deal(labels, 10).numpy()
    parts = parts_of(features, labels, group)
    found = metric_intervals(parts)
    assert set(found) == set(METHODS) and all(interval.over == "samples" for interval in found.values())
    for name, key, there, back in (
        ("cdnv_corrected", "cdnv_corrected", np.log, np.exp),
        ("cdnv_median", "cdnv_median_inverse", np.array, np.reciprocal),
        ("nc1_trace_ratio_corrected", "nc1_trace_ratio_inverse", np.array, np.reciprocal),
    ):
        value = there(metrics(Statistics(4, 6).update(features, labels), ask=key)[key])
        left = there(without(features, labels, group, key))
        reach = 2.26216 * math.sqrt(9 / 10 * ((left - left.mean()) ** 2).sum())
        limits = sorted((float(back(value - reach)), float(back(value + reach))))
        assert (found[name].low, found[name].high) == pytest.approx(limits, rel=1e-5), name


def test_of_noise_the_upper_limit_is_infinite_and_the_value_may_be_undefined() -> None:
    rng = np.random.default_rng(0)
    undefined = 0
    for _ in range(10):
        features, labels = rng.normal(size=(80, 6)), np.arange(80) % 4
        found = metric_intervals(parts_of(features, labels, deal(labels, 10).numpy()))
        for name in ("cdnv_median", "nc1_trace_ratio_corrected"):
            undefined += math.isnan(found[name].value)
            assert found[name].high == math.inf and found[name].low > 0, name
        assert not found["cdnv_corrected"].low > 0  # undefined
    assert 0 < undefined < 20


def test_nothing_that_moves_is_no_certainty() -> None:
    parts = [CentreDecisions(np.eye(4, 6)).update(np.eye(4, 6), np.arange(4)) for _ in range(5)]
    found = jackknife(parts, lambda D: {"share": D.ncc_accuracy}, [4] * 5)["share"]
    assert found.value == 1.0 and math.isnan(found.error) and math.isnan(found.low)


@pytest.mark.parametrize(("right", "total", "low", "high"), [(0, 10, 0.0, 0.3209), (15, 20, 0.5275, 0.8919)])
def test_share_interval_is_that_of_agresti_and_coull(right: int, total: int, low: float, high: float) -> None:
    found = share_interval(right / total, total)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


def test_covers_the_truth_about_as_often_as_it_says() -> None:
    """200 draws of the corrected CDNV, whose truth is 6/8: intervals of 95 % hold it in 90 to 99 % of them."""
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        features, labels = draw(rng, 400)
        found = metric_intervals(parts_of(features, labels, np.arange(400) // 40), ask="cdnv_corrected")
        covered += found["cdnv_corrected"].low <= 0.75 <= found["cdnv_corrected"].high
    assert 0.90 <= covered / 200 <= 0.99


def test_any_mergeable_will_do() -> None:
    rng = np.random.default_rng(3)
    features, labels = draw(rng)
    centres = 2 * np.eye(4, 6)
    parts = [CentreDecisions(centres).update(features[g::10], labels[g::10]) for g in range(10)]
    found = jackknife(parts, lambda d: {"ncc": d.ncc_accuracy}, [20] * 10)["ncc"]
    shares = np.array([part.ncc_accuracy for part in parts])
    assert found.error == pytest.approx(shares.std(ddof=1) / math.sqrt(10), rel=1e-9)


def test_dealing_is_even_in_every_class() -> None:
    labels = np.random.default_rng(4).permutation(np.repeat(np.arange(5), [3, 10, 11, 20, 1]))
    part = deal(labels, 4, seed=1).numpy()
    for c in range(5):
        count = np.bincount(part[labels == c], minlength=4)
        assert count.max() - count.min() <= 1
    assert np.array_equal(deal(labels, 4, seed=1), part)
    assert not np.array_equal(deal(labels, 4, seed=2), part)


def test_student_quantiles_of_the_tables() -> None:
    table = {1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645, 9: 2.26216, 30: 2.04227, 599: 1.96393, 5000: 1.96044}
    for freedom, expected in table.items():
        assert student_quantile(0.975, freedom) == pytest.approx(expected, rel=2e-6), freedom
    assert student_quantile(0.95, 5) == pytest.approx(2.01505, rel=2e-6)


def test_errors() -> None:
    features, labels = draw(np.random.default_rng(5))
    whole = Statistics(4, 6).update(features, labels)
    with pytest.raises(StatisticsError, match=r"2 or more parts.*found 1 parts, of sizes \[200.0\]"):
        metric_intervals([whole])
    with pytest.raises(StatisticsError, match=r"none of them empty"):
        metric_intervals([whole, Statistics(4, 6)])
    with pytest.raises(StatisticsError, match="class 3 occurs in one part only"):
        metric_intervals([whole, Statistics(4, 6).update(features[labels < 3], labels[labels < 3])])
    with pytest.raises(StatisticsError, match="min_class_distance, nc1: no interval that would cover"):
        metric_intervals([whole, whole], ask=["min_class_distance", "nc1"])
    with pytest.raises(StatisticsError, match="vci_corrected: needs"):
        metric_intervals([Statistics(4, 6, "none").update(features, labels)] * 2, ask="vci_corrected")
    assert "vci_corrected" not in metric_intervals([Statistics(4, 6, "none").update(features, labels)] * 2)
