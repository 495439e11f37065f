"""Clouds as people bring them → one tensor of coordinates per cloud."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from image2point.voxels.errors import VoxelError

FORMS = (
    "a list of [N_i, 3] arrays, one [N, 3] or [B, N, 3] array, a pair (points [P, 3], batch [P]), "
    "or point clouds of PyG or Open3D"
)


def read_clouds(clouds: Any, features: Any = None) -> tuple[list[Tensor], list[Tensor] | None]:
    """Coordinates [N_i, 3] and features [N_i, C] of each cloud, as tensors.

    Coordinates keep their number type; those of features are floating. Args and errors as of `voxelize`.
    """
    points, batch = _parts(clouds)
    if batch is not None:
        order, counts = by_cloud(batch, len(points), clouds_in(clouds))
        points = list(points[order].split(counts))
        if features is not None:
            features = list(to_tensor(features, "features")[order.to(_device_of(features))].split(counts))
    elif _ndim(points) == 2:
        points = [points]
    rows = [_points(cloud, f"cloud {number}") for number, cloud in enumerate(_listed(points, "clouds"))]
    if not rows:
        raise VoxelError(f"clouds: expected {FORMS}; found an empty list")
    if features is None:
        return rows, None
    given = [features] if len(rows) == 1 and _ndim(features) == 2 else _listed(features, "features")
    if len(given) != len(rows):
        raise VoxelError(f"features: expected one array per cloud ({len(rows)}), found {len(given)}")
    values = [_values(each, f"features of cloud {n}", len(rows[n])) for n, each in enumerate(given)]
    if len(widths := {value.shape[1] for value in values}) > 1:
        raise VoxelError(f"features: expected one width for all clouds, found {sorted(widths)}")
    devices = {str(tensor.device) for tensor in (*rows, *values)}
    if len(devices) > 1:
        raise VoxelError(f"clouds and features: expected one device, found {', '.join(sorted(devices))}")
    return rows, values


def to_tensor(values: Any, name: str) -> Tensor:
    """An array of real numbers of any type, byte order and strides as a tensor, which may share its memory.

    Raises:
        VoxelError: on what is no array of real numbers; the message begins with `name`.
    """
    if isinstance(values, Tensor):
        if values.layout != torch.strided or values.is_complex() or values.dtype == torch.bool or values.is_quantized:
            raise VoxelError(f"{name}: expected a dense array of real numbers, found {values.dtype} {values.layout}")
        if values.is_meta:
            raise VoxelError(f"{name}: expected numbers, found a tensor on the device meta, which has none")
        return values
    if isinstance(values, np.ma.MaskedArray) and values.mask.any():
        raise VoxelError(
            f"{name}: expected plain numbers, found a masked array; leave the masked rows out, "
            "array[~array.mask.any(1)].data"
        )
    try:
        array = np.asarray(values.numpy() if hasattr(values, "numpy") else values)
    except (TypeError, ValueError, RuntimeError) as reason:
        raise VoxelError(f"{name}: expected an array of numbers, found {type(values).__name__} ({reason})") from None
    if array.dtype.kind not in "fiu":
        raise VoxelError(
            f"{name}: expected an array of real numbers, found {type(values).__name__} of {array.dtype} "
            f"{list(array.shape)}"
        )
    if array.dtype.kind == "f":
        kind = array.dtype.newbyteorder("=") if array.dtype.itemsize <= 8 else np.dtype(np.float64)
    else:
        kind = np.dtype(np.int64 if array.max(initial=0) < 1 << 63 else np.float64)
    array = np.ascontiguousarray(array, kind)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _parts(clouds: Any) -> tuple[Any, Tensor | None]:
    """The clouds, or the points of all and the cloud of each."""
    pair = isinstance(clouds, tuple) and len(clouds) == 2
    if pair and (clouds[1] is None or (_ndim(clouds[1]) == 1 and _ndim(clouds[0]) == 2)):
        points, batch = clouds
    elif hasattr(clouds, "pos"):  # torch_geometric.data.Data and Batch
        points, batch = _pos(clouds, "clouds"), getattr(clouds, "batch", None)
    else:
        return coordinates_of(clouds, "clouds"), None
    if batch is None:
        return [points], None
    return to_tensor(points, "points"), to_tensor(batch, "batch")


def coordinates_of(cloud: Any, name: str) -> Any:
    """The coordinates of one cloud: of PyG's Data, Open3D's clouds and this project's own the array that they hold;
    all else as it is.

    Raises VoxelError, which begins with `name`, for a cloud without `pos` or positions and a PyG Batch of several.
    """
    if isinstance(cloud, (Tensor, np.ndarray)):
        return cloud
    if hasattr(cloud, "pos"):
        batch = getattr(cloud, "batch", None)
        if batch is not None and len(batch) and int(batch.max()) > 0:
            raise VoxelError(
                f"{name}: expected one cloud, found a PyG Batch of {int(batch.max()) + 1}; give the Batch itself, "
                "not a list of such, or batch.to_data_list()"
            )
        return _pos(cloud, name)
    if hasattr(cloud, "point"):  # open3d.t.geometry.PointCloud
        if "positions" not in cloud.point:
            raise VoxelError(f"{name}: expected at least one point, found an Open3D cloud without positions")
        return cloud.point["positions"]
    return getattr(cloud, "points", cloud)  # open3d.geometry.PointCloud, and this project's own clouds


def clouds_in(batch: Any) -> int:
    """How many clouds a PyG Batch says that it has, those without a point included; 0 where it does not say."""
    ends = getattr(batch, "ptr", None)
    return 0 if ends is None else len(ends) - 1


def by_cloud(batch: Tensor, points: int, clouds: int = 0) -> tuple[Tensor, list[int]]:
    """The rows in the order of their clouds, and the number of rows of each, for at least so many clouds.

    Raises VoxelError where `batch` is not int [points], from 0 on.

    >>> by_cloud(torch.tensor([1, 0, 1]), 3, clouds=3)
    (tensor([1, 0, 2]), [1, 2, 0])
    """
    if batch.shape != (points,) or batch.is_floating_point():
        raise VoxelError(
            f"batch: expected integers [{points}], the cloud of each point, found {batch.dtype} {list(batch.shape)}"
        )
    if points and int(batch.min()) < 0:
        raise VoxelError(f"batch: expected cloud numbers from 0 on, found {int(batch.min())}")
    if points and int(batch.max()) >= points:
        raise VoxelError(f"batch: cloud {int(batch.max())} of only {points} points: some clouds have no point")
    return torch.sort(batch, stable=True).indices, torch.bincount(batch.long(), minlength=clouds).tolist()


def _pos(data: Any, name: str) -> Any:
    if data.pos is None:
        raise VoxelError(f"{name}: expected PyG data with the coordinates [N, 3] in `pos`, found no `pos`: {data}")
    return data.pos


def _ndim(values: Any) -> int | None:
    """Number of axes of an array; None of anything else."""
    if isinstance(values, (list, tuple)):
        return None
    ndim = getattr(values, "ndim", None)
    if ndim is None and not isinstance(values, (str, bytes)) and hasattr(values, "__array__"):
        ndim = np.asarray(values).ndim
    return ndim if isinstance(ndim, int) else None


def _listed(values: Any, name: str) -> list[Any]:
    if isinstance(values, (str, bytes, dict)) or not isinstance(values, Iterable):
        raise VoxelError(f"{name}: expected {FORMS if name == 'clouds' else 'arrays'}; found {type(values).__name__}")
    return list(values)


def _device_of(values: Any) -> torch.device:
    return values.device if isinstance(values, Tensor) else torch.device("cpu")


def _points(cloud: Any, name: str) -> Tensor:
    points = to_tensor(coordinates_of(cloud, name), name)
    if points.ndim != 2 or points.shape[1] != 3:
        more = "; further columns go to features=" if points.ndim == 2 and points.shape[1] > 3 else ""
        raise VoxelError(f"{name}: expected coordinates [N, 3], found {points.dtype} {list(points.shape)}{more}")
    if len(points) == 0:
        raise VoxelError(f"{name}: expected at least one point, found none")
    return points


def _values(features: Any, name: str, points: int) -> Tensor:
    rows = to_tensor(features, name)
    if rows.ndim != 2 or len(rows) != points:
        raise VoxelError(f"{name}: expected [{points}, C], a row per point, found {rows.dtype} {list(rows.shape)}")
    return rows if rows.is_floating_point() else rows.to(torch.get_default_dtype())
