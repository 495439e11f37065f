"""Distances between feature laws, the decay with depth, and the predicted error of few shots."""

from __future__ import annotations

import math

import pytest
import torch

from image2point import collapse
from image2point.collapse import Statistics, StatisticsError


def test_wasserstein_of_known_laws() -> None:
    grid = torch.linspace(0, 1, 11)[:, None]
    shifted = torch.cat([grid, grid + 3, 2 * grid], 1)
    found = collapse.wasserstein(grid.expand(-1, 3), shifted)
    assert found.distances.tolist() == pytest.approx([0, 3, 0.5])  # a scale: the mean of |x|
    assert found.mean == pytest.approx(3.5 / 3)
    assert found.relative == pytest.approx(3.5 / 3 / float(grid.std(correction=0)))


def test_wasserstein_of_samples_of_different_sizes() -> None:
    """Against the definition by quantile functions, which are steps of different lengths here."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(6, 2, generator=generator).double(), torch.randn(10, 2, generator=generator).double() + 1
    u = (torch.arange(30000, dtype=torch.float64) + 0.5) / 30000
    for column in range(2):
        qa, qb = a[:, column].sort().values[(u * 6).long()], b[:, column].sort().values[(u * 10).long()]
        assert float(collapse.wasserstein(a, b).distances[column]) == pytest.approx(float((qa - qb).abs().mean()))
    repeated = collapse.wasserstein(a.repeat(5, 1), b.repeat(2, 1))
    assert repeated.mean == pytest.approx(collapse.wasserstein(a, b).mean)
    with pytest.raises(StatisticsError, match="samples in both sets"):
        collapse.wasserstein(a, b[:0])


def test_decay_of_an_exact_geometric_sequence() -> None:
    found = collapse.fit_decay([5 * 0.7**depth for depth in range(6)])
    assert found.rate == pytest.approx(0.7) and found.explained == pytest.approx(1.0)
    assert found.low == pytest.approx(0.7, abs=1e-6) and found.layers == 6
    gap = collapse.fit_decay([1.0, math.nan, 0.25, 0.125])
    assert gap.rate == pytest.approx(0.5) and gap.layers == 3
    flat = collapse.fit_decay([1.0, 2.0, 1.0, 2.0])
    assert flat.low < 1 < flat.high and flat.explained < 0.5
    with pytest.raises(StatisticsError, match="at least 2 layers"):
        collapse.fit_decay([1.0, 0.0])


@pytest.mark.parametrize(("ways", "shots"), [(2, 1), (2, 5), (4, 5)])
def test_margin_error_predicts_episodes_of_anisotropic_gaussians(ways: int, shots: int) -> None:
    generator = torch.Generator().manual_seed(1)
    classes, each, dim = 6, 500, 40
    stretch = torch.linspace(0.2, 2.5, dim)
    centres = 3.0 * torch.randn(classes, dim, generator=generator) / dim**0.5 * stretch
    labels = torch.arange(classes).repeat_interleave(each)
    features = centres[labels] + stretch * torch.randn(classes * each, dim, generator=generator) / 2
    S = Statistics(classes, dim, "class", moments=4).update(features, labels)
    measured = 1 - collapse.few_shot(features, labels, ways, shots, episodes=800).accuracy
    predicted = collapse.margin_error(S, shots, ways)
    assert 0.02 < measured < 0.6
    assert predicted == pytest.approx(measured, rel=0.12, abs=0.01)
    assert predicted <= collapse.moment_bound(S, shots, ways).value


def test_margin_error_without_many_shots_is_the_gaussian_formula() -> None:
    """Two isotropic classes: for n → ∞ both are Φ(−d/2σ)."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(2).repeat_interleave(20_000)
    features = torch.randn(40_000, 3, generator=generator).double()
    features[labels == 1, 0] += 2
    S = Statistics(2, 3, "class", moments=4).update(features, labels)
    assert collapse.margin_error(S, 1e9, 2) == pytest.approx(collapse.gaussian_error(3 / 4, 3), rel=0.02)


def test_mean_interval_is_students() -> None:
    found = collapse.mean_interval([1.0, 2.0, 3.0])
    assert (found.value, found.error) == pytest.approx((2.0, 1 / math.sqrt(3)))
    assert found.high - found.value == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)
    assert math.isnan(collapse.mean_interval([1.0]).low)
    with pytest.raises(StatisticsError, match="at least one"):
        collapse.mean_interval([])
