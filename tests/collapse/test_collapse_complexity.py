"""Geometric complexity: exact anchors, torch.func as the oracle, honest error bars, sparse clouds, the penalty."""

from __future__ import annotations

import math
from collections.abc import Callable

import collapse_reference as reference
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from image2point.collapse import (
    Complexity,
    Statistics,
    StatisticsError,
    complexity_penalty,
    geometric_collapse,
    geometric_complexity,
    input_scale,
    largest_variance,
    metrics,
)
from image2point.voxels import BatchNorm, GlobalPool, VoxelConv, VoxelTensor, functional, voxelize


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_net() -> nn.Module:
    torch.manual_seed(0)
    convolution = nn.Conv2d(2, 6, 3, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(6), nn.SiLU(), nn.Flatten(), nn.Linear(150, 12)).double().eval()


def by_torch_func(fn: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """‖J‖_F² per sample, each from its own Jacobian."""
    jacobians = [torch.func.jacrev(lambda x: fn(x[None])[0])(x) for x in inputs]
    return torch.stack([jacobian.square().sum() for jacobian in jacobians]).detach()


@pytest.mark.parametrize("method", ["exact", "sampled"])
def test_a_linear_map_has_the_squared_norm_of_its_weight(method: str) -> None:
    weight = torch.randn(7, 5, generator=generator(), dtype=torch.float64)
    g = geometric_complexity(lambda x: x @ weight.T + 3.0, torch.randn(4, 5).double(), method, probes=7)
    assert g.values.tolist() == pytest.approx([float(weight.square().sum())] * 4, rel=1e-12)
    assert g.value == float(g) == pytest.approx(float(weight.square().sum()), rel=1e-12)
    assert g.error == pytest.approx(0.0, abs=1e-12)


def test_a_relu_layer_on_sign_pairs_has_half_the_squared_norm() -> None:
    weight = torch.randn(9, 6, generator=generator(1), dtype=torch.float64)
    x = torch.randn(20, 6, generator=generator(2), dtype=torch.float64)
    g = geometric_complexity(lambda x: (x @ weight.T).relu(), torch.cat([x, -x]), "exact")
    assert g.value == pytest.approx(0.5 * float(weight.square().sum()), rel=1e-12)
    assert g.error == 0.0
    assert g.sampling_error > 0.0


@pytest.mark.parametrize("batch_size", [None, 2])
def test_exact_agrees_with_torch_func(batch_size: int | None) -> None:
    net, x = small_net(), torch.randn(5, 2, 5, 5, generator=generator(), dtype=torch.float64)
    g = geometric_complexity(net, x, "exact", batch_size=batch_size)
    torch.testing.assert_close(g.values, by_torch_func(net, x), rtol=1e-10, atol=0)
    assert not x.requires_grad and all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("method", ["hutchinson", "sampled"])
def test_estimates_are_unbiased_and_their_error_bars_honest(method: str) -> None:
    """Over 60 seeds: the mean is right, and the errors, in units of the error bar, have about unit spread."""
    net, x = small_net(), torch.randn(6, 2, 5, 5, generator=generator(), dtype=torch.float64)
    exact = geometric_complexity(net, x, "exact").value
    found = [geometric_complexity(net, x, method, probes=6, seed=seed) for seed in range(60)]
    deviations = np.array([(g.value - exact) / g.error for g in found])
    assert abs(np.mean([g.value for g in found]) - exact) < 4 * np.std([g.value for g in found]) / math.sqrt(60)
    assert 0.7 < np.sqrt(np.mean(deviations**2)) < 1.5
    assert np.mean(np.abs(deviations) < 2) > 0.85
    again = geometric_complexity(net, x, method, probes=6, seed=0)
    assert torch.equal(again.values, found[0].values)


def test_hutchinson_spread_per_probe() -> None:
    """Random signs: Var‖Jᵀv‖² = 2 Σ_{i≠j} (JJᵀ)_ij², which is nothing for orthogonal rows."""
    weight = torch.randn(64, 40, generator=generator(3), dtype=torch.float64)
    x = torch.zeros(3000, 40, dtype=torch.float64)
    g = geometric_complexity(lambda x: x @ weight.T, x, "hutchinson", probes=2)
    gram = weight @ weight.T
    expected = 2 * float(gram.square().sum() - gram.diagonal().square().sum())
    assert float(2 * g.variances.mean()) == pytest.approx(expected, rel=0.1)
    orthogonal = torch.linalg.qr(weight.T)[0].T
    g = geometric_complexity(lambda x: x @ orthogonal.T, x[:3], "hutchinson", probes=2)
    assert g.values.tolist() == pytest.approx([40.0] * 3, rel=1e-12)


def test_classes_normalisation_and_joining() -> None:
    net = small_net()
    x = torch.randn(6, 2, 5, 5, generator=generator(), dtype=torch.float64)
    g = geometric_complexity(net, x, "exact")
    labels = torch.tensor([0, 2, 2, 0, 2, 3])
    mean, error = g.of_classes(labels, 4)
    assert mean[[0, 2, 3]].tolist() == pytest.approx([float(g.values[labels == c].mean()) for c in (0, 2, 3)])
    assert float(error[2]) == pytest.approx(float(g.values[labels == 2].std()) / math.sqrt(3), rel=1e-9)
    assert mean[1].isnan() and error[1].isnan() and error[3].isnan()
    joined = Complexity.join([geometric_complexity(net, x[:2], "exact"), geometric_complexity(net, x[2:], "exact")])
    assert torch.equal(joined.values, g.values)
    # The same function of the same things in other units has the same normalised complexity.
    other = geometric_complexity(lambda z: net((z - 7.0) / 255.0), 255 * x + 7.0, "exact")
    assert other.value == pytest.approx(g.value / 255**2, rel=1e-9)
    normal, other_normal = g.normalised(input_scale(x)), other.normalised(input_scale(255 * x + 7.0))
    assert other_normal.value == pytest.approx(normal.value, rel=1e-9)


def test_input_scale_takes_the_mean_of_each_channel_away() -> None:
    x = torch.tensor([[1.0, 10.0], [3.0, 14.0]])
    assert input_scale(x) == pytest.approx(math.sqrt((1 + 1 + 4 + 4) / 4), rel=1e-12)
    image = x.repeat(3, 1)[:, :, None, None].expand(6, 2, 4, 4)
    assert input_scale(image) == pytest.approx(input_scale(x), rel=1e-12)


# ---- sparse clouds -----------------------------------------------------------------------------------


class SparseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        options = {"dilation": 1, "groups": 1, "bias": False, "axis": "z", "depth_padding": "zeros", "engine": "auto"}
        self.first = VoxelConv(3, 4, (3, 3, 3), stride=1, padding=(1, 1, 1), **options)
        self.norm = BatchNorm(4)
        self.second = VoxelConv(4, 5, (3, 3, 3), stride=2, padding=(1, 1, 1), **options)
        self.pool = GlobalPool("avg")

    def forward(self, x: VoxelTensor) -> Tensor:
        x = functional.pointwise(torch.nn.functional.silu, self.norm(self.first(x)))
        return self.pool(functional.pointwise(torch.tanh, self.second(x)))


def clouds() -> tuple[nn.Module, VoxelTensor, list[VoxelTensor]]:
    points = [torch.rand(n, 3, generator=generator(n)) for n in (20, 35, 9)]
    net = SparseNet().double().eval()
    return net, voxelize(points, 0.25).double(), [voxelize([cloud], 0.25).double() for cloud in points]


def test_clouds_of_a_batch_measured_together_and_alone() -> None:
    net, batch, alone = clouds()
    samples = batch.coordinates[:, 0]
    g = geometric_complexity(lambda rows: net(batch.replace(rows)), batch.features, "exact", samples=samples)
    expected = []
    for cloud in alone:
        jacobian = torch.autograd.functional.jacobian(lambda rows, at=cloud: net(at.replace(rows))[0], cloud.features)
        expected.append(float(jacobian.square().sum()))
    assert g.values.tolist() == pytest.approx(expected, rel=1e-10)
    estimate = geometric_complexity(lambda rows: net(batch.replace(rows)), batch.features, probes=40, samples=samples)
    assert abs(estimate.value - g.value) < 4 * estimate.error
    assert 0 < estimate.error < 0.3 * g.value


def test_the_penalty_and_its_gradient_through_sparse_convolutions() -> None:
    net, batch, _ = clouds()
    rows = batch.features.clone().requires_grad_()
    g = geometric_complexity(lambda rows: net(batch.replace(rows)), rows, "exact", samples=batch.coordinates[:, 0])
    with torch.no_grad():
        drawn = [
            complexity_penalty(*graph(net, batch, rows), probes=1 + seed % 2, seed=seed).item() for seed in range(160)
        ]
    assert np.mean(drawn) == pytest.approx(g.value, abs=4 * np.std(drawn) / math.sqrt(160))

    weight = net.first.weight
    penalty = complexity_penalty(*graph(net, batch, rows), probes=2, seed=3)
    (slope,) = torch.autograd.grad(penalty, weight)
    direction = torch.randn(weight.shape, generator=generator(), dtype=torch.float64)
    sides = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            weight += step * direction
        sides.append(complexity_penalty(*graph(net, batch, rows), probes=2, seed=3).item())
        with torch.no_grad():
            weight -= step * direction
    assert float((slope * direction).sum()) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-6)


def graph(net: nn.Module, batch: VoxelTensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        return net(batch.replace(rows)), rows


def test_training_with_the_penalty_lowers_complexity() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 8))
    x = torch.randn(30, 6)
    before = geometric_complexity(net, x, "exact").value
    optimiser = torch.optim.SGD(net.parameters(), 0.02)
    for step in range(30):
        optimiser.zero_grad()
        inputs = x.clone().requires_grad_()
        complexity_penalty(net(inputs), inputs, seed=step).backward()
        optimiser.step()
    assert geometric_complexity(net, x, "exact").value < 0.5 * before


# ---- geometric collapse ------------------------------------------------------------------------------


def test_linear_map_of_isotropic_classes_meets_the_inequality_exactly() -> None:
    """f = Wx with WᵀW = 4I: Var_f = σ²·GC for classes of covariance σ²I, so the diagnostics are all exact."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    x, labels = reference.around(reference.simplex(4, 8, 3.0), reference.noise(8, 0.5))
    inputs = torch.tensor(x)

    def fn(x: Tensor) -> Tensor:
        return x @ torch.tensor(2 * rotation)

    S = Statistics(5, 8).update(fn(inputs), labels)
    complexity, _ = geometric_complexity(fn, inputs, "exact").of_classes(torch.tensor(labels), 5)
    assert complexity[:4].tolist() == pytest.approx([32.0] * 4)
    eigenvalues = largest_variance(inputs, torch.tensor(labels), 5)
    assert eigenvalues[:4].tolist() == pytest.approx([0.25] * 4) and eigenvalues[4].isnan()
    found = geometric_collapse(S, complexity, eigenvalues)
    assert found.cdnv == pytest.approx(metrics(S)["cdnv"], rel=1e-12)
    assert found.ratio == pytest.approx(found.cdnv / 0.25, rel=1e-12)
    assert found.diagnostic_poincare == pytest.approx(0.25, rel=1e-12)
    assert found.diagnostic_bound == pytest.approx(found.cdnv, rel=1e-12)
    assert geometric_collapse(S, complexity).diagnostic_bound is None


@pytest.mark.parametrize("n", [4, 40])
def test_largest_variance(n: int) -> None:
    x = np.random.default_rng(1).normal(size=(n, 3, 4)) + 50
    expected = np.linalg.eigvalsh(np.cov(x.reshape(n, 12).T, bias=True))[-1]
    found = largest_variance(torch.tensor(x), torch.zeros(n, dtype=torch.int64), 1)
    assert float(found[0]) == pytest.approx(expected, rel=1e-10)


# ---- errors ------------------------------------------------------------------------------------------


def test_trap_a_network_that_mixes_samples_is_found_out() -> None:
    net, x = small_net().train(), torch.randn(5, 2, 5, 5, dtype=torch.float64)
    with pytest.raises(StatisticsError, match=r"sample 0 depends on other samples.*eval mode"):
        geometric_complexity(net, x, "exact")
    sparse, batch, _ = clouds()
    sparse.train()
    with pytest.raises(StatisticsError, match="sample 0 depends on other samples"):
        geometric_complexity(lambda rows: sparse(batch.replace(rows)), batch.features, samples=batch.coordinates[:, 0])


def test_errors() -> None:
    x = torch.randn(3, 4)
    square = nn.Linear(4, 2)
    requests: list[tuple[str, dict]] = [
        ("found 'monte carlo'", {"method": "monte carlo"}),
        ("probes: expected 2 or more", {"probes": 1}),
        ("at most the 2 output dimensions, found 3", {"method": "sampled", "probes": 3}),
        (r"samples: expected for each of 3 rows which of the 3", {"samples": torch.tensor([0, 1, 3])}),
        ("batch_size: only where", {"samples": torch.arange(3), "batch_size": 2}),
    ]
    for message, options in requests:
        with pytest.raises(StatisticsError, match=message):
            geometric_complexity(square, x, **options)
    functions: list[tuple[str, Callable[[Tensor], Tensor]]] = [
        (r"embeddings \[n, p\], found shape \[3\]", lambda x: x.sum(1)),
        ("one embedding for each of 3 inputs, found 1; where several rows", lambda x: x.sum(0, keepdim=True)),
        ("does not depend on its input differentiably", lambda x: square(x).detach()),
        ("does not depend on its input$", lambda x: square(torch.ones(3, 4))),
        ("found NaN or infinity", lambda x: x / 0),
    ]
    for message, fn in functions:
        with pytest.raises(StatisticsError, match=message):
            geometric_complexity(fn, x)
    with pytest.raises(StatisticsError, match="at least one sample"):
        geometric_complexity(square, x[:0])
    with pytest.raises(StatisticsError, match=r"inputs\.requires_grad=False"):
        complexity_penalty(square(x), x)
    with pytest.raises(StatisticsError, match="parts of one method"):
        Complexity.join([geometric_complexity(square, x, m) for m in ("exact", "hutchinson")])
    S = Statistics(2, 2).update(torch.eye(4)[:, :2], [0, 1, 0, 1])
    with pytest.raises(StatisticsError, match=r"complexity: expected \[2\] numbers, finite for each class"):
        geometric_collapse(S, torch.tensor([1.0, torch.nan]))
