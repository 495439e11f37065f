"""Points → voxels: the first step of every forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import numpy as np
import torch
from torch import Tensor

from image2point.voxels.errors import VoxelError
from image2point.voxels.reduce import segment_mean
from image2point.voxels.sites import unique_sites
from image2point.voxels.tensor import DenseVoxels, VoxelTensor

Array = Tensor | np.ndarray
_LARGEST_INDEX = 2**31 - 1


@overload
def voxelize(
    clouds: Sequence[Array],
    voxel_size: float,
    features: Sequence[Array] | None = None,
    substrate: Literal["sparse"] = "sparse",
) -> VoxelTensor: ...
@overload
def voxelize(
    clouds: Sequence[Array], voxel_size: float, features: Sequence[Array] | None, substrate: str
) -> VoxelTensor | DenseVoxels: ...
def voxelize(
    clouds: Sequence[Array],
    voxel_size: float,
    features: Sequence[Array] | None = None,
    substrate: str = "sparse",
) -> VoxelTensor | DenseVoxels:
    """Quantise a batch of clouds and average the features of the points in each voxel.

    The index of a voxel is floor(p / voxel_size), minus the smallest index of its cloud along each axis.

    Args:
        clouds: one [N_i, 3] array of finite floating-point coordinates per cloud, all in one unit.
        voxel_size: edge of a voxel in that unit.
        features: one [N_i, C] array per cloud; None takes the coordinates.
        substrate: "sparse" for a `VoxelTensor`, "dense" for `DenseVoxels`.

    Raises:
        VoxelError: on no cloud, an empty cloud, wrong shapes, values that are not finite, a voxel size that is
            not positive, or an index that does not fit 32 bits; the message names the cloud.
    """
    if substrate not in ("sparse", "dense"):
        raise VoxelError(f'substrate: expected "sparse" or "dense", found {substrate!r}')
    if not (np.isfinite(voxel_size) and voxel_size > 0):
        raise VoxelError(f"voxel_size: expected a positive number, found {voxel_size}")
    if len(clouds) == 0:
        raise VoxelError("clouds: expected a list of [N_i, 3] arrays, found an empty list")
    if features is not None and len(features) != len(clouds):
        raise VoxelError(f"features: expected one array per cloud ({len(clouds)}), found {len(features)}")
    points = [_points(cloud, number) for number, cloud in enumerate(clouds)]
    values = points if features is None else [_values(*pair, points) for pair in enumerate(features)]
    widths = {v.shape[1] for v in values}
    if len(widths) > 1:
        raise VoxelError(f"features: expected one width for all clouds, found {sorted(widths)}")

    counts = torch.tensor([p.shape[0] for p in points], device=points[0].device)
    batch = torch.repeat_interleave(counts)
    joined = torch.cat(points)
    rows_of_all = joined if features is None else torch.cat(values)
    _finite(joined, batch, "cloud")
    _finite(rows_of_all, batch, "features of cloud")
    index = torch.floor(joined.double() / voxel_size)
    lowest = index.new_full((len(points), 3), torch.inf)
    lowest = lowest.scatter_reduce(0, batch.unsqueeze(1).expand_as(index), index, "amin", include_self=False)
    index = index - lowest[batch]
    if float(index.max()) > _LARGEST_INDEX:
        row = int(index.amax(1).argmax())
        raise VoxelError(
            f"cloud {int(batch[row])}: a voxel index of {float(index[row].max()):.4g} does not fit 32 bits "
            f"at voxel size {voxel_size}; use a larger voxel size or remove far outliers"
        )
    sites, voxel = unique_sites(torch.cat([batch.unsqueeze(1), index.long()], 1).to(torch.int32), len(points))
    sparse = VoxelTensor(segment_mean(rows_of_all, voxel, len(sites)), sites)
    return sparse if substrate == "sparse" else sparse.dense()


def _points(cloud: Array, number: int) -> Tensor:
    points = torch.as_tensor(cloud)
    if points.ndim != 2 or points.shape[1] != 3 or not points.is_floating_point():
        raise VoxelError(f"cloud {number}: expected floating-point [N, 3], found {points.dtype} {list(points.shape)}")
    if points.shape[0] == 0:
        raise VoxelError(f"cloud {number}: expected at least one point, found none")
    return points


def _values(number: int, values: Array, points: list[Tensor]) -> Tensor:
    rows = torch.as_tensor(values)
    if rows.ndim != 2 or rows.shape[0] != points[number].shape[0] or not rows.is_floating_point():
        raise VoxelError(
            f"features of cloud {number}: expected floating-point [{len(points[number])}, C], "
            f"found {rows.dtype} {list(rows.shape)}"
        )
    return rows


def _finite(rows: Tensor, batch: Tensor, what: str) -> None:
    """Look at all clouds at once; which one it is only matters where there is something wrong."""
    if bool(torch.isfinite(rows).all()):
        return
    first = int((~torch.isfinite(rows).all(1)).nonzero()[0])
    number = int(batch[first])
    row = first - int((batch < number).sum())
    raise VoxelError(f"{what} {number}: expected finite values, found {rows[first].tolist()} in row {row}")
