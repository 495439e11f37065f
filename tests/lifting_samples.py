"""Small 2D networks, clouds and comparisons for the tests of lifted networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from image2point.networks.timm_import import load_timm
from image2point.voxels import DenseVoxels, Voxels, VoxelTensor, voxelize

DEPTH = {"x": 2, "y": 3, "z": 4}


def small_resnet(block: str = "BasicBlock", **options: Any) -> nn.Module:
    """A thin timm ResNet with its four stages, float64, norms randomised."""
    load_timm()
    from timm.models import resnet

    options = {"layers": (1, 1, 1, 1), "channels": (8, 16, 16, 24), "num_classes": 7, **options}
    return randomise(resnet.ResNet(getattr(resnet, block), **options))


def timm_network(name: str) -> nn.Module:
    """A timm network, float64, norms randomised."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomise(load_timm().create_model(name, num_classes=7))


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random norm weights, biases and statistics: some are zero after initialisation, and would hide branches."""
    draw = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
            ):
                assert tensor is not None
                tensor.data.uniform_(low, high, generator=draw)
    return network.double().eval()


def image(channels: int = 3, size: int = 32, batch: int = 2, seed: int = 1) -> Tensor:
    """float64 [batch, channels, size, size]."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, size, size, generator=draw, dtype=torch.float64)


def clouds(channels: int = 3, seed: int = 2) -> VoxelTensor:
    """Two random clouds as float64 voxels, dense enough to have neighbours at every scale."""
    draw = torch.Generator().manual_seed(seed)
    points = [torch.rand(n, 3, generator=draw) for n in (160, 90)]
    features = [torch.randn(len(p), channels, generator=draw) for p in points]
    return voxelize(points, 0.1, features).double()


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest error relative to the largest expected magnitude; infinite where a shape or a value is wrong."""
    if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
        return float("inf")
    largest = expected.detach().abs().max()
    return float((found - expected).detach().abs().max() / (largest if largest > 0 else 1))


def rows(x: Voxels) -> Tensor:
    """Features of the occupied sites as rows, in one order for all three forms."""
    if isinstance(x, VoxelTensor):
        return x.features
    return x.rows if isinstance(x, DenseVoxels) else x.permute(0, 2, 3, 4, 1).flatten(0, 3)
