"""Blurred downsampling (Zhang, Making convolutional networks shift-invariant again, 2019)."""

from __future__ import annotations

from math import comb
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image2point.voxels.conv.autograd import convolve
from image2point.voxels.conv.dense import frame
from image2point.voxels.plan import Window, neighbour_table
from image2point.voxels.pool import coarse_mask
from image2point.voxels.tensor import DenseVoxels, Voxels, VoxelTensor


class BlurPool(nn.Module):
    """Mean over a window, weighted by binomial coefficients along each axis.

    On sparse voxels and masked grids only occupied sites count and their weights are divided by their sum, so that
    equal features stay equal, as they do in images. A plain grid is padded as the 2D layer pads images.

    Args:
        border: what lies outside a plain grid: "reflect", or "zeros".
        axis: depth axis (0, 1, 2), along which a plain grid is reflected in any case.
    """

    coefficients: Tensor

    def __init__(self, window: Window, border: Literal["reflect", "zeros"] = "reflect", axis: int = 2) -> None:
        super().__init__()
        self.window, self.border, self.axis = window, border, axis
        lines = [torch.tensor([comb(k - 1, i) / 2 ** (k - 1) for i in range(k)]) for k in window.kernel]
        filter_ = torch.einsum("x,y,z->xyz", *lines)
        self.register_buffer("coefficients", filter_[None, None], persistent=False)

    def forward(self, x: Voxels) -> Voxels:
        window = self.window
        if isinstance(x, VoxelTensor):
            kernel = self.coefficients.to(x.features)
            table = neighbour_table(x.sites, window)
            channels = x.features.shape[1]
            total = convolve(x.features, kernel.expand(channels, -1, -1, -1, -1), table, groups=channels)
            weight = convolve(x.features.new_ones(len(x.sites), 1), kernel, table)
            return VoxelTensor(_divide(total, weight), x.sites.coarsen(window.stride))
        if isinstance(x, DenseVoxels):
            grid = _divide(self._blur(frame(x.grid, window)), self._blur(frame(x.mask.to(x.grid.dtype), window)))
            return x.coarser(grid, coarse_mask(x.mask, window.stride), window.stride)
        for axis in range(3):
            if axis == self.axis or self.border == "reflect":
                x = _reflected(x, window, axis)
        if self.border == "zeros":
            amounts = [(window.padding[axis], _far(x.shape[2 + axis], window, axis)) for axis in range(3)]
            amounts[self.axis] = (0, 0)
            x = F.pad(x, [amount for pair in reversed(amounts) for amount in pair])
        return self._blur(x)

    def _blur(self, grid: Tensor) -> Tensor:
        """Of a padded grid."""
        window = self.window
        kernel = self.coefficients.to(grid).expand(grid.shape[1], -1, -1, -1, -1)
        return F.conv3d(grid, kernel, stride=window.stride, dilation=window.dilation, groups=grid.shape[1])


def _far(size: int, window: Window, axis: int) -> int:
    """Cells beyond the far border that the last window reads."""
    last = (-(-size // window.stride) - 1) * window.stride - window.padding[axis]
    return last + (window.kernel[axis] - 1) * window.dilation + 1 - size


def _reflected(grid: Tensor, window: Window, axis: int) -> Tensor:
    """Pad one axis by reflection about its border cells."""
    size = grid.shape[2 + axis]
    index = torch.arange(-window.padding[axis], size + _far(size, window, axis), device=grid.device).abs()
    index = (size - 1 - (size - 1 - index).abs()).clamp_(0, size - 1)
    return grid.index_select(2 + axis, index)


def _divide(total: Tensor, weight: Tensor) -> Tensor:
    """total / weight, zero where no site counted."""
    return total / torch.where(weight == 0, 1, weight)
