"""The unconstrained feature model converges to what theory says, at the value that theory says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from image2point.collapse import StatisticsError, UnconstrainedFeatures, solve


@pytest.mark.parametrize("loss", ["ce", "mse"])
@pytest.mark.parametrize(("classes", "each"), [(4, 5), (10, 5), (40, 2)])
def test_balanced_classes_end_in_the_etf(loss: str, classes: int, each: int) -> None:
    problem = UnconstrainedFeatures((each,) * classes, classes + 2, loss)
    found = solve(problem, seed=classes)
    assert found.etf_distance < 1e-3
    assert problem.minimum is not None
    assert found.value == pytest.approx(problem.minimum, rel=1e-8)
    assert found.certificate <= 1 + 1e-4
    # Features lie along the classifier's rows, λ_H ‖H‖² = λ_W ‖W‖² (the decays are in balance).
    assert float(found.features.square().sum()) == pytest.approx(float(found.weight.square().sum()), rel=1e-5)
    assert found.metrics()["nc2_equinorm"] < 1e-3


@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_the_closed_form_is_below_every_other_point(loss: str) -> None:
    problem = UnconstrainedFeatures((4,) * 5, 6, loss, weight_decay=2e-3, feature_decay=1e-2)
    found = solve(problem)
    assert problem.minimum == pytest.approx(found.value, rel=1e-8)
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-2, 0.1, 1.0):
        moved = [
            each + scale * torch.randn(each.shape, generator=generator, dtype=torch.float64)
            for each in (found.features, found.weight, found.bias)
        ]
        assert float(problem.objective(*moved)) > problem.minimum


def test_mse_without_bias_is_an_orthogonal_frame() -> None:
    problem = UnconstrainedFeatures((3,) * 6, 8, "mse", bias=False)
    found = solve(problem)
    assert found.value == pytest.approx(problem.minimum, rel=1e-8)
    assert torch.equal(found.bias, torch.zeros(6, dtype=torch.float64))
    gram = found.weight @ found.weight.mT
    torch.testing.assert_close(gram, float(gram[0, 0]) * torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-5)
    assert found.metrics()["nc2_w_etf"] > 0.1  # an ETF only once it is centred
    assert found.metrics()["nc2_etf"] < 1e-3


@pytest.mark.parametrize("bias", [True, False])
def test_mse_of_unbalanced_classes_has_the_known_minimum(bias: bool) -> None:
    problem = UnconstrainedFeatures((12, 6, 3, 2), 6, "mse", bias=bias)
    found = solve(problem)
    assert problem.minimum == pytest.approx(found.value, rel=1e-8)
    assert found.certificate <= 1 + 1e-4
    assert found.metrics()["nc1_trace_ratio"] < 1e-6  # still collapsed,
    assert found.metrics()["nc2_equinorm"] > 0.05  # but no ETF


def test_ce_of_unbalanced_classes_is_certified_and_minorities_merge() -> None:
    """Two classes of 40 and two of one sample: the minority classifiers become one. With 20 samples they do not."""
    problem = UnconstrainedFeatures((40, 40, 1, 1), 6, "ce", 0.015, 0.015)
    assert problem.minimum is None
    found = solve(problem)
    assert found.certificate <= 1 + 1e-4
    assert float((found.weight[2] - found.weight[3]).norm()) < 1e-3 * float((found.weight[0] - found.weight[1]).norm())
    milder = solve(UnconstrainedFeatures((40, 40, 20, 20), 6, "ce", 0.015, 0.015))
    assert milder.certificate <= 1 + 1e-4
    weight = milder.weight
    assert float((weight[2] - weight[3]).norm()) > 0.5 * float((weight[0] - weight[1]).norm())


def test_certificate_rejects_a_stationary_point_that_is_no_minimum() -> None:
    """At H = W = 0 the gradient vanishes; the certificate is what knows better."""
    problem = UnconstrainedFeatures((5,) * 4, 6, "ce")
    logits = torch.zeros(20, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(problem.mean_loss(logits), logits)
    assert np.linalg.norm(gradient.numpy(), 2) / problem.strength > 1.5
    assert problem.minimum is not None and problem.minimum < math.log(4)


@pytest.mark.parametrize(("loss", "least"), [("ce", math.log(4)), ("mse", 3 / 8)])
def test_under_strong_decay_everything_is_zero(loss: str, least: float) -> None:
    problem = UnconstrainedFeatures((5,) * 4, 6, loss, weight_decay=0.5, feature_decay=0.5)
    assert problem.minimum == pytest.approx(least, rel=1e-12)
    found = solve(problem)
    assert found.value == pytest.approx(least, rel=1e-8)
    assert float(found.weight.abs().max()) < 1e-3


def test_requests_that_have_no_answer() -> None:
    with pytest.raises(StatisticsError, match="one of ce, mse, found 'hinge'"):
        UnconstrainedFeatures((2, 2), 3, "hinge")
    with pytest.raises(StatisticsError, match="at least 2 classes"):
        UnconstrainedFeatures((2,), 3)
    with pytest.raises(StatisticsError, match="without decay there is no minimum"):
        UnconstrainedFeatures((2, 2), 3, weight_decay=0.0)
    with pytest.raises(StatisticsError, match="no minimum found in 3 steps"):
        solve(UnconstrainedFeatures((5,) * 4, 6), max_steps=3)
    assert UnconstrainedFeatures((5,) * 4, 2, "ce").minimum is None  # four classes make no simplex in a plane
    assert UnconstrainedFeatures((5,) * 4, 3, "mse", bias=False).minimum is None
