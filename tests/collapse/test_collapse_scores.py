"""LogME against the evidence itself; scores order features as they should, and never see what they are scored on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from image2point.collapse import StatisticsError, bhattacharyya, linear_probe, logme, shrunk_h_score, transfer_scores
from image2point.collapse.logme import NOISE, largest_evidence
from image2point.collapse.scores import SCORES, cross_validated


def draw(
    classes: int = 4, each: int = 8, dim: int = 6, spread: float = 1.0, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), each))
    features = rng.normal(size=(classes, dim))[labels] + spread * rng.normal(size=(len(labels), dim))
    return torch.tensor(features), torch.tensor(labels)


def log_evidence(F: np.ndarray, y: np.ndarray, alpha: float, beta: float) -> float:
    """The marginal law of y written out: a normal one with covariance F Fᵀ/α + I/β."""
    covariance = F @ F.T / alpha + np.eye(len(y)) / beta
    return float(-(y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(2 * np.pi * covariance)[1]) / 2)


def best_evidence(F: np.ndarray, y: np.ndarray) -> float:
    """Its largest value, by a general optimiser from the best place of a grid."""
    least = NOISE * (y**2).mean()  # of 1/β

    def at(place: np.ndarray) -> float:
        return log_evidence(
            F, y, float(np.exp(place[0].clip(-30, 30))), 1 / float(least + np.exp(-place[1].clip(-25, 25)))
        )

    grid = [np.array([a, b]) for a in np.linspace(-8, 12, 41) for b in np.linspace(-1, 20, 22)]
    found = minimize(lambda place: -at(place), max(grid, key=at), method="Nelder-Mead", tol=1e-9)
    return -float(found.fun)


# ---- LogME -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("each", "dim"), [(8, 6), (3, 20), (6, 24)])
@pytest.mark.parametrize("spread", [0.2, 1.0, 4.0])
def test_logme_is_the_largest_evidence_of_a_linear_model(each: int, dim: int, spread: float) -> None:
    """More samples than features, fewer, and as many: a general optimiser finds no larger one, and no smaller."""
    features, labels = draw(each=each, dim=dim, spread=spread)
    targets = torch.nn.functional.one_hot(labels).double()
    found = largest_evidence(features, targets)
    for y, value in zip(targets.numpy().T, found.tolist(), strict=True):
        assert value == pytest.approx(best_evidence(features.numpy(), y), abs=1e-4)
    assert logme(features, labels) == pytest.approx(float(found.mean()) / len(labels))


def test_samples_without_features_do_not_make_logme_endless() -> None:
    """Half of the features all zero: the targets of a class that has none of these are explained exactly."""
    features, labels = draw(classes=4, each=8, dim=40)
    features[(labels == 0) | (labels == 1)] = 0
    targets = torch.nn.functional.one_hot(labels).double()
    found = largest_evidence(features, targets)
    for y, value in zip(targets.numpy().T, found.tolist(), strict=True):
        assert value == pytest.approx(best_evidence(features.numpy(), y), abs=1e-3)
    unbounded = log_evidence(features.numpy(), targets[:, 2].numpy(), 1.0, 1e12)
    assert unbounded > float(found[2]) + 100


def test_logme_knows_no_scale_and_prefers_features_that_tell() -> None:
    features, labels = draw(spread=0.3)
    assert logme(1e3 * features, labels) == pytest.approx(logme(features, labels), abs=1e-9)
    assert logme(features, labels) > logme(draw(spread=3.0)[0], labels)
    noise = torch.randn(features.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert logme(features, labels) > logme(noise, labels)
    with pytest.raises(StatisticsError, match="at least 2 classes, found 1"):
        logme(features, torch.zeros_like(labels))
    with pytest.raises(StatisticsError, match="not all zero"):
        logme(0 * features, labels)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e60])
def test_logme_knows_no_scale_however_extreme(scale: float) -> None:
    features, labels = draw(each=20, spread=0.5)
    assert logme(scale * features, labels) == pytest.approx(logme(features, labels), abs=1e-9)


# ---- scores ------------------------------------------------------------------------------------------


def test_every_score_is_bigger_for_tighter_classes_and_knows_no_scale() -> None:
    features, labels = draw(each=20, spread=0.5)
    tight, loose = transfer_scores(features, labels), transfer_scores(draw(each=20, spread=2.0)[0], labels)
    assert tuple(tight) == SCORES
    for name in SCORES:
        assert tight[name] > loose[name], name
    # One copy of the features is far away and large: only LogME, which has no bias, minds the former.
    scaled, moved = transfer_scores(100 * features, labels), transfer_scores(features + 50, labels)
    for name in SCORES:
        assert scaled[name] == pytest.approx(tight[name], rel=1e-6), name
        assert name == "logme" or moved[name] == pytest.approx(tight[name], rel=1e-6), name


def test_accuracies_are_of_samples_that_the_classifier_has_not_seen() -> None:
    """Random labels in many dimensions: a classifier that saw them tells all apart, one that did not is at chance."""
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(200, 400, generator=rng, dtype=torch.float64)
    labels = torch.arange(200) % 4
    assert linear_probe(features, labels, features, labels) == 1.0
    found = transfer_scores(features, labels)
    assert found["probe"] == pytest.approx(0.25, abs=0.1) and found["ncc"] == pytest.approx(0.25, abs=0.1)


def test_leaving_one_out_is_what_it_says() -> None:
    features, labels = draw(each=4, spread=0.8)
    right = 0
    for i in range(len(labels)):
        rest = torch.arange(len(labels)) != i
        means = torch.stack([features[rest & (labels == c)].mean(0) for c in range(4)])
        right += int((features[i] - means).norm(dim=1).argmin() == labels[i])
    assert cross_validated(features, labels, "ncc", folds=10**6) == pytest.approx(right / len(labels))
    assert 0.25 < right / len(labels) < 1


def test_what_cannot_be_scored_is_named() -> None:
    features, labels = draw()
    with pytest.raises(StatisticsError, match="2 samples each, found 5 classes, the smallest of 1"):
        transfer_scores(features, torch.where(torch.arange(len(labels)) == 0, 4, labels))
    with pytest.raises(StatisticsError, match="differ between samples"):
        transfer_scores(torch.ones_like(features), labels)
    with pytest.raises(StatisticsError, match="folds: expected 2 or more, found 1"):
        transfer_scores(features, labels, folds=1)


# ---- overlap and explained variance ----------------------------------------------------------------------


def test_bhattacharyya_by_hand() -> None:
    features, labels = draw(each=9, spread=1.0)
    x = features.numpy() - features.numpy().mean(0)
    d = x.shape[1]
    stats = [(x[labels == c].mean(0), x[labels == c].var(0).mean()) for c in range(4)]
    overlaps = []
    for i in range(4):
        for j in range(i):
            middle = (stats[i][1] + stats[j][1]) / 2
            distance = ((stats[i][0] - stats[j][0]) ** 2).sum() / (8 * middle)
            distance += d / 2 * math.log(middle / math.sqrt(stats[i][1] * stats[j][1]))
            overlaps.append(math.exp(-distance))
    assert bhattacharyya(features, labels) == pytest.approx(-np.mean(overlaps), rel=1e-10)
    # Of two components, that is so along the two principal axes.
    _, _, axes = np.linalg.svd(x, full_matrices=False)
    reduced = bhattacharyya(torch.from_numpy(x @ axes[:2].T), labels)
    assert bhattacharyya(features, labels, components=2) == pytest.approx(reduced, rel=1e-9)


@pytest.mark.parametrize(("each", "dim"), [(30, 6), (5, 40)])
def test_shrunk_h_score_by_hand(each: int, dim: int) -> None:
    """With whole matrices: the shrinkage as Ledoit and Wolf define it, from the covariance of every sample."""
    features, labels = draw(each=each, dim=dim, spread=1.0)
    x = features.numpy() - features.numpy().mean(0)
    n, d = x.shape
    sigma = x.T @ x / n
    target = np.trace(sigma) / d * np.eye(d)
    noise = sum(((np.outer(row, row) - sigma) ** 2).sum() for row in x) / n**2
    alpha = min(1.0, noise / ((sigma - target) ** 2).sum())
    assert 0 < alpha < 1
    z = np.stack([x[labels.numpy() == c].mean(0) for c in labels.tolist()])
    expected = np.trace(np.linalg.inv((1 - alpha) * sigma + alpha * target) @ (z.T @ z / n)) * (1 - alpha)
    assert shrunk_h_score(features, labels) == pytest.approx(expected, rel=1e-9)
    assert 0 < expected < 3
