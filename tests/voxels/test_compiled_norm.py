"""Norm by batch statistics, sum and ReLU, compiled for a CPU: what the modules give, one by one, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from voxel_samples import random_voxels, relative

from image2point.voxels import BatchNorm, Pointwise, Sites, VoxelConv, VoxelTensor, compiled_norm
from image2point.voxels.block import convolve_norm_activate
from image2point.voxels.compiled import library
from image2point.voxels.padding import Buckets, pad

pytestmark = pytest.mark.skipif(library() is None, reason="there is no C++ compiler")
ACTIVATIONS: dict[str, nn.Module | None] = {"identity": None, "relu": nn.ReLU(), "relu6": nn.ReLU6()}


def case(rows: int, channels: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, BatchNorm]:
    """Rows far from zero, what is added, the gradient of the result, and a norm that has seen something."""
    generator = torch.Generator().manual_seed(rows)
    x, added, gradient = (torch.randn(rows, channels, generator=generator, dtype=dtype) for _ in range(3))
    norm = BatchNorm(channels, dtype=dtype)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor, std=3, generator=generator)
    return (3 * x + 7).requires_grad_(), added.requires_grad_(), gradient, norm


def one_by_one(x: Tensor, norm: BatchNorm, added: Tensor | None, activation: str) -> Tensor:
    y = norm(VoxelTensor(x, Sites(x.new_empty(len(x), 4), 1))).features
    y = y if added is None else y + added
    return y if (module := ACTIVATIONS[activation]) is None else module(y)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("rows", "channels"), [(2, 3), (300, 15), (129, 200), (9000, 5)], ids=str)
def test_values_gradients_and_statistics(activation: str, residual: bool, rows: int, channels: int) -> None:
    """Fewer channels than a vector has, and more than the registers hold; more blocks of rows than parts."""
    x, added, gradient, norm = case(rows, channels)
    found: list[list[Tensor]] = []
    for function, net in ((compiled_norm.norm_activate, norm), (one_by_one, copy.deepcopy(norm))):
        leaves = [x, *([added] if residual else [])]
        y = function(x, net, added if residual else None, activation)
        gradients = torch.autograd.grad(y, [*leaves, net.weight, net.bias], gradient)
        found.append([y, *gradients, net.running_mean, net.running_var, net.num_batches_tracked.double()])
    assert all(relative(ours, theirs) < 1e-10 for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_float32_far_from_zero(offset: float) -> None:
    x, _, gradient, norm = case(5000, 40, torch.float32)
    x = (x.detach() + offset).requires_grad_()
    wide = BatchNorm(40, dtype=torch.float64)
    wide.load_state_dict(norm.state_dict())
    found = []
    for net, rows in ((norm, x), (wide, x.detach().double().requires_grad_())):
        function = compiled_norm.norm_activate if net is norm else one_by_one
        y = function(rows, net, None, "identity")
        found.append([y, torch.autograd.grad(y, rows, gradient.to(y.dtype))[0], net.running_mean, net.running_var])
    bound = 3e-6 if offset == 0 else 3e-3  # of which float32 itself loses as much: 1e3 / 3 standard deviations
    assert all(relative(ours.double(), theirs) < bound for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("residual", [False, True])
def test_no_bit_depends_on_the_number_of_threads(residual: bool) -> None:
    x, added, gradient, norm = case(9001, 37, torch.float32)
    results = []
    for threads in (1, 2, 5):
        before, net = torch.get_num_threads(), copy.deepcopy(norm)
        torch.set_num_threads(threads)
        try:
            y = compiled_norm.norm_activate(x, net, added if residual else None, "relu6")
            results.append([y, *torch.autograd.grad(y, (x, net.weight, net.bias), gradient), net.running_var])
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
def test_differentiated_again(activation: str, residual: bool) -> None:
    x, added, _, norm = case(40, 5)
    found = []
    for function in (compiled_norm.norm_activate, one_by_one):
        y = function(x, copy.deepcopy(norm), added if residual else None, activation)
        (first,) = torch.autograd.grad((y + 1).square().sum(), x, create_graph=True)
        found.append((first, *torch.autograd.grad(first.square().sum(), x)))
    assert all(relative(ours, theirs) < 1e-9 for ours, theirs in zip(*found, strict=True))


@pytest.mark.parametrize("activation", ["relu", "relu6"])
@pytest.mark.parametrize("residual", [False, True])
def test_what_is_not_a_number_stays_so(activation: str, residual: bool) -> None:
    x, added, gradient, norm = case(40, 3)
    with torch.no_grad():
        x[7, 1] = torch.nan
    y = compiled_norm.norm_activate(x, norm, added if residual else None, activation)
    (data,) = torch.autograd.grad(y, x, gradient)
    for found in (y, data):
        assert found[:, 1].isnan().all() and found[:, [0, 2]].isfinite().all()


@pytest.mark.parametrize("residual", [False, True])
def test_a_block_uses_it_where_it_may(monkeypatch: pytest.MonkeyPatch, residual: bool) -> None:
    called: list[int] = []
    function = compiled_norm.norm_activate
    monkeypatch.setattr(compiled_norm, "norm_activate", lambda *a: called.append(1) or function(*a))
    voxels = random_voxels(4, clouds=2, points=30, edge=0.3)
    conv = VoxelConv(4, 4, (3, 3, 3), 1, (1, 1, 1)).double().requires_grad_(False)
    norm, activation = BatchNorm(4).double(), Pointwise(nn.ReLU())

    def block(x: VoxelTensor = voxels) -> Tensor:
        return convolve_norm_activate(conv, norm, activation, x, x if residual else None).features

    together = block()
    assert called == [1]
    handle = norm.register_forward_hook(lambda *_: None)
    assert relative(block(), together) < 1e-12  # one by one: someone watches
    handle.remove()
    conv.engine = "reference"
    assert relative(block(), together) < 1e-12
    conv.engine = "cpu"
    block()
    assert called == [1, 1]
    padded = pad(voxels, Buckets(voxels.batch_size + 1, (len(voxels.features) + 5,)))
    assert relative(block(padded)[: len(voxels.features)], together) < 1e-12
    norm.eval()
    block()  # by the running statistics
    norm.train()
    norm.momentum = None
    block()  # an average over all batches
    norm.momentum, conv.engine = 0.1, "auto"
    norm.float()
    norm.running_mean = norm.running_mean.double()
    assert called == [1, 1]
    assert not compiled_norm.takes(norm, voxels.features, None, "relu")  # of several types
