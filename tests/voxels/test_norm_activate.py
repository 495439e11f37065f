"""Norm by batch statistics, sum and ReLU in Triton: in float64 what torch's modules give, one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from voxel_samples import random_voxels, relative

from image2point.voxels import BatchNorm, Pointwise, Sites, VoxelConv, VoxelTensor
from image2point.voxels.block import convolve_norm_activate

pytest.importorskip("triton", reason="triton is not installed (it comes with the extra `test` on Linux)")

from image2point.voxels import norm_activate as own
from image2point.voxels import triton_norm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BOUNDS = {torch.float32: 3e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
ACTIVATIONS: dict[str, nn.Module | None] = {"identity": None, "relu": nn.ReLU(), "relu6": nn.ReLU6()}


def case(dtype: torch.dtype, rows: int, channels: int) -> tuple[Tensor, Tensor, Tensor, BatchNorm]:
    """Rows far from zero, what is added, the gradient of the result, and a norm that has seen something."""
    generator = torch.Generator().manual_seed(rows)
    x, added, gradient = (torch.randn(rows, channels, generator=generator) for _ in range(3))
    norm = BatchNorm(channels)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor, generator=generator)
    x, added, gradient = ((3 * x + 7).to(DEVICE, dtype), added.to(DEVICE, dtype), gradient.to(DEVICE, dtype))
    return x, added, gradient, norm.to(DEVICE)


def one_by_one(x: Tensor, norm: BatchNorm, added: Tensor | None, activation: str) -> Tensor:
    y = norm(VoxelTensor(x, Sites(x.new_empty(len(x), 4), 1))).features
    y = y if added is None else y + added
    return y if (module := ACTIVATIONS[activation]) is None else module(y)


@pytest.mark.parametrize(
    "dtype, activation, residual, rows, channels",
    [
        (torch.float32, "identity", False, 5, 3),
        (torch.float32, "relu", True, 150, 70),  # parts of which the last is shorter
        (torch.float32, "relu6", False, 300, 16),  # more parts than some rows fill
        (torch.float32, "identity", True, 129, 8),
        (torch.bfloat16, "relu", True, 33, 20),
        (torch.float16, "relu", False, 33, 20),
    ],
    ids=str,
)
def test_values_gradients_and_statistics(
    dtype: torch.dtype, activation: str, residual: bool, rows: int, channels: int
) -> None:
    x, added, gradient, norm = case(dtype, rows, channels)
    if activation == "relu6":
        nn.init.constant_(norm.weight, 6.0)  # so that many values are cut off above
    wide = BatchNorm(channels).double().to(DEVICE)
    wide.load_state_dict(norm.state_dict())
    found: list[list[Tensor]] = []
    for function, net, kind in ((own.norm_activate, norm, dtype), (one_by_one, wide, torch.float64)):
        leaves = [x.to(kind).requires_grad_(), *([added.to(kind).requires_grad_()] if residual else [])]
        y = function(leaves[0], net, leaves[1] if residual else None, activation)
        gradients = torch.autograd.grad(y, [*leaves, net.weight, net.bias], gradient.to(kind))
        found.append([y, *gradients, net.running_mean, net.running_var])
    assert found[0][0].dtype == dtype
    for ours, theirs in zip(*found, strict=True):
        assert relative(ours.double(), theirs) < BOUNDS[dtype]
    assert norm.num_batches_tracked == wide.num_batches_tracked == 1


def test_differentiated_again() -> None:
    x, added, _, norm = case(torch.float32, 40, 5)
    wide = BatchNorm(5).double().to(DEVICE)
    wide.load_state_dict(norm.state_dict())
    found = []
    for function, net, kind in ((own.norm_activate, norm, torch.float32), (one_by_one, wide, torch.float64)):
        leaf = x.to(kind).requires_grad_()
        y = function(leaf, net, added.to(kind), "relu")
        (first,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaf)
        found.append((first, second))
    for ours, theirs in zip(*found, strict=True):
        assert relative(ours.double(), theirs) < 1e-4


@pytest.mark.parametrize("residual", [False, True])
def test_a_block_uses_it_where_it_may(monkeypatch: pytest.MonkeyPatch, residual: bool) -> None:
    called: list[int] = []
    forward = triton_norm.forward
    monkeypatch.setattr(triton_norm, "forward", lambda *a: called.append(1) or forward(*a))
    torch.manual_seed(0)
    voxels = random_voxels(4, clouds=2, points=30, edge=0.3).to(torch.float32).to(DEVICE)
    conv = VoxelConv(4, 4, (3, 3, 3), 1, (1, 1, 1), engine="triton").to(DEVICE).requires_grad_(False)
    norm, activation = BatchNorm(4).to(DEVICE), Pointwise(nn.ReLU())
    added = voxels if residual else None

    def block() -> Tensor:
        return convolve_norm_activate(conv, norm, activation, voxels, added).features

    together = block()
    assert called == [1]
    handle = norm.register_forward_hook(lambda *_: None)
    assert relative(block(), together) < 1e-6  # one by one: someone watches
    handle.remove()
    norm.eval()
    block()  # by the running statistics
    norm.train()
    norm.momentum = None
    block()  # an average over all batches, which the kernels do not keep
    assert called == [1]


@pytest.mark.parametrize("real", [2, 100, 149])
def test_padded_rows_do_not_count(real: int) -> None:
    """Values, gradients and statistics are those of the first rows alone, whatever the others hold."""
    x, added, gradient, norm = case(torch.float32, 150, 20)
    gradient[real:], x[real:] = 0, 1e6
    found: list[list[Tensor]] = []
    for rows, count in ((150, torch.tensor(real, device=DEVICE)), (real, None)):
        net = copy.deepcopy(norm)
        leaves = [x[:rows].clone().requires_grad_(), added[:rows].clone().requires_grad_()]
        y = own.norm_activate(leaves[0], net, leaves[1], "relu", count)
        of_rows = torch.autograd.grad(y, [*leaves, net.weight, net.bias], gradient[:rows])
        assert bool(torch.isfinite(y).all()) and not of_rows[0][real:].any()
        found.append([y[:real], *(g[:real] for g in of_rows[:2]), *of_rows[2:], net.running_mean, net.running_var])
    for ours, theirs in zip(*found, strict=True):
        assert relative(ours, theirs) < 3e-6
