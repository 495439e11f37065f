"""Metrics: exact anchors, invariances, and what is said when something cannot be computed."""

from __future__ import annotations

import math

import collapse_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from image2point.collapse import CentreDecisions, Statistics, StatisticsError, metrics


def measure(
    features: np.ndarray, labels: np.ndarray, weight: np.ndarray | None = None, num_classes: int | None = None
) -> dict[str, float]:
    classes = int(labels.max()) + 1 if num_classes is None else num_classes
    S = Statistics(classes, features.shape[1], "class").update(features, labels)
    return metrics(S, None if weight is None else (weight, None))


@pytest.mark.parametrize("num_classes", [2, 3, 4, 10, 40])
def test_simplex_etf_is_full_collapse(num_classes: int) -> None:
    means = reference.simplex(num_classes, 48, norm=7.0)
    features, labels = reference.around(means + 100.0, np.zeros((3, 48)))
    found = measure(features, labels, weight=2.5 * means)
    zero = "nc1 nc1_raw nc1_trace_ratio cdnv cdnv_asymmetric cdnv_directional cdnv_corrected"
    for name in zero.split():
        assert found[name] == pytest.approx(0.0, abs=1e-20), name
    for name in ("equinorm", "equiangle", "etf"):
        if num_classes > 2:  # two centred means are opposite, whatever they are
            assert found[f"nc2_{name}"] == pytest.approx(0.0, abs=1e-12), name
        assert found[f"nc2_w_{name}"] == pytest.approx(0.0, abs=1e-12), name
    assert found["nc3"] == pytest.approx(0.0, abs=1e-12)
    # All pairs are at the same distance a √(2C/(C−1)), and Σ_B has rank C−1.
    assert found["min_class_distance"] == pytest.approx(7.0 * math.sqrt(2 * num_classes / (num_classes - 1)))
    assert found["between_rank"] == num_classes - 1


@pytest.mark.parametrize(
    ("num_classes", "dim", "norm", "sigma"), [(10, 64, 3.0, 0.5), (2, 5, 1.0, 1.0), (7, 7, 2.0, 0.1)]
)
def test_etf_with_isotropic_noise(num_classes: int, dim: int, norm: float, sigma: float) -> None:
    means = reference.simplex(num_classes, dim, norm)
    found = measure(*reference.around(means, reference.noise(dim, sigma)))
    C, ratio = num_classes, sigma**2 / norm**2
    assert found["nc1"] == pytest.approx(ratio * (C - 1) ** 2 / C, rel=1e-12)
    assert found["nc1_raw"] == pytest.approx(ratio * (C - 1) ** 2, rel=1e-12)
    assert found["cdnv"] == pytest.approx(dim * ratio * (C - 1) / (2 * C), rel=1e-12)
    assert found["cdnv_asymmetric"] == pytest.approx(found["cdnv"], rel=1e-12)
    assert found["cdnv_directional"] == pytest.approx(found["cdnv"] / dim, rel=1e-12)
    assert found["nc1_trace_ratio"] == pytest.approx(dim * ratio, rel=1e-12)
    if (num_classes, dim) == (10, 64):
        expected = {"nc1": 0.225, "cdnv": 0.8, "cdnv_directional": 0.0125, "nc1_trace_ratio": 16 / 9}
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)


def test_nc1_is_directional_cdnv_for_etf_means_with_one_covariance() -> None:
    rng = np.random.default_rng(0)
    offsets = rng.normal(size=(40, 20)) @ rng.normal(size=(20, 20))
    offsets -= offsets.mean(0)
    found = measure(*reference.around(reference.simplex(8, 20, 3.0), offsets))
    assert found["nc1"] == pytest.approx(2 * 7 * found["cdnv_directional"], rel=1e-12)


def test_toy_in_one_dimension() -> None:
    features = np.array([[0.0], [2.0], [3.0], [5.0]])
    found = measure(features, np.array([0, 0, 1, 1]))
    assert found["cdnv"] == pytest.approx(1 / 9, rel=1e-14)
    assert found["cdnv_directional"] == pytest.approx(1 / 9, rel=1e-14)
    assert found["min_class_distance"] == 3.0
    # Var = 1, corrected to 2; ‖Δμ‖² = 9 − 2/2 − 2/2.
    assert found["cdnv_corrected"] == pytest.approx(4 / (2 * 7), rel=1e-14)


def test_nc1_equals_the_mean_whitened_distance_without_a_scatter() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(6), 20)
    features = (2 * rng.normal(size=(6, 9)))[labels] + rng.normal(size=(120, 9))
    M = np.stack([features[labels == c].mean(0) for c in range(6)])
    _, s, v = np.linalg.svd(M - M.mean(0), full_matrices=False)
    whitened = ((features - M[labels]) @ v[:5].T / s[:5]) ** 2
    assert measure(features, labels)["nc1"] == pytest.approx(whitened.sum(1).mean(), rel=1e-11)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3), shift=st.floats(-50, 50))
def test_rotation_scale_and_translation_change_nothing(seed: int, scale: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, 90)
    labels[:12] = np.tile(np.arange(6), 2)
    features = (3 * rng.normal(size=(6, 8)))[labels] + rng.normal(size=(90, 8))
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    moved = scale * (features @ rotation + shift * rng.normal(size=8))
    before, after = measure(features, labels), measure(moved, labels)
    for name in before.keys() - {"discrimination", "rank_nuclear", "rank_95"}:  # these see where the origin is
        factor = scale if name == "min_class_distance" else 1.0
        assert after[name] == pytest.approx(factor * before[name], rel=1e-8, nan_ok=True), name


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3))
def test_rotation_and_scale_leave_rank_and_discrimination(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(60) % 4
    features = (3 * rng.normal(size=(4, 8)))[labels] + rng.normal(size=(60, 8))
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    before, after = measure(features, labels), measure(scale * features @ rotation, labels)
    for name in ("discrimination", "rank_nuclear", "rank_95"):
        assert after[name] == pytest.approx(before[name], rel=1e-9), name


def test_ranks_and_discrimination_by_hand() -> None:
    # Twenty equal singular values: 95 % of their sum is nineteen of them.
    found = measure(np.eye(20), np.arange(20) % 2)
    assert found["rank_nuclear"] == pytest.approx(20.0, rel=1e-9)
    assert found["rank_95"] == 19
    # Singular values 3 and 1: 4² / 10, and 3 is less than 95 % of 4.
    found = measure(np.array([[3.0, 0.0], [0.0, 1.0]]), np.array([0, 1]))
    assert found["rank_nuclear"] == pytest.approx(1.6, rel=1e-12)
    assert found["rank_95"] == 2
    assert found["discrimination"] == pytest.approx(1.0, abs=1e-15)
    # A single direction far from the origin in many dimensions: rank one, not the square root of its rounding.
    line = 100.0 + np.outer(np.arange(12.0), np.ones(64))
    found = measure(line, np.arange(12) % 2)
    assert found["rank_nuclear"] == pytest.approx(1.0, abs=1e-9)
    assert found["rank_95"] == 1
    assert found["discrimination"] == pytest.approx(0.0, abs=1e-12)
    corner = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    assert measure(corner, np.arange(3))["discrimination"] == pytest.approx(1 - math.sqrt(0.5), rel=1e-12)
    assert math.isnan(measure(np.zeros((4, 3)), np.arange(4) % 2)["rank_95"])


def test_more_classes_than_dimensions_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(30), 5)
    features = (3 * rng.normal(size=(30, 4)))[labels] + rng.normal(size=(150, 4))
    weight = rng.normal(size=(30, 4))
    expected = reference.metrics(features, labels, 30, weight)
    assert measure(features, labels, weight) == pytest.approx(expected, rel=1e-9, nan_ok=True)
    monkeypatch.setattr("image2point.collapse.inputs.BLOCK", 70)  # pairs in blocks of 2 rows
    monkeypatch.setattr("image2point.collapse.pairs.BLOCK", 70)
    assert measure(features, labels, weight) == pytest.approx(expected, rel=1e-9, nan_ok=True)
    assert expected["between_rank"] == 4


def test_close_pairs_among_distant_ones_keep_their_digits() -> None:
    rng = np.random.default_rng(3)
    means = np.concatenate([1e3 * rng.normal(size=(4, 16)), np.zeros((3, 16))])
    means[4:] = means[0] + 1e-4 * rng.normal(size=(3, 16))
    features, labels = reference.around(means, reference.noise(16, 1e-4))
    expected = reference.metrics(features, labels, 7)
    found = measure(features, labels)
    # The features themselves carry 1e-13, hence the differences of 1e-4 no more than 1e-9.
    for name in ("cdnv", "min_class_distance", "cdnv_directional"):
        assert found[name] == pytest.approx(expected[name], rel=1e-8), name


def test_directions_below_the_cutoff_are_dropped_and_counted() -> None:
    means = np.diag([0.0, 1.0, 1.0, 1e-8])  # a third direction of 1e-16 of the largest eigenvalue of Σ_B
    flat = np.diag([0.0, 1.0, 1.0, 0.0])
    found = measure(*reference.around(means, reference.noise(4, 0.1)))
    assert found["between_rank"] == 2
    assert found["nc1"] == pytest.approx(measure(*reference.around(flat, reference.noise(4, 0.1)))["nc1"], rel=1e-6)
    line = np.zeros((4, 3))
    line[:, 0] = [0.0, 1.0, 2.0, 4.0]
    on_a_line = measure(*reference.around(line + 100.0, reference.noise(3, 0.1)))
    assert on_a_line["between_rank"] == 1
    M = line[:, 0] - line[:, 0].mean()
    assert on_a_line["nc1"] == pytest.approx(0.01 / (M**2).sum(), rel=1e-9)


def test_coinciding_means_are_not_called_collapsed() -> None:
    features, labels = reference.around(np.zeros((3, 4)), reference.noise(4, 1.0))
    found = measure(features, labels)
    assert math.isnan(found["nc1"]) and found["between_rank"] == 0
    assert found["cdnv"] == math.inf
    assert math.isnan(found["cdnv_corrected"]) and found["cdnv_corrected_undefined"] == 3
    assert found["min_class_distance"] == 0.0
    # Far from the origin the means coincide only up to rounding, and that is not taken for a direction.
    offsets = np.random.default_rng(0).normal(size=(40, 4))
    shuffled = np.concatenate([offsets, offsets[::-1], np.roll(offsets, 7, axis=0)]) + 1000.3
    found = measure(shuffled, np.repeat(np.arange(3), 40))
    assert found["min_class_distance"] == 0.0 and found["cdnv"] == math.inf
    assert math.isnan(found["nc1"]) and found["between_rank"] == 0


def test_without_covariance_the_rest_is_there_and_nc1_names_its_need() -> None:
    features, labels = reference.around(reference.simplex(4, 6), reference.noise(6, 0.5))
    S = Statistics(4, 6, "none").update(features, labels)
    full = measure(features, labels)
    found = metrics(S)
    pooled = {"nc1", "nc1_raw", "between_rank", "rank_nuclear", "rank_95"}
    assert set(full) - set(found) == pooled | {"cdnv_directional"}
    assert found == pytest.approx({name: full[name] for name in found}, rel=1e-12, abs=1e-12)
    with pytest.raises(StatisticsError, match=r'nc1: needs .*covariance="pooled".*\'none\''):
        metrics(S, ask="nc1")
    with pytest.raises(StatisticsError, match=r'cdnv_directional: needs .*covariance="class".*\'pooled\''):
        metrics(Statistics(4, 6).update(features, labels), ask=["cdnv", "cdnv_directional"])
    with pytest.raises(StatisticsError, match=r"nc3: needs classifier=\(weight, bias\)"):
        metrics(S, ask="nc3")
    with pytest.raises(StatisticsError, match="unknown metric nc9; known: samples"):
        metrics(S, ask=["cdnv", "nc9"])
    assert metrics(S, ask="cdnv") == {"cdnv": found["cdnv"]}
    assert set(metrics(S, ask=["nc2_etf", "present"])) == {"nc2_etf", "present"}


def test_absent_classes_are_left_out_and_reported() -> None:
    rng = np.random.default_rng(4)
    labels = np.array([0, 2, 3, 5])[rng.integers(0, 4, 60)]
    features = (3 * rng.normal(size=(6, 5)))[labels] + rng.normal(size=(60, 5))
    weight = rng.normal(size=(6, 5))
    found = measure(features, labels, weight, num_classes=6)
    packed = np.searchsorted([0, 2, 3, 5], labels)
    expected = reference.metrics(features, packed, 4, weight[[0, 2, 3, 5]])
    expected["absent"] = 2
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("labels", [[], [1, 1, 1]])
def test_fewer_than_two_classes_is_an_error(labels: list[int]) -> None:
    S = Statistics(3, 2).update(np.zeros((len(labels), 2)), np.array(labels, dtype=np.int64))
    with pytest.raises(StatisticsError, match="at least 2 of the 3 classes, found"):
        metrics(S)


def test_classifier_must_fit() -> None:
    S = Statistics(3, 2).update(np.eye(4)[:, :2], np.array([0, 1, 2, 0]))
    with pytest.raises(StatisticsError, match=r"classifier weight: expected shape \[3, 2\], found \[2, 3\]"):
        metrics(S, (torch.zeros(2, 3), None))
    with pytest.raises(StatisticsError, match=r"bias \[3\] or None, found \[3, 2\] and \[4\]"):
        metrics(S, (torch.zeros(3, 2), torch.zeros(4)))
    with pytest.raises(StatisticsError, match="found nan in row 0"):
        metrics(S, (torch.full((3, 2), torch.nan), None))


# ---- numerical traps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("merged", [False, True])
def test_trap_second_moment_variance_in_float32(merged: bool) -> None:
    """100 ± 0.01 in 512 dimensions: E‖x‖² − ‖μ‖² in float32 is no use at all: the variance is 0.0512."""
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(256, 512))
    x = torch.tensor(100 + 0.01 * np.concatenate([signs, -signs]), dtype=torch.float32)
    naive = float((x.square().sum(1)).mean() - x.mean(0).square().sum())
    assert abs(naive - 0.0512) > 0.5 * 0.0512
    labels = torch.zeros(512, dtype=torch.int64)
    S = Statistics(1, 512, "none").update(x[:200], labels[:200])
    rest = (x[200:], labels[200:])
    S = S.merge(Statistics(1, 512, "none").update(*rest)) if merged else S.update(*rest)
    exact = ((x.double() - x.double().mean(0)) ** 2).sum(1).mean()
    assert float(S.variances[0]) == pytest.approx(float(exact), rel=1e-9)
    assert float(S.variances[0]) == pytest.approx(0.0512, rel=1e-3)


def test_trap_pinv_default_cutoff_on_float32() -> None:
    """Σ_B has rank C−1; inverting the rounding noise of a float32 Σ_B gives an NC1 of millions and more."""
    rng = np.random.default_rng(0)
    offsets = rng.normal(size=(100, 64))
    offsets -= offsets.mean(0)
    features, labels = reference.around(reference.simplex(10, 64, 3.0), 0.5 * offsets)
    rotated = features @ np.linalg.qr(rng.normal(size=(64, 64)))[0]
    m = reference.moments(rotated, labels, 10)
    M = m["mean"] - m["mean"].mean(0)
    between = (M.T @ M / 10).astype(np.float32)
    within = (m["scatter"].sum(0) / len(labels)).astype(np.float32)
    naive = abs(np.trace(within @ np.linalg.pinv(between, rcond=1e-15))) / 10
    truth = reference.metrics(rotated, labels, 10)["nc1"]
    assert naive > 1e3 * truth
    assert measure(rotated.astype(np.float32), labels)["nc1"] == pytest.approx(truth, rel=1e-5)
    assert measure(rotated, labels)["nc1"] == pytest.approx(truth, rel=1e-10)


def test_trap_plugin_cdnv_is_biased_at_few_samples() -> None:
    """Samples with exactly the expected moments at n = 5, p = 128, V = 0.5: plug-in 1/3, corrected 0.5."""
    n, p, variance = 5, 128, 8.0
    squared_distance = variance / 0.5
    rng = np.random.default_rng(0)
    offsets = rng.normal(size=(n, p))
    offsets -= offsets.mean(0)
    offsets *= math.sqrt((n - 1) * variance / (offsets**2).sum())  # E Σ‖h−μ̂‖² = (n−1) Var
    means = np.zeros((2, p))
    means[1, 0] = math.sqrt(squared_distance + 2 * variance / n)  # E‖Δμ̂‖² = ‖Δμ‖² + 2 Var/n
    found = measure(*reference.around(means, offsets))
    assert found["cdnv"] == pytest.approx(0.5 * (1 - 1 / n) / (1 + 2 * 0.5 / n), rel=1e-12)
    assert found["cdnv"] == pytest.approx(1 / 3, rel=1e-12)
    assert found["cdnv_corrected"] == pytest.approx(0.5, rel=1e-12)
    assert found["cdnv_corrected_undefined"] == 0


def test_trap_plugin_cdnv_is_biased_at_few_samples_drawn() -> None:
    """The same on drawn samples: 100 classes at equal distances, 4950 pairs."""
    rng = np.random.default_rng(0)
    means = np.pad(np.eye(100), ((0, 0), (0, 28))) * math.sqrt(128)  # ‖Δμ‖² = 256, Var = 128
    labels = np.repeat(np.arange(100), 5)
    found = measure(means[labels] + rng.normal(size=(500, 128)), labels)
    assert found["cdnv"] == pytest.approx(0.333, abs=0.01)
    assert found["cdnv_corrected"] == pytest.approx(0.504, abs=0.015)


def test_trap_pairs_without_a_positive_corrected_distance_are_counted() -> None:
    offsets = reference.noise(4, 1.0)[[0, 4]]  # two samples: ±2 along the first axis; v = 8, v/n = 4
    means = np.zeros((3, 4))
    means[1, 1], means[2, 2] = 2.0, 20.0  # squared distances 4, 400 and 404, less 8
    found = measure(*reference.around(means, offsets))
    assert found["cdnv_corrected_undefined"] == 1
    assert math.isnan(found["cdnv_corrected"])  # a mean over the other two would be 0.02


def test_trap_singletons_and_absent_classes_are_reported() -> None:
    features = np.array([[0.0], [2.0], [5.0], [10.0], [12.0]])
    found = measure(features, np.array([0, 0, 2, 3, 3]), num_classes=5)
    assert (found["present"], found["absent"], found["singletons"]) == (3, 2, 1)
    assert found["cdnv_corrected_undefined"] == 2  # both pairs with the singleton
    assert found["cdnv_corrected"] == pytest.approx(2 / (100 - 2), rel=1e-12)
    assert found["cdnv"] == found["cdnv_asymmetric"] == pytest.approx(2 / (2 * 100), rel=1e-12)
    assert found["contributing"] == 2


def test_trap_nc4_needs_the_bias_of_the_classifier() -> None:
    """argmax 2μ·h − ‖μ‖² is the nearest centre; without the bias the decisions differ."""
    rng = np.random.default_rng(5)
    means = rng.normal(size=(6, 3)) * np.array([1, 2, 4, 1, 2, 4])[:, None]
    features, labels = rng.normal(size=(300, 3)) * 3, rng.integers(0, 6, 300)
    products = 2 * features @ means.T
    assert CentreDecisions(means).update(features, labels, products - (means**2).sum(1)).nc4 == 0.0
    assert CentreDecisions(means).update(features, labels, products).nc4 > 0.1
