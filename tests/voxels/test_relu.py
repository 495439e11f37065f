"""ReLU on sparse voxels: torch's values and gradients, of which only bits are kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from voxel_samples import random_voxels

from image2point.voxels import BatchNorm, Pointwise, VoxelConv, VoxelTensor
from image2point.voxels import relu as module

RELUS = [nn.ReLU(), nn.ReLU6()]


def kept_bytes(layer: nn.Module, x: VoxelTensor) -> int:
    """Bytes that a call of the layer keeps for its gradient."""
    sizes = []

    def note(saved: Tensor) -> Tensor:
        sizes.append(saved.untyped_storage().nbytes())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        layer(x)
    return sum(sizes)


@pytest.mark.parametrize("block", [1 << 18, 16, None])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", RELUS, ids=str)
def test_values_and_gradients_are_torchs(
    activation: nn.Module, dtype: torch.dtype, block: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In torch with blocks of two sizes, and compiled where this machine has a compiler."""
    if block is not None:
        monkeypatch.setattr(module, "_BLOCK", block)
        monkeypatch.setattr(module, "library", lambda: None)
    features = (5 * torch.randn(37, 5, generator=torch.Generator().manual_seed(0))).to(dtype)
    features[0] = torch.tensor([0.0, -0.0, 6.0, torch.nan, torch.inf])
    rows = features.requires_grad_()
    gradient = torch.randn(37, 5).to(dtype)
    gradient[1] = torch.inf
    expected, found = activation(rows), module.relu(rows, activation, module.ceiling(activation) or 0)
    assert torch.equal(found.nan_to_num(-1), expected.nan_to_num(-1))
    ours, torchs = (torch.autograd.grad(y, rows, gradient)[0] for y in (found, expected))
    real = ~features.isnan()  # torch's ReLU lets the gradient of NaN pass, its ReLU6 does not
    assert torch.equal(ours[real], torchs[real]) and ours.dtype == dtype


@pytest.mark.parametrize("activation", RELUS, ids=str)
def test_a_gradient_of_one_number_for_all(activation: nn.Module) -> None:
    """Which is not laid out in memory, but read with stride 0."""
    rows = torch.randn(50, 8, requires_grad=True)
    found, expected = module.relu(rows, activation, module.ceiling(activation) or 0), activation(rows)
    ours, torchs = (torch.autograd.grad(y.sum(), rows)[0] for y in (found, expected))
    assert torch.equal(ours, torchs)


@pytest.mark.parametrize("transposed", [False, True])
def test_the_gradient_can_be_differentiated_again(transposed: bool) -> None:
    rows = torch.randn(6, 7, dtype=torch.float64)
    rows = (rows.T if transposed else rows).requires_grad_()

    def function(rows: Tensor) -> Tensor:
        return module.relu(rows, nn.ReLU(), torch.inf) * rows.square()

    assert torch.autograd.gradcheck(function, rows)
    assert torch.autograd.gradgradcheck(function, rows)


@pytest.mark.parametrize("activation", RELUS, ids=str)
def test_one_bit_per_element_is_kept(activation: nn.Module) -> None:
    x = random_voxels()
    x = x.replace(x.features.float().requires_grad_())
    layer = Pointwise(activation)
    assert kept_bytes(layer, x) == -(-x.features.numel() // 8)
    with torch.no_grad():
        assert kept_bytes(layer, x) == 0


def test_a_frozen_block_keeps_the_inputs_of_its_norms() -> None:
    x = random_voxels()
    x = x.replace(x.features.float().requires_grad_())
    conv = VoxelConv(4, 4, (3, 3, 3), padding=(1, 1, 1)).requires_grad_(False)
    block = nn.Sequential(conv, BatchNorm(4), Pointwise(nn.ReLU()), conv, BatchNorm(4), Pointwise(nn.ReLU()))
    constants = 3 * 2 * 16 + 2 * conv.weight.untyped_storage().nbytes()  # of a norm: weight, mean, deviation
    elements = x.features.numel()
    running = 2 * 2 * 16  # running statistics, which torch keeps beside
    assert kept_bytes(block, x) <= 2 * (4 * elements + -(-elements // 8)) + constants + running


@pytest.mark.parametrize("activation", RELUS, ids=str)
def test_what_a_gpu_keeps_gives_the_same_gradient(activation: nn.Module) -> None:
    rows = (5 * torch.randn(20, 3)).requires_grad_()
    output, gradient = activation(rows), torch.randn(20, 3)
    kept = module.outside(output.detach(), module.ceiling(activation) or 0)
    assert kept.dtype == torch.bool
    assert torch.equal(module._Where.apply(gradient, kept), torch.autograd.grad(output, rows, gradient)[0])


def test_compiled_over_several_parts() -> None:
    rows = torch.randn(9, 1001).mul(4).requires_grad_()  # parts of relu.cpp have 4096 elements
    gradient = torch.randn(9, 1001)
    for activation in RELUS:
        found, expected = module.relu(rows, activation, module.ceiling(activation) or 0), activation(rows)
        assert torch.equal(found, expected)
        ours, torchs = (torch.autograd.grad(y, rows, gradient)[0] for y in (found, expected))
        assert torch.equal(ours, torchs)
