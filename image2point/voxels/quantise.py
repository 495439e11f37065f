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
    widths = {len(v[0]) for v in values}
    if len(widths) > 1:
        raise VoxelError(f"features: expected one width for all clouds, found {sorted(widths)}")

    counts = torch.tensor([len(p) for p in points], device=points[0].device)
    batch = torch.repeat_interleave(counts)
    index = torch.floor(torch.cat(points).double() / voxel_size)
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
    sparse = VoxelTensor(segment_mean(torch.cat(values), voxel, len(sites)), sites)
    return sparse if substrate == "sparse" else sparse.dense()


def _points(cloud: Array, number: int) -> Tensor:
    points = torch.as_tensor(cloud)
    if points.ndim != 2 or points.shape[1] != 3 or not points.is_floating_point():
        raise VoxelError(f"cloud {number}: expected floating-point [N, 3], found {points.dtype} {list(points.shape)}")
    if len(points) == 0:
        raise VoxelError(f"cloud {number}: expected at least one point, found none")
    return _finite(points, f"cloud {number}")


def _values(number: int, values: Array, points: list[Tensor]) -> Tensor:
    rows = torch.as_tensor(values)
    if rows.ndim != 2 or len(rows) != len(points[number]) or not rows.is_floating_point():
        raise VoxelError(
            f"features of cloud {number}: expected floating-point [{len(points[number])}, C], "
            f"found {rows.dtype} {list(rows.shape)}"
        )
    return _finite(rows, f"features of cloud {number}")


def _finite(rows: Tensor, where: str) -> Tensor:
    bad = ~torch.isfinite(rows).all(1)
    if bool(bad.any()):
        raise VoxelError(
            f"{where}: expected finite values, found {rows[bad][0].tolist()} in row {int(bad.nonzero()[0])}"
        )
    return rows
