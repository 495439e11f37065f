"""The same numbers on a CUDA device as on the CPU; `make test-gpu` runs this where there is one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from voxel_samples import random_voxels, relative, tie

from image2point.voxels import BatchNorm, MaxPool, VoxelConv, Window, functional, voxelize

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.mark.parametrize("tied", ["", "z", "xyz"])
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(3, 1, 1), (3, 2, 1), (2, 2, 1), (5, 2, 4), (3, 1, 2)])
def test_convolution(kernel: int, stride: int, groups: int, tied: str) -> None:
    layer = VoxelConv(4, 8, (kernel,) * 3, stride, ((kernel - 1) // 2,) * 3, groups=groups, bias=True).double()
    with torch.no_grad():
        layer.weight.copy_(tie(layer.weight, tied))
    outcomes = []
    for device in ("cpu", "cuda"):
        layer = layer.to(device)
        x = random_voxels().to(device)
        x = x.replace(x.features.requires_grad_())
        y = layer(x)
        loss = (y.features.square() * torch.arange(8, device=device)).sum()
        gradients = torch.autograd.grad(loss, [x.features, layer.weight, layer.bias])
        outcomes.append([y.coordinates.cpu(), y.features.cpu(), *[g.cpu() for g in gradients]])
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    for expected, found in zip(outcomes[0][1:], outcomes[1][1:], strict=True):
        assert relative(found, expected) < 1e-10


def test_half_precision_follows_autocast() -> None:
    layer = VoxelConv(4, 8, (3, 3, 3), 1, (1, 1, 1)).cuda()
    x = random_voxels().to(torch.float32).to("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        half = layer(x).features
    assert half.dtype == torch.bfloat16
    assert relative(half.float(), layer(x).features) < 2e-2


def test_quantising_pooling_and_norm() -> None:
    clouds = [torch.randn(200, 3) for _ in range(3)]
    here, there = voxelize(clouds, 0.3), voxelize([cloud.cuda() for cloud in clouds], 0.3)
    assert torch.equal(here.coordinates, there.coordinates.cpu())
    torch.testing.assert_close(there.features.cpu(), here.features)
    layers = nn.Sequential(MaxPool(Window((3, 3, 3), 2, (1, 1, 1))), BatchNorm(3)).double()
    expected = functional.global_mean(layers(here.double()))
    found = functional.global_mean(layers.cuda()(there.double()))
    assert relative(found.cpu(), expected) < 1e-6
