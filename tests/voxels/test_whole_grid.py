"""Layers over a whole grid: means over boxes, and linear layers over all cells."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from voxel_samples import full_grid, random_voxels

from image2point.voxels import AdaptivePool, DenseVoxels, MapLinear, Stretch, VoxelError


@pytest.mark.parametrize("size", [(2, 2, 2), (3, 4, 1), (12, 3, 10)])
def test_adaptive_pooling(size: tuple[int, int, int]) -> None:
    """Of a plain grid it is torch's; of a masked one each mean is over the occupied cells of its box."""
    pool, grid = AdaptivePool(size), full_grid(size=(9, 8, 7))
    expected = nn.AdaptiveAvgPool3d(size)(grid)
    torch.testing.assert_close(pool(grid), expected)
    everything = DenseVoxels(grid, torch.ones(2, 1, 9, 8, 7, dtype=torch.bool))
    torch.testing.assert_close(pool(everything).grid, expected)  # type: ignore[union-attr]
    x = random_voxels(points=12).dense()
    result = pool(x)
    assert isinstance(result, DenseVoxels) and tuple(result.grid.shape[2:]) == size
    for cell in ((0, 0, 0), tuple(n - 1 for n in size), (size[0] // 2, size[1] // 2, 0)):
        box = tuple(
            slice(i * n // s, -(-(i + 1) * n // s)) for i, n, s in zip(cell, x.grid.shape[2:], size, strict=True)
        )
        for cloud in range(x.batch_size):
            inside = x.mask[(cloud, 0, *box)]
            assert bool(result.mask[(cloud, 0, *cell)]) is bool(inside.any())
            mean = x.grid[(cloud, slice(None), *box)].sum((1, 2, 3)) / inside.sum().clamp(min=1)
            torch.testing.assert_close(result.grid[(cloud, slice(None), *cell)], mean)


def test_stretching_leaves_larger_axes() -> None:
    assert Stretch((4, 9, 7))(full_grid(size=(3, 12, 7))).shape[2:] == (4, 12, 7)
    assert AdaptivePool((4, 9, 7))(full_grid(size=(3, 12, 7))).shape[2:] == (4, 9, 7)


def test_a_linear_layer_over_all_cells() -> None:
    layer, grid = MapLinear(4, 6, (2, 3, 1), bias=True).double(), full_grid(size=(2, 3, 1))
    nn.init.normal_(layer.bias)  # type: ignore[arg-type]
    expected = nn.functional.linear(grid.flatten(1), layer.weight.flatten(1), layer.bias)
    torch.testing.assert_close(layer(grid), expected)
    masked = DenseVoxels(grid, torch.ones(2, 1, 2, 3, 1, dtype=torch.bool))
    torch.testing.assert_close(layer(masked), expected)
    with pytest.raises(VoxelError, match='lift with substrate="dense"'):
        layer(random_voxels())
