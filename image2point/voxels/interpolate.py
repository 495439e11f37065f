"""Linear upsampling onto the sites of an earlier, finer map (`upsample` takes the nearest)."""

from __future__ import annotations

from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from image2point.voxels.errors import VoxelError
from image2point.voxels.plan import Window, neighbour_table
from image2point.voxels.sites import Sites
from image2point.voxels.tensor import DenseVoxels, Voxels, VoxelTensor


def upsample_linear(x: Voxels, like: Voxels, scale: int, flat: int | None = None) -> Voxels:
    """Linear interpolation along all axes (bilinear in 2D, without `align_corners`).

    A finer site lies between two coarse ones along each axis. Of these only the occupied ones count, and their weights
    are divided by their sum, so that equal features stay equal, as beyond the border of an image.

    Args:
        flat: an axis (0, 1, 2) along which each finer site takes what its parent has.

    Raises:
        VoxelError: where a site of `like` has no parent among the sites of x.

    >>> coarse, fine = torch.tensor([0.0, 4.0]).view(1, 1, 2, 1, 1), torch.zeros(1, 1, 4, 2, 2)
    >>> upsample_linear(coarse, fine, 2)[0, 0, :, 0, 0].tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    if isinstance(x, VoxelTensor) and isinstance(like, VoxelTensor):
        _check_parents(x.sites, like.sites, scale)
        rows, weights = like.sites.plan(("linear", scale, flat), lambda: _corners(like.sites, scale, flat))
        total = like.features.new_zeros(len(like.sites), x.features.shape[1])
        for row, weight in zip(rows, weights.to(x.features.dtype), strict=True):
            total = total + x.features[row] * weight.unsqueeze(1)
        return like.replace(total)
    if isinstance(x, DenseVoxels) and isinstance(like, DenseVoxels):
        total = _interpolated(x.grid, like.grid, scale, flat)
        weight = _interpolated(x.mask.to(x.grid.dtype), like.grid, scale, flat)
        return like.replace(total / torch.where(weight > 0, weight, 1))
    if isinstance(x, Tensor) and isinstance(like, Tensor):
        return _interpolated(x, like, scale, flat)
    raise VoxelError(f"cannot upsample {type(x).__name__} onto {type(like).__name__}")


def upsample_aligned(x: Voxels, like: Voxels) -> Voxels:
    """Linear interpolation that puts the corner cells of both grids on top of each other (`align_corners` in 2D).

    Of a masked grid only occupied cells count, as in `upsample_linear`.

    Raises:
        VoxelError: on sparse voxels, which have no corners.

    >>> coarse, fine = torch.tensor([0.0, 4.0]).view(1, 1, 2, 1, 1), torch.zeros(1, 1, 5, 1, 1)
    >>> upsample_aligned(coarse, fine)[0, 0, :, 0, 0].tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    if isinstance(x, DenseVoxels) and isinstance(like, DenseVoxels):
        total, weight = (_aligned(t, like.grid) for t in (x.grid, x.mask.to(x.grid.dtype)))
        return like.replace(total / torch.where(weight > 0, weight, 1))
    if isinstance(x, Tensor) and isinstance(like, Tensor):
        return _aligned(x, like)
    raise VoxelError('interpolation with aligned corners has no meaning on sparse voxels; lift with substrate="dense"')


def _check_parents(coarse: Sites, fine: Sites, scale: int) -> None:
    if not coarse.same(fine.coarsen(scale)):
        raise VoxelError(f"cannot upsample by {scale}: the finer sites do not coarsen to the sites of the voxels")


def _interpolated(grid: Tensor, like: Tensor, scale: int, flat: int | None) -> Tensor:
    scales = [1.0 if axis == flat else float(scale) for axis in range(3)]
    grid = F.interpolate(grid, scale_factor=scales, mode="trilinear", align_corners=False)
    if flat is not None:
        grid = grid.repeat_interleave(scale, 2 + flat)
    return grid[:, :, : like.shape[2], : like.shape[3], : like.shape[4]]


def _aligned(grid: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(grid, size=like.shape[2:], mode="trilinear", align_corners=True)


def _corners(fine: Sites, scale: int, flat: int | None) -> tuple[Tensor, Tensor]:
    """The coarse sites around each fine one: their rows, int64 [8, N], and weights that add up to 1, [8, N].

    A fine cell i has its centre at (i + ½) / scale − ½ in coarse cells.
    """
    coarse = fine.coarsen(scale)
    parents = fine.parents(scale)
    # The sites around a fine one are its parent and neighbours of that.
    around = neighbour_table(coarse, Window((3, 3, 3), padding=(1, 1, 1))).reads
    home = coarse.coordinates[parents, 1:].long()
    index = fine.coordinates[:, 1:].long()
    twice = 2 * index + 1 - scale  # 2 · scale · centre, exactly
    below = torch.div(twice, 2 * scale, rounding_mode="floor")
    share = (twice - below * 2 * scale).double() / (2 * scale)
    if flat is not None:
        below[:, flat] = torch.div(index[:, flat], scale, rounding_mode="floor")
        share[:, flat] = 0
    rows, weights = [], []
    for corner in product((0, 1), repeat=3):
        position = below + torch.tensor(corner, device=fine.device)
        x, y, z = (position - home + 1).unbind(1)
        row = around[(x * 3 + y) * 3 + z, parents].long()
        weight = prod((share[:, axis] if far else 1 - share[:, axis] for axis, far in enumerate(corner)))
        present = row >= 0
        rows.append(torch.where(present, row, 0))
        weights.append(torch.where(present, weight, 0))
    stacked = torch.stack(weights)
    return torch.stack(rows), stacked / stacked.sum(0)
