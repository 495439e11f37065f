"""Points → voxels: the first step of every forward pass."""

from __future__ import annotations

from math import frexp, ldexp
from typing import Any, Literal, overload

import torch
from torch import Tensor

from image2point.voxels.errors import VoxelError
from image2point.voxels.inputs import read_clouds
from image2point.voxels.reduce import segment_mean
from image2point.voxels.sites import Sites, unique_sites
from image2point.voxels.tensor import DenseVoxels, VoxelTensor

_LARGEST_INDEX = 2**31 - 1


@overload
def voxelize(
    clouds: Any,
    voxel_size: float,
    features: Any = None,
    substrate: Literal["sparse"] = "sparse",
    return_index: Literal[False] = False,
) -> VoxelTensor: ...
@overload
def voxelize(
    clouds: Any,
    voxel_size: float,
    features: Any = None,
    substrate: Literal["sparse"] = "sparse",
    *,
    return_index: Literal[True],
) -> tuple[VoxelTensor, list[Tensor]]: ...
@overload
def voxelize(
    clouds: Any,
    voxel_size: float,
    features: Any = None,
    substrate: str = "sparse",
    return_index: Literal[False] = False,
) -> VoxelTensor | DenseVoxels: ...
@overload
def voxelize(
    clouds: Any, voxel_size: float, features: Any = None, substrate: str = "sparse", *, return_index: Literal[True]
) -> tuple[VoxelTensor | DenseVoxels, list[Tensor]]: ...
def voxelize(
    clouds: Any, voxel_size: float, features: Any = None, substrate: str = "sparse", return_index: bool = False
) -> VoxelTensor | DenseVoxels | tuple[VoxelTensor | DenseVoxels, list[Tensor]]:
    """Quantise a batch of clouds and average the features of the points in each voxel.

    The index of a voxel is floor(p / voxel_size), minus the smallest index of its cloud along each axis. A coordinate
    that is a multiple of the voxel size, as exactly as its number type can say, belongs to the voxel that begins there.

    Args:
        clouds: the coordinates, all in one unit, in any of these forms: a list of [N_i, 3] arrays, one per cloud; one
            array [N, 3] or [B, N, 3]; a pair (points [P, 3], batch [P]) as in PyG; a `torch_geometric` Data or Batch;
            an Open3D point cloud; a list of such objects. Arrays are tensors or what NumPy takes, of any real type.
        voxel_size: edge of a voxel in that unit.
        features: values of the points, in the form of `clouds`: [N_i, C] per cloud; None takes the coordinates.
        substrate: "sparse" for a `VoxelTensor`, "dense" for `DenseVoxels`.
        return_index: also give the voxel of each point.

    Returns:
        Voxels whose features have the floating type of what was given (of integers, torch's default type). With
        `return_index` a pair of these and a list with int64 [N_i] for each cloud: the row of each point's voxel among
        those of the whole batch, in the order of the cloud's points; on grids the row in `DenseVoxels.rows`.
        `to_points` takes it.

    Raises:
        VoxelError: on no cloud, an empty cloud, wrong shapes or types, values that are not finite, a voxel size that is
            not positive, coordinates whose type is too coarse for the voxels, an index that does not fit 32 bits, or a
            dense grid that does not fit the memory; the message names the cloud.

    >>> points = torch.tensor([[0.0, 0.0, 0.0], [0.04, 0.0, 0.0], [0.1, 0.0, 0.0]])
    >>> voxels = voxelize([points], 0.1)
    >>> voxels.coordinates.tolist()  # cloud, x, y, z
    [[0, 0, 0, 0], [0, 1, 0, 0]]
    >>> voxels.features[:, 0].tolist()
    [0.019999999552965164, 0.10000000149011612]
    >>> voxelize([points], 0.1, return_index=True)[1]
    [tensor([0, 0, 1])]
    """
    if substrate not in ("sparse", "dense"):
        raise VoxelError(f'substrate: expected "sparse" or "dense", found {substrate!r}')
    try:
        if isinstance(voxel_size, bool):
            raise TypeError
        voxel_size = float(voxel_size)
    except (TypeError, ValueError):
        raise VoxelError(f"voxel_size: expected a positive number, found {voxel_size!r}") from None
    if not 0 < voxel_size < float("inf"):
        raise VoxelError(f"voxel_size: expected a positive number, found {voxel_size}")
    points, values = read_clouds(clouds, features)
    batch = torch.repeat_interleave(torch.tensor([len(p) for p in points], device=points[0].device))
    _check_finite(points, "cloud")
    coordinates, lowest = _coordinates(points, batch, voxel_size)
    sites, voxel = unique_sites(coordinates, len(points), 1, lowest * voxel_size, voxel_size)
    if values is None:
        values = [p if p.is_floating_point() else p.to(torch.get_default_dtype()) for p in points]
    else:
        _check_finite(values, "features of cloud")
    sparse = VoxelTensor(_means(torch.cat(values), voxel, sites), sites)
    voxels = sparse if substrate == "sparse" else sparse.dense()
    return (voxels, list(voxel.split([len(p) for p in points]))) if return_index else voxels


def _coordinates(points: list[Tensor], batch: Tensor, voxel_size: float) -> tuple[Tensor, Tensor]:
    """Batch and voxel index of every point, int32 [P, 4], and what index 0 is of p / voxel_size, float64 [B, 3]."""
    # Integers are exact, and computed with in float64.
    steps = [torch.finfo(p.dtype if p.is_floating_point() else torch.float64).eps for p in points]
    joined = torch.cat([p.detach().double() for p in points])
    _check_spacing(_per_cloud(joined.abs(), batch, len(points), "amax"), steps, points, voxel_size)
    index = joined / voxel_size
    # A multiple of the voxel size that its type rounded down is lifted back over the edge.
    index = torch.floor(index + index.abs() * joined.new_tensor(steps)[batch].unsqueeze(1))
    lowest = _per_cloud(index, batch, len(points), "amin")
    index = index - lowest[batch]
    if float(index.max()) > _LARGEST_INDEX:
        row = int(index.amax(1).argmax())
        raise VoxelError(
            f"cloud {int(batch[row])}: a voxel index of {float(index[row].max()):.4g} does not fit 32 bits "
            f"at voxel size {voxel_size}; use a larger voxel size or remove far outliers"
        )
    return torch.cat([batch.unsqueeze(1), index.long()], 1).to(torch.int32), lowest


def _per_cloud(values: Tensor, batch: Tensor, clouds: int, reduce: str) -> Tensor:
    """Smallest or largest value of each cloud, which has at least one point: [P, 3] → [B, 3]."""
    place = batch.unsqueeze(1).expand_as(values)
    return values.new_zeros(clouds, 3).scatter_reduce(0, place, values, reduce, include_self=False)


def _check_spacing(largest: Tensor, steps: list[float], points: list[Tensor], voxel_size: float) -> None:
    """Refuse coordinates [B, 3] whose neighbours in their own number type lie further apart than a voxel is wide."""
    for number, (value, step) in enumerate(zip(largest.amax(1).tolist(), steps, strict=True)):
        spacing = ldexp(step, frexp(value)[1] - 1)
        if spacing > voxel_size:
            kind = str(points[number].dtype).removeprefix("torch.")
            raise VoxelError(
                f"cloud {number}: near {value:.6g}, {kind} numbers are {spacing:.3g} apart, more than a voxel of "
                f"{voxel_size}; subtract the cloud's origin before it is rounded to {kind}, or use larger voxels"
            )


def _means(values: Tensor, voxel: Tensor, sites: Sites) -> Tensor:
    """Mean over the points of each voxel; numbers of 16 bits are summed in 32."""
    wide = values.float() if values.element_size() < 4 else values
    means = segment_mean(wide, voxel, len(sites)).to(values.dtype)
    if not bool(torch.isfinite(means).all()):
        number = int(sites.batch[~torch.isfinite(means).all(1)][0])
        raise VoxelError(
            f"features of cloud {number}: the sum over the points of a voxel exceeds the range of {values.dtype}; "
            "divide the features by a constant"
        )
    return means


def _check_finite(rows: list[Tensor], name: str) -> None:
    """Look at all clouds at once; which one it is only matters where there is something wrong."""
    if bool(torch.isfinite(torch.cat(rows)).all()):
        return
    for number, values in enumerate(rows):
        bad = ~torch.isfinite(values).all(1)
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise VoxelError(f"{name} {number}: expected finite values, found {values[row].tolist()} in row {row}")
