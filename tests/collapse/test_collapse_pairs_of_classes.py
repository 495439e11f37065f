"""CDNV pair by pair, and the second pass for the directional one: against definitions written out in loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from image2point.collapse import (
    DirectionalSpread,
    Statistics,
    StatisticsError,
    cdnv_matrix,
    distance_matrix,
    metrics,
)


def draw(offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.array([0, 2, 3, 5])[rng.integers(0, 4, 70)]
    shape = rng.normal(size=(6, 7, 7))
    features = 4 * rng.normal(size=(6, 7))[labels] + np.einsum("nd,nde->ne", rng.normal(size=(70, 7)), shape[labels])
    return features + offset, labels


def written_out(features: np.ndarray, labels: np.ndarray, form: str) -> np.ndarray:
    matrix = np.full((6, 6), np.nan)
    groups = {c: features[labels == c] for c in np.unique(labels)}
    for i, a in groups.items():
        for j, b in groups.items():
            delta = a.mean(0) - b.mean(0)
            d2 = delta @ delta
            if i == j:
                continue
            va, vb = a.var(0).sum(), b.var(0).sum()
            if form == "symmetric":
                matrix[i, j] = (va + vb) / 2 / d2
            elif form == "asymmetric":
                matrix[i, j] = va / d2
            elif form == "directional":
                matrix[i, j] = (a @ delta).var() / d2**2
            else:
                va, vb = a.var(0, ddof=1).sum(), b.var(0, ddof=1).sum()
                matrix[i, j] = (va + vb) / 2 / (d2 - va / len(a) - vb / len(b))
    return matrix


@pytest.mark.parametrize("form", ["symmetric", "asymmetric", "corrected", "directional"])
def test_matrices(form: str) -> None:
    features, labels = draw()
    S = Statistics(6, 7, "class").update(features, labels)
    found = cdnv_matrix(S, form)
    np.testing.assert_allclose(found.numpy(), written_out(features, labels, form), rtol=1e-10)
    name = {"symmetric": "cdnv"}.get(form, f"cdnv_{form}")
    assert float(found.nanmean()) == pytest.approx(metrics(S)[name], rel=1e-10)


def test_distances_and_requests() -> None:
    features, labels = draw(1e4)
    S = Statistics(6, 7).update(features, labels)
    distances = distance_matrix(S)
    assert float(distances[0, 2]) == pytest.approx(
        np.linalg.norm(features[labels == 0].mean(0) - features[labels == 2].mean(0)), rel=1e-9
    )
    assert distances[1].isnan().all() and distances[0, 0] == 0.0
    with pytest.raises(StatisticsError, match=r'needs Statistics\(\.\.\., covariance="class"\).*\'pooled\''):
        cdnv_matrix(S, "directional")
    with pytest.raises(StatisticsError, match=r"one of symmetric, .*found 'square'"):
        cdnv_matrix(S, "square")


def test_a_pair_with_no_positive_corrected_distance_is_undefined() -> None:
    features = np.array([[-1.0], [1.0], [-0.9], [1.1], [50.0], [51.0]])
    matrix = cdnv_matrix(Statistics(3, 1).update(features, [0, 0, 1, 1, 2, 2]), "corrected")
    assert matrix.isnan().tolist() == [[True, True, False], [True, True, False], [False, False, True]]


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_directional_second_pass(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image2point.collapse.inputs.BLOCK", 50)
    features, labels = draw(100.0)
    means = Statistics(6, 7).update(features, labels).means
    spreads = [DirectionalSpread(means).update(features[k::parts], labels[k::parts]) for k in range(parts)]
    spread = spreads[0]
    for other in spreads[1:]:
        spread = spread.merge(other)
    np.testing.assert_allclose(spread.matrix.numpy(), written_out(features, labels, "directional"), rtol=1e-9)
    full = metrics(Statistics(6, 7, "class").update(features, labels), ask="cdnv_directional")
    assert spread.cdnv_directional == pytest.approx(full["cdnv_directional"], rel=1e-9)


def test_directional_errors() -> None:
    means = torch.tensor([[0.0, 0.0], [1.0, 0.0], [torch.nan, torch.nan]])
    with pytest.raises(StatisticsError, match="classes that have a mean, found 2 in row 1"):
        DirectionalSpread(means).update(torch.zeros(2, 2), [0, 2])
    with pytest.raises(StatisticsError, match="different means"):
        DirectionalSpread(means).merge(DirectionalSpread(means + 1))
    with pytest.raises(StatisticsError, match="wholly NaN"):
        DirectionalSpread([[0.0, np.nan], [1.0, 1.0]])
    one_class_seen = DirectionalSpread(means).update(torch.zeros(2, 2), [0, 0])
    assert np.isnan(one_class_seen.cdnv_directional)
