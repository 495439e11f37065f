"""Blocks of voxels moved into the channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image2point.voxels.pool import coarse_mask
from image2point.voxels.reduce import segment_mean
from image2point.voxels.tensor import DenseVoxels, Voxels, VoxelTensor


class SpaceToDepth(nn.Module):
    """The columns of s × s × s blocks side by side in the channels: C channels become s · s · C, a block one voxel.

    An image has one pixel in each of the s × s places of a block. Voxels have a column of s, along the depth axis: its
    entry is the mean over the occupied ones, and zero where there is none.

    Args:
        axis: depth axis (0, 1, 2).
        first: only the first slice of each block counts, so that slices do not mix.
    """

    def __init__(self, size: int, axis: int = 2, first: bool = False) -> None:
        super().__init__()
        self.size, self.axis, self.first = size, axis, first

    def forward(self, x: Voxels) -> Voxels:
        """[..., C] → [..., s · s · C], channels ordered by place (row, column) and then by channel."""
        size = self.size
        if isinstance(x, VoxelTensor):
            return self._sparse(x)
        if isinstance(x, DenseVoxels):
            mask = x.mask.to(x.grid.dtype)
            grid = self._columns(x.grid) / self._columns(mask).clamp(min=1).repeat_interleave(x.grid.shape[1], 1)
            return x.coarser(grid, coarse_mask(x.mask, size), size)
        count = self._columns(torch.ones_like(x[:1, :1])).clamp(min=1)
        return self._columns(x) / count.repeat_interleave(x.shape[1], 1)

    def _sparse(self, x: VoxelTensor) -> VoxelTensor:
        size = self.size
        coarse, parents = x.sites.coarsen(size), x.sites.parents(size)
        place = torch.remainder(x.coordinates[:, 1:].long(), size)
        row, column = (place[:, axis] for axis in range(3) if axis != self.axis)
        segment = (parents * size + row) * size + column
        features = x.features
        if self.first:
            kept = place[:, self.axis] == 0
            segment, features = segment[kept], features[kept]
        entries = segment_mean(features, segment, len(coarse) * size * size)
        return VoxelTensor(entries.view(len(coarse), -1), coarse)

    def _columns(self, grid: Tensor) -> Tensor:
        """Sums over the columns of all blocks: [B, C, X, Y, Z] → [B, s · s · C, ⌈X/s⌉, ⌈Y/s⌉, ⌈Z/s⌉]."""
        size = self.size
        grid = F.pad(grid, [n for length in reversed(grid.shape[2:]) for n in (0, -length % size)])
        for axis in range(3):  # each axis becomes (block, place); the places move to the front, as they come
            grid = grid.unflatten(2 + 2 * axis, (-1, size))
        depth = 3 + 2 * self.axis
        grid = grid.select(depth, 0) if self.first else grid.sum(depth)
        places = [3 + 2 * axis - (axis > self.axis) for axis in range(3) if axis != self.axis]
        blocks = [d for d in range(2, 7) if d not in places]
        return grid.permute(0, *places, 1, *blocks).flatten(1, 3)

    def extra_repr(self) -> str:
        return f"{self.size}, axis={self.axis}"
