"""What measures read where labels mean nothing, and the forms that are corrected for it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from image2point.collapse import CentreDecisions, Statistics, StatisticsError, measure_features, metrics, null

NAMES = ("nc1", "nc1_trace_ratio", "cdnv", "cdnv_directional", "nc2_equiangle", "ncc_accuracy")
CORRECTED = ("nc1_shrunk", "vci_corrected", "nc1_trace_ratio_corrected", "cdnv_median")


def draw(classes: int, each: int, dim: int, apart: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    labels = np.arange(classes * each) % classes
    means = apart * np.random.default_rng(99).normal(size=(classes, dim))
    return torch.from_numpy(means[labels] + rng.normal(size=(len(labels), dim))), torch.from_numpy(labels)


def test_null_is_the_measure_under_permuted_labels() -> None:
    features, labels = draw(4, 6, 40, 1.0)
    generator = torch.Generator().manual_seed(3)
    drawn = [
        measure_features(features, labels[torch.randperm(24, generator=generator)], NAMES) for _ in range(7)
    ]  # fmt: skip
    found = null(features, labels, NAMES, permutations=7, seed=3)
    for name in NAMES:
        values = np.array([each[name] for each in drawn])
        assert found[name] == pytest.approx((values.mean(), values.std(ddof=1)), rel=1e-7, abs=1e-12), name
    assert null(features, labels, NAMES, 7, seed=4) != found


def test_null_with_a_classifier_and_the_centres_of_others() -> None:
    """Against the measures of permuted labels, features far from the origin, more features than samples."""
    features, labels = draw(4, 6, 40, 1.0)
    features = features + 1000.0
    rng = torch.Generator().manual_seed(5)
    weight = torch.randn(4, 40, generator=rng, dtype=torch.float64)
    centres = torch.randn(4, 40, generator=rng, dtype=torch.float64) + 1000.0
    found = null(features, labels, ["nc3", "nc1", "ncc_accuracy"], 5, 3, (weight, None), centres)
    generator = torch.Generator().manual_seed(3)
    expected: dict[str, list[float]] = {"nc3": [], "nc1": [], "ncc_accuracy": []}
    for _ in range(5):
        permuted = labels[torch.randperm(24, generator=generator)]
        drawn = metrics(Statistics(4, 40).update(features, permuted), (weight, None), ["nc3", "nc1"])
        drawn["ncc_accuracy"] = CentreDecisions(centres).update(features, permuted).ncc_accuracy
        for name, values in expected.items():
            values.append(drawn[name])
    for name, values in expected.items():
        assert found[name] == pytest.approx((np.mean(values), np.std(values, ddof=1)), rel=1e-6), name


def test_of_noise_a_measure_is_its_null_of_classes_it_is_not() -> None:
    names = ("nc1", "nc1_trace_ratio", "cdnv", "cdnv_directional")
    features, labels = draw(10, 10, 128)
    told, value = null(features, labels, names), measure_features(features, labels, names)
    assert all(abs(value[name] - told[name][0]) < 4 * told[name][1] for name in names)
    assert told["cdnv"][0] == pytest.approx(4.5, rel=0.05)  # (n − 1)/2
    features, labels = draw(10, 10, 128, 0.5)
    told, value = null(features, labels, names), measure_features(features, labels, names)
    assert all(value[name] < told[name][0] - 10 * told[name][1] for name in names)


def test_the_only_sample_of_a_class_does_not_count_as_told_right() -> None:
    """Of the class of two, one is nearer to the single sample than to its own mean."""
    features, labels = [[0.0], [1.0], [-1.2]], [0, 1, 1]
    assert measure_features(features, labels, ["ncc_accuracy"]) == {"ncc_accuracy": 0.5}


def test_null_of_what_is_undefined() -> None:
    features, labels = draw(3, 1, 5)
    assert all(math.isnan(part) for part in null(features, labels, ["cdnv"])["cdnv"])
    with pytest.raises(StatisticsError, match="2 or more, found 1"):
        null(features, labels, permutations=1)
    with pytest.raises(StatisticsError, match="unknown measure nc3"):
        null(features, labels, ["nc3"])


def test_corrected_forms_by_hand() -> None:
    """Against formulas written out in numpy, on unequal classes."""
    rng = np.random.default_rng(5)
    counts = np.array([4, 9, 6, 15])
    labels = np.repeat(np.arange(4), counts)
    x = 2 * rng.normal(size=(4, 7))[labels] + rng.normal(size=(34, 7))
    S = Statistics(4, 7).update(x, labels)
    mean = np.stack([x[labels == c].mean(0) for c in range(4)])
    v = np.array([((x[labels == c] - mean[c]) ** 2).sum() / (counts[c] - 1) for c in range(4)])
    M = mean - mean.mean(0)
    noise = 3 / 4 * np.mean(v / counts)
    found = metrics(S, ask=[*CORRECTED, "vci", "cdnv_median_inverse", "nc1_trace_ratio_inverse"])
    ratio = (counts / 34 @ v) / ((M**2).sum() / 4 - noise)
    assert found["nc1_trace_ratio_corrected"] == pytest.approx(ratio, rel=1e-12)
    each = [
        2 * (((mean[i] - mean[j]) ** 2).sum() - v[i] / counts[i] - v[j] / counts[j]) / (v[i] + v[j])
        for i in range(4)
        for j in range(i)
    ]
    assert found["cdnv_median_inverse"] == pytest.approx(np.median(each), rel=1e-12)
    assert found["cdnv_median"] == pytest.approx(1 / np.median(each), rel=1e-12)
    centred = x - x.mean(0)
    B = sum(counts[c] * np.outer(mean[c] - x.mean(0), mean[c] - x.mean(0)) for c in range(4))
    vci = 1 - np.trace(np.linalg.pinv(centred.T @ centred) @ B) / 3
    assert found["vci"] == pytest.approx(vci, rel=1e-9)
    assert found["vci_corrected"] == pytest.approx(vci / (1 - 7 / 33), rel=1e-9)
    within = (x - mean[labels]).T @ (x - mean[labels]) / (34 - 4)
    _, s, directions = np.linalg.svd(M, full_matrices=False)
    shrunk = sum((directions[k] @ within @ directions[k]) / (s[k] ** 2 / 4 - noise / 3) for k in range(3)) / 4
    assert found["nc1_shrunk"] == pytest.approx(shrunk, rel=1e-9)
    assert not set(CORRECTED) & set(metrics(S))  # only where they are asked for


def test_vci_is_corrected_for_the_rank_of_the_means() -> None:
    """Six classes in two dimensions: their means span two directions, and not one less than there are classes."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(6), 5)
    found = metrics(Statistics(6, 2).update(rng.normal(size=(30, 2)), labels), ask=["vci", "vci_corrected"])
    assert found["vci_corrected"] == pytest.approx(found["vci"] / (1 - 2 * 5 / (29 * 2)), rel=1e-9)


@pytest.mark.parametrize(("classes", "each", "dim"), [(5, 8, 600), (5, 100, 40)])
def test_corrected_forms_are_near_the_truth_where_plain_ones_are_not(classes: int, each: int, dim: int) -> None:
    """Means over draws; the truth is that of the means and of unit covariance."""
    apart = 0.5 if dim < 100 else 0.3
    means = torch.from_numpy(apart * np.random.default_rng(99).normal(size=(classes, dim)))
    count = torch.full((classes,), 10**9)
    state = {"count": count, "mean": means, "squares": dim * count.double()}
    truth = metrics(Statistics.from_state(state | {"scatter": torch.eye(dim).double() * count.sum()}))
    drawn = []
    for seed in range(20):
        S = Statistics(classes, dim).update(*draw(classes, each, dim, apart, seed))
        drawn.append(metrics(S, ask=["nc1", "nc1_shrunk", "nc1_trace_ratio", "nc1_trace_ratio_corrected"]))
    for name, corrected in (("nc1", "nc1_shrunk"), ("nc1_trace_ratio", "nc1_trace_ratio_corrected")):
        own, better = (np.mean([each[key] for each in drawn]) for key in (name, corrected))
        assert better == pytest.approx(truth[name], rel=0.1), corrected
        assert abs(better - truth[name]) < abs(own - truth[name]), name


def test_vci_is_invariant_undefined_without_freedom_and_one_for_noise() -> None:
    features, labels = draw(5, 30, 8, 1.0)
    turned = features @ torch.randn(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = metrics(Statistics(5, 8).update(features, labels), ask="vci")["vci"]
    assert metrics(Statistics(5, 8).update(turned, labels), ask="vci")["vci"] == pytest.approx(found, rel=1e-8)
    few = Statistics(5, 40).update(*draw(5, 5, 40, 1.0))  # 25 samples in 40 dimensions: any labels are told apart
    assert math.isnan(metrics(few, ask="vci")["vci"])
    noise = [metrics(Statistics(5, 8).update(*draw(5, 6, 8, seed=s)), ask="vci_corrected") for s in range(40)]
    assert np.mean([each["vci_corrected"] for each in noise]) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("covariance", ["none", "pooled", "class"])
def test_superclasses_are_as_if_labels_were_coarser(covariance: str) -> None:
    features, labels = draw(6, 7, 5, 1.0)
    superclass = torch.tensor([2, 0, 0, 3, 2, 2])
    found = Statistics(6, 5, covariance).update(features, labels).by_superclass(superclass)
    expected = Statistics(4, 5, covariance).update(features, superclass[labels])
    for name, tensor in expected.state().items():
        torch.testing.assert_close(found.state()[name], tensor, rtol=1e-10, atol=1e-10)
    assert found.absent.tolist() == [1]
    with pytest.raises(StatisticsError, match=r"labels: expected shape \[6\]"):
        Statistics(6, 5).by_superclass([0, 1])
    for wrong in ([0.0] * 5 + [math.nan], [0, 0, 0, 0, 0, -1], [1j] * 6):
        with pytest.raises(StatisticsError, match="labels: expected"):
            Statistics(6, 5).by_superclass(wrong)


@pytest.mark.slow
def test_noise_at_four_sizes() -> None:
    """The table of scripts/label_noise.py holds."""
    import subprocess
    import sys
    from pathlib import Path

    script = Path(__file__).parents[2] / "scripts" / "label_noise.py"
    done = subprocess.run([sys.executable, str(script), "--dim", "128"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_null_needs_a_row_for_every_class() -> None:
    features, labels = torch.randn(12, 3), torch.arange(12) % 3
    with pytest.raises(StatisticsError, match="centres: expected a row for each of the 3 classes, found 2 rows"):
        null(features, labels, ["ncc_accuracy"], centres=torch.eye(3)[:2])
    with pytest.raises(StatisticsError, match="classifier: expected a row for each of the 3 classes, found 2 rows"):
        null(features, labels, ["nc3"], classifier=(torch.eye(3)[:2], None))
