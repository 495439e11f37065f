"""Layers that read a grid as a whole, from border to border. Sparse voxels have no extent, and cannot take them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image2point.voxels.errors import VoxelError
from image2point.voxels.modules import TiedConv, VoxelConv, autocast_type, check_type
from image2point.voxels.tensor import DenseVoxels, Voxels, VoxelTensor


class AdaptivePool(nn.Module):
    """Means over as many boxes as `size` says, along x, y, z, whatever the size of the grid (adaptive mean pooling).

    Of a masked grid the mean counts occupied cells, and a box is occupied where any of the cells it covers is.
    """

    def __init__(self, size: tuple[int, int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Voxels) -> DenseVoxels | Tensor:
        x = _need_grid(x, "a layer over a whole feature map")
        grid = x.grid if isinstance(x, DenseVoxels) else x
        size = self.target((grid.shape[2], grid.shape[3], grid.shape[4]))
        if size == tuple(grid.shape[2:]):
            return x
        stretched = F.adaptive_avg_pool3d(grid, size)
        if not isinstance(x, DenseVoxels):
            return stretched
        share = F.adaptive_avg_pool3d(x.mask.to(grid.dtype), size)
        return DenseVoxels(stretched / torch.where(share > 0, share, 1), share > 0, x.stride)

    def target(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Cells that a grid of that shape becomes."""
        return self.size

    def extra_repr(self) -> str:
        return str(self.size)


class Stretch(AdaptivePool):
    """Stretches a grid that has fewer than `size` cells along an axis to that many, and leaves the other axes."""

    def target(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Cells that a grid of that shape becomes."""
        x, y, z = (max(wanted, there) for wanted, there in zip(self.size, shape, strict=True))
        return x, y, z


class MapConv(VoxelConv):
    """A convolution whose window must lie inside the grid: n cells give n − K + 1, as in 2D without padding.

    Elsewhere such a layer keeps every site; this one is for kernels that are as large as the feature map. Its `window`
    has the size of the kernel as its stride, which says the same for a grid of that size.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if self.window.stride != 1 or self.window.dilation != 1 or any(self.window.padding):
            raise VoxelError(f"a kernel over a whole grid has no stride, dilation or padding, found {self.window}")
        self.window = replace(self.window, stride=max(self.window.kernel))

    def forward(self, x: Voxels) -> DenseVoxels | Tensor:
        x = _need_grid(x, "a layer over a whole feature map")
        grid = x.grid if isinstance(x, DenseVoxels) else x
        if any(n < k for n, k in zip(grid.shape[2:], self.window.kernel, strict=True)):
            raise VoxelError(f"a kernel {self.window.kernel} does not fit into a grid {list(grid.shape[2:])}")
        if autocast_type(x) is None:
            check_type(x, self.weight.dtype)
        grid = F.conv3d(grid, self.kernel(), self.bias, groups=self.groups)
        if not isinstance(x, DenseVoxels):
            return grid
        occupied = torch.ones_like(grid[:, :1], dtype=torch.bool)
        return DenseVoxels(grid, occupied, x.stride)


class TiedMapConv(MapConv, TiedConv):
    """A `MapConv` whose parameter is a 2D kernel, repeated along the depth axis whenever it is applied."""


class MapLinear(MapConv):
    """A linear layer on all cells of a grid of the kernel's size: a vector per cloud, [B, C_out]."""

    def forward(self, x: Voxels) -> Tensor:
        cells = super().forward(x)
        return (cells.grid if isinstance(cells, DenseVoxels) else cells).flatten(1)


class TiedMapLinear(MapLinear, TiedConv):
    """A `MapLinear` whose parameter is a 2D kernel, repeated along the depth axis whenever it is applied."""


def _need_grid(x: Voxels, what: str) -> DenseVoxels | Tensor:
    if isinstance(x, VoxelTensor):
        raise VoxelError(f'{what} has no meaning on sparse voxels; lift with substrate="dense"')
    return x
