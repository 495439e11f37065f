"""Pooling: local maximum and mean over a window, and over whole clouds."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image2point.voxels.conv import gather
from image2point.voxels.conv.dense import frame
from image2point.voxels.functional import global_max, global_mean
from image2point.voxels.plan import NeighbourTable, Window, neighbour_table
from image2point.voxels.tensor import DenseVoxels, Voxels, VoxelTensor


def coarse_mask(mask: Tensor, stride: int) -> Tensor:
    """Mask of a strided layer: cells floor(index / stride) of occupied cells. bool [B, 1, X, Y, Z]."""
    if stride == 1:
        return mask
    return F.max_pool3d(mask.to(torch.float32), stride, stride, ceil_mode=True) > 0


class MaxPool(nn.Module):
    """Maximum over the occupied sites of a window; among equal values the first tap gets the gradient."""

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Voxels) -> Voxels:
        if isinstance(x, VoxelTensor):
            table = neighbour_table(x.sites, self.window)
            return VoxelTensor(_sparse_maximum(x.features, table), x.sites.coarsen(self.window.stride))
        if isinstance(x, DenseVoxels):
            grid = self._maximum(torch.where(x.mask, x.grid, -torch.inf))
            mask = coarse_mask(x.mask, self.window.stride)
            # A window may miss every occupied cell (stride larger than kernel): zero there, as sparse gives.
            grid = torch.where(torch.isinf(grid), 0, grid)
            return DenseVoxels(grid, mask, x.stride * self.window.stride).replace(grid)
        return self._maximum(x)

    def _maximum(self, grid: Tensor) -> Tensor:
        window = self.window
        grid = frame(grid, window, fill=-torch.inf)
        return F.max_pool3d(grid, window.kernel, window.stride, dilation=window.dilation)

    def extra_repr(self) -> str:
        return str(self.window)


class AvgPool(nn.Module):
    """Mean over the occupied sites of a window; of a plain grid, over the cells inside the grid."""

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Voxels) -> Voxels:
        if isinstance(x, VoxelTensor):
            table = neighbour_table(x.sites, self.window)
            total = gather.sum_neighbours(x.features, table)
            count = torch.bincount(table.target, minlength=table.targets).clamp_(min=1)
            return VoxelTensor(total / count.unsqueeze(1), x.sites.coarsen(self.window.stride))
        if isinstance(x, DenseVoxels):
            grid = self._total(x.grid) / self._total(x.mask.to(x.grid.dtype)).clamp(min=1)
            mask = coarse_mask(x.mask, self.window.stride)
            return DenseVoxels(grid, mask, x.stride * self.window.stride).replace(grid)
        return self._total(x) / self._total(torch.ones_like(x[:1, :1]))

    def _total(self, grid: Tensor) -> Tensor:
        window = self.window
        return F.avg_pool3d(frame(grid, window), window.kernel, window.stride, divisor_override=1)

    def extra_repr(self) -> str:
        return str(self.window)


class GlobalPool(nn.Module):
    """One vector per cloud, [B, C]: mean, maximum, their mean (avgmax) or both side by side (catavgmax, [B, 2C])."""

    def __init__(self, kind: Literal["avg", "max", "avgmax", "catavgmax"] = "avg") -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Voxels) -> Tensor:
        if self.kind == "avg":
            return global_mean(x)
        if self.kind == "max":
            return global_max(x)
        if self.kind == "avgmax":
            return 0.5 * (global_mean(x) + global_max(x))
        return torch.cat([global_mean(x), global_max(x)], 1)

    def extra_repr(self) -> str:
        return self.kind


def _sparse_maximum(features: Tensor, table: NeighbourTable) -> Tensor:
    """Maximum of what each target reads; zero where it reads nothing. [N, C] → [M, C]"""
    shape = (table.targets, features.shape[1])
    with torch.no_grad():
        best = features.new_full(shape, -torch.inf)
        winner = torch.full(shape, -1, dtype=torch.long, device=features.device)
        for start, stop in pairwise(table.starts):
            source, target = table.source[start:stop].long(), table.target[start:stop].long()
            value, held = features[source], best[target]
            better = value > held
            best[target] = torch.where(better, value, held)
            winner[target] = torch.where(better, source.unsqueeze(1), winner[target])
    chosen = features.gather(0, winner.clamp(min=0))
    return torch.where(winner >= 0, chosen, 0)
