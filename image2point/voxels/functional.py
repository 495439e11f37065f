"""Operations on voxels that need no neighbours, for all three forms: sparse, masked dense, plain grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from image2point.voxels.errors import VoxelError
from image2point.voxels.reduce import segment_max, segment_mean
from image2point.voxels.tensor import DenseVoxels, Voxels, VoxelTensor


def pointwise(function: Callable[[Tensor], Tensor], x: Voxels) -> Voxels:
    """Apply an elementwise function to the features; empty cells stay zero."""
    if isinstance(x, VoxelTensor):
        return x.replace(function(x.features))
    return x.replace(function(x.grid)) if isinstance(x, DenseVoxels) else function(x)


def on_rows(function: Callable[[Tensor], Tensor], x: Voxels) -> Voxels:
    """Apply a function [N, C] → [N, C′] to the features of the occupied sites, as rows."""
    if isinstance(x, VoxelTensor):
        return x.replace(function(x.features))
    if isinstance(x, DenseVoxels):
        return x.replace_rows(function(x.rows))
    rows = function(x.permute(0, 2, 3, 4, 1).reshape(-1, x.shape[1]))
    return rows.view(x.shape[0], *x.shape[2:], -1).permute(0, 4, 1, 2, 3)


def add(x: Voxels, y: Voxels) -> Voxels:
    """x + y on the same sites."""
    return _combine(torch.add, x, y)


def multiply(x: Voxels, y: Voxels) -> Voxels:
    """x · y on the same sites."""
    return _combine(torch.mul, x, y)


def cat(parts: Sequence[Voxels]) -> Voxels:
    """Concatenate the channels of features on the same sites."""
    first = parts[0]
    for part in parts[1:]:
        _check_same(first, part)
    if isinstance(first, VoxelTensor):
        return first.replace(torch.cat([p.features for p in parts if isinstance(p, VoxelTensor)], 1))
    if isinstance(first, DenseVoxels):
        return first.replace(torch.cat([p.grid for p in parts if isinstance(p, DenseVoxels)], 1))
    return torch.cat([p for p in parts if isinstance(p, Tensor)], 1)


def global_mean(x: Voxels) -> Tensor:
    """Mean over the occupied sites of each cloud: [B, C]."""
    if isinstance(x, VoxelTensor):
        return segment_mean(x.features, x.sites.batch, x.batch_size)
    if isinstance(x, DenseVoxels):
        return x.grid.sum((2, 3, 4)) / x.mask.sum((2, 3, 4)).clamp(min=1)
    return x.mean((2, 3, 4))


def global_max(x: Voxels) -> Tensor:
    """Maximum over the occupied sites of each cloud: [B, C]."""
    if isinstance(x, VoxelTensor):
        return segment_max(x.features, x.sites.batch, x.batch_size)
    if isinstance(x, DenseVoxels):
        return torch.where(x.mask, x.grid, -torch.inf).amax((2, 3, 4))
    return x.amax((2, 3, 4))


def _combine(function: Callable[[Tensor, Tensor], Tensor], x: Voxels, y: Voxels) -> Voxels:
    _check_same(x, y)
    if isinstance(x, VoxelTensor) and isinstance(y, VoxelTensor):
        return x.replace(function(x.features, y.features))
    if isinstance(x, DenseVoxels) and isinstance(y, DenseVoxels):
        return x.replace(function(x.grid, y.grid))
    assert isinstance(x, Tensor) and isinstance(y, Tensor)
    return function(x, y)


def _check_same(x: Voxels, y: Voxels) -> None:
    if type(x) is not type(y):
        raise VoxelError(f"cannot combine {type(x).__name__} with {type(y).__name__}")
    if isinstance(x, VoxelTensor) and isinstance(y, VoxelTensor):
        same = x.sites.same(y.sites)
    elif isinstance(x, DenseVoxels) and isinstance(y, DenseVoxels):
        same = x.mask is y.mask or torch.equal(x.mask, y.mask)
    else:
        return
    if not same:
        raise VoxelError("cannot combine features on different sites: both must come from the same voxels and scale")
