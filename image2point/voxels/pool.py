"""Pooling: local maximum and mean over a window, and over whole clouds."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image2point.voxels.conv.autograd import sum_neighbours
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
    """Maximum over the occupied sites of a window; among equal values the first tap gets the gradient.

    Args:
        padding_counts: axes (0, 1, 2) along which padded cells of a plain grid compete too, as zeros: some 2D networks
            pad before they pool. Voxels have no border, so it changes nothing for them.
    """

    def __init__(self, window: Window, padding_counts: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.window, self.padding_counts = window, padding_counts

    def forward(self, x: Voxels) -> Voxels:
        if isinstance(x, VoxelTensor):
            table = neighbour_table(x.sites, self.window)
            return VoxelTensor(_sparse_maximum(x.features, table), x.sites.coarsen(self.window.stride))
        if isinstance(x, DenseVoxels):
            grid = self._maximum(torch.where(x.mask, x.grid, -torch.inf))
            # A window may miss every occupied cell (stride larger than kernel): zero there, as sparse gives.
            grid = torch.where(torch.isinf(grid), 0, grid)
            return x.coarser(grid, coarse_mask(x.mask, self.window.stride), self.window.stride)
        zeros = frame(x, self.window, only=self.padding_counts) if self.padding_counts else x
        return self._maximum(zeros, frozenset((0, 1, 2)) - self.padding_counts)

    def _maximum(self, grid: Tensor, axes: frozenset[int] = frozenset((0, 1, 2))) -> Tensor:
        window = self.window
        grid = frame(grid, window, fill=-torch.inf, only=axes)
        return F.max_pool3d(grid, window.kernel, window.stride, dilation=window.dilation)

    def extra_repr(self) -> str:
        return str(self.window)


class AvgPool(nn.Module):
    """Mean over the occupied sites of a window; of a plain grid, over the cells inside the grid.

    Args:
        padding_counts: axes (0, 1, 2) along which padded cells of a plain grid count too, as zeros
            (`count_include_pad` of the 2D layer). Voxels have no border, so it changes nothing for them.
    """

    def __init__(self, window: Window, padding_counts: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.window, self.padding_counts = window, padding_counts

    def forward(self, x: Voxels) -> Voxels:
        if isinstance(x, VoxelTensor):
            table = neighbour_table(x.sites, self.window)
            total = sum_neighbours(x.features, table)
            count = (table.reads >= 0).sum(0).clamp_(min=1)
            return VoxelTensor(total / count.unsqueeze(1), x.sites.coarsen(self.window.stride))
        if isinstance(x, DenseVoxels):
            grid = self._total(x.grid) / self._total(x.mask.to(x.grid.dtype)).clamp(min=1)
            return x.coarser(grid, coarse_mask(x.mask, self.window.stride), self.window.stride)
        return self._total(x) / self._count(x)

    def _count(self, grid: Tensor) -> Tensor:
        """Cells that count in each window of a plain grid, [X, Y, Z]."""
        window, counts = self.window, []
        for axis, size in enumerate(grid.shape[2:]):
            first = torch.arange(0, size, window.stride, device=grid.device) - window.padding[axis]
            cells = first.unsqueeze(1) + torch.arange(window.kernel[axis], device=grid.device)
            inside = (cells >= 0) & (cells < size) | (axis in self.padding_counts)
            counts.append(inside.sum(1).clamp(min=1).to(grid.dtype))
        return torch.einsum("x,y,z->xyz", *counts)

    def _total(self, grid: Tensor) -> Tensor:
        window = self.window
        framed = frame(grid, window)
        if grid.device.type == "cpu" and grid.dtype in (torch.float16, torch.bfloat16):  # torch has no such mean there
            framed = framed.float()
        mean = F.avg_pool3d(framed, window.kernel, window.stride).to(grid.dtype)
        return mean * window.taps  # not divisor_override=1, which the exporter to ONNX leaves out

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
    with torch.no_grad():
        winner = (_winner_by_pairs if features.device.type == "cpu" else _winner_at_once)(features, table)
    chosen = features.gather(0, winner.clamp(min=0))
    return torch.where(winner >= 0, chosen, 0)


def _winner_by_pairs(features: Tensor, table: NeighbourTable) -> Tensor:
    """The source row of each maximum, −1 where nothing is read: int64 [M, C]. Tap by tap, only what is there."""
    shape = (table.targets, features.shape[1])
    best = features.new_full(shape, -torch.inf)
    winner = torch.full(shape, -1, dtype=torch.long, device=features.device)
    for start, stop in pairwise(table.pairs.starts):
        source, target = table.pairs.source[start:stop].long(), table.pairs.target[start:stop].long()
        value, held = features[source], best[target]
        better = value > held
        best[target] = torch.where(better, value, held)
        winner[target] = torch.where(better, source.unsqueeze(1), winner[target])
    return winner


def _winner_at_once(features: Tensor, table: NeighbourTable) -> Tensor:
    """The same from all taps at once: more work in far fewer steps, as a GPU likes it."""
    lowest = F.pad(features, (0, 0, 0, 1), value=-torch.inf)  # what a tap without a voxel reads
    rows = max(1, _AT_ONCE // max(1, len(table.reads) * features.shape[1]))
    winners = []
    for reads in table.reads.split(rows, dim=1):
        tap = lowest[reads].argmax(0)  # [rows, C], the first among equals
        winners.append(reads[tap, torch.arange(len(tap), device=tap.device).unsqueeze(1)].long())
    return torch.cat(winners)


_AT_ONCE = 1 << 28
"""Elements gathered at once by `_winner_at_once`."""
