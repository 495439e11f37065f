"""Small random inputs for the tests of this folder."""

from __future__ import annotations

import torch
from torch import Tensor

from image2point.voxels import VoxelTensor, voxelize


def random_voxels(
    channels: int = 4, clouds: int = 3, points: int = 150, edge: float = 0.45, seed: int = 0
) -> VoxelTensor:
    """float64 voxels of random clouds, about as crowded as a surface."""
    generator = torch.Generator().manual_seed(seed)
    positions = [torch.rand(points, 3, generator=generator) * edge for _ in range(clouds)]
    features = [torch.randn(points, channels, generator=generator) for _ in range(clouds)]
    return voxelize(positions, 0.05, features).double()


def full_grid(channels: int = 4, clouds: int = 2, size: tuple[int, int, int] = (5, 6, 7), seed: int = 0) -> Tensor:
    """float64 [clouds, channels, X, Y, Z]."""
    return torch.randn(clouds, channels, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tie(kernel: Tensor, axes: str) -> Tensor:
    """Make a kernel [C_out, C_in, Kx, Ky, Kz] constant along the named axes."""
    for axis in axes:
        kernel = kernel.narrow(2 + "xyz".index(axis), 0, 1).expand_as(kernel) if axis else kernel
    return kernel.contiguous()


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest error relative to the largest expected magnitude."""
    return float((found - expected).detach().abs().max() / expected.detach().abs().max().clamp(min=1e-300))
