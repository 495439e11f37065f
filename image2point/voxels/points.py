"""Voxels → points: what each point finds in the voxels of any stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from image2point.voxels.errors import VoxelError
from image2point.voxels.gather import Gathering
from image2point.voxels.inputs import read_clouds
from image2point.voxels.interpolate import corners
from image2point.voxels.sites import Sites
from image2point.voxels.tensor import DenseVoxels, VoxelTensor


def to_points(
    voxels: VoxelTensor | DenseVoxels,
    index: Sequence[Tensor],
    clouds: Any = None,
    mode: Literal["nearest", "linear"] = "nearest",
) -> list[Tensor]:
    """Features of voxels, of the input's scale or of any stage, at the points that were voxelized.

    Args:
        voxels: what a network makes of the voxels that `index` came with.
        index: the voxel of each point, as `voxelize(..., return_index=True)` gives it.
        clouds: the coordinates that were voxelized, in one of the forms that `voxelize` takes; for "linear" alone.
        mode: "nearest" gives every point the features of the voxel that it lies in. "linear" interpolates between the
            centres of the eight voxels around it. Of these only the occupied ones count, and their weights are divided
            by their sum (as in SPVCNN, Tang et al., 2020).

    Returns:
        Features [N_i, C] for each cloud. They have a gradient in the features of the voxels, none in the coordinates.

    Raises:
        VoxelError: on another number of clouds, rows that are not those of the cloud's voxels, points that lie in other
            voxels than `index` says, or coarse voxels that do not know which input voxels they were made of.

    >>> import torch
    >>> from image2point.voxels import voxelize
    >>> cloud = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.11, 0.0, 0.0]])
    >>> voxels, index = voxelize([cloud], 0.1, features=[torch.tensor([[1.0], [3.0], [5.0]])], return_index=True)
    >>> to_points(voxels, index)[0].flatten().tolist()
    [1.0, 4.0, 4.0]
    >>> [round(value, 3) for value in to_points(voxels, index, [cloud], mode="linear")[0].flatten().tolist()]
    [1.0, 2.5, 2.8]
    """
    if mode not in ("nearest", "linear"):
        raise VoxelError(f'mode: expected "nearest" or "linear", found {mode!r}')
    if isinstance(voxels, DenseVoxels):
        voxels = voxels.sparse()
    if not isinstance(voxels, VoxelTensor):
        raise VoxelError(f"voxels: expected a VoxelTensor or DenseVoxels, found {type(voxels).__name__}")
    sites, counts = voxels.sites, [len(rows) for rows in index]
    rows = _voxel_of_each(sites, index)
    if mode == "nearest":
        found = Gathering(rows, len(sites))
    elif clouds is None:
        raise VoxelError('mode="linear" needs the clouds that were voxelized')
    else:
        found = corners(sites, rows, _offsets(sites, rows, clouds, counts))
    return list(found.take(voxels.features).split(counts))


def _voxel_of_each(sites: Sites, index: Sequence[Tensor]) -> Tensor:
    """The row of each point's voxel among these sites, int64 [P], from its row among the input voxels."""
    if len(index) != sites.batch_size:
        raise VoxelError(f"index: expected one tensor per cloud ({sites.batch_size}), found {len(index)}")
    for number, rows in enumerate(index):
        if not isinstance(rows, Tensor) or rows.dtype != torch.int64 or rows.ndim != 1:
            found = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
            raise VoxelError(f"index of cloud {number}: expected int64 [N], the voxel of each point, found {found}")
    if sites.stride > 1 and sites.finest is None:
        raise VoxelError(
            f"these voxels of stride {sites.stride} do not know which input voxels they were made of: take them as the "
            "network gives them, from voxels that `voxelize` made"
        )
    inputs = sites.coordinates if sites.finest is None else sites.finest
    joined = torch.cat(list(index)).to(sites.device)
    cloud = torch.repeat_interleave(torch.tensor([len(rows) for rows in index])).to(sites.device)
    inside = (joined >= 0) & (joined < len(inputs))
    wrong = ~inside | (inputs[torch.where(inside, joined, 0), 0] != cloud)
    if bool(wrong.any()):
        point = int(wrong.nonzero()[0])
        raise VoxelError(
            f"index of cloud {int(cloud[point])}: row {int(joined[point])} is none of its voxels, "
            f"of {len(inputs):,} in the batch; give the index that `voxelize` made with these voxels"
        )
    if sites.finest is None:
        return joined
    return sites.plan("of the finest", lambda: Sites(inputs, sites.batch_size).rows_in(sites, sites.stride))[joined]


def _offsets(sites: Sites, rows: Tensor, clouds: Any, counts: list[int]) -> Tensor:
    """Where each point lies in its voxel, from the centre, in edges of that voxel: float64 [P, 3], −½ to ½."""
    points, _ = read_clouds(clouds)
    if (given := [len(cloud) for cloud in points]) != counts:
        raise VoxelError(f"clouds: expected those that were voxelized, with {counts} points, found {given}")
    offsets = []
    _, edge = sites.placed()
    for number, (cloud, own) in enumerate(zip(points, rows.split(counts), strict=True)):
        place = cloud.detach().to(sites.device, torch.float64)
        offset = (place - sites.centres[own]) / edge
        step = torch.finfo(cloud.dtype if cloud.is_floating_point() else torch.float64).eps
        outside = (offset.abs() > 0.5 + 1e-6 + place.abs() * step / edge).any(1)
        if bool(outside.any()):
            point = int(outside.nonzero()[0])
            raise VoxelError(
                f"cloud {number}: point {point} at {place[point].tolist()} is not in the voxel that its index names, "
                f"around {sites.centres[own[point]].tolist()}; give the clouds that were voxelized, in the same unit"
            )
        offsets.append(offset.clamp_(-0.5, 0.5))
    return torch.cat(offsets)
