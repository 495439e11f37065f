"""Linear upsampling onto the sites of an earlier, finer map (`upsample` takes the nearest)."""

from __future__ import annotations

from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from image2point.voxels.errors import VoxelError
from image2point.voxels.gather import Gathering
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
        between = like.sites.plan(("linear", scale, flat), lambda: _between(like.sites, scale, flat))
        return like.replace(between.take(x.features))
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


def _between(fine: Sites, scale: int, flat: int | None) -> Gathering:
    """The coarse sites around each fine one. A fine cell i has its centre at (i + ½) / scale − ½ in coarse cells."""
    coarse, home = fine.coarsen(scale), fine.parents(scale)
    index = fine.coordinates[:, 1:].long()
    twice = 2 * index + 1 - scale  # 2 · scale · centre, exactly
    offset = (twice - 2 * scale * coarse.coordinates[home, 1:]).double() / (2 * scale)
    if flat is not None:
        offset[:, flat] = 0
    return corners(coarse, home, offset)


def corners(sites: Sites, home: Tensor, offset: Tensor) -> Gathering:
    """Linear interpolation between the up to eight occupied sites around each position.

    Args:
        home: int64 [M], the row of the site that each position lies in.
        offset: float64 [M, 3], where it lies there, from the centre, in edges of these voxels: −½ to ½.

    Returns:
        The rows that each position reads, with weights that add up to 1.
    """
    # The sites around a position are its own and neighbours of that.
    around = neighbour_table(sites, Window((3, 3, 3), padding=(1, 1, 1))).reads
    below = torch.floor(offset)
    share = offset - below
    rows, weights = [], []
    for corner in product((0, 1), repeat=3):
        x, y, z = (below.long() + 1 + torch.tensor(corner, device=sites.device)).unbind(1)
        row = around[(x * 3 + y) * 3 + z, home].long()
        weight = prod((share[:, axis] if far else 1 - share[:, axis] for axis, far in enumerate(corner)))
        rows.append(torch.where(row >= 0, row, home))
        weights.append(torch.where(row >= 0, weight, 0))
    stacked = torch.stack(weights, 1)
    return Gathering(torch.stack(rows, 1), len(sites), stacked / stacked.sum(1, keepdim=True))
