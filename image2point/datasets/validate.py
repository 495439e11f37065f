"""Checks that an array is a point cloud, for files, datasets and calls from Python alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from image2point.datasets.cloud import IGNORED, Cloud
from image2point.errors import InputError

INDEX_LIMIT = 2**31 - 1  # voxel indices are int32


def check_cloud(cloud: Cloud, where: str, voxel_size: float | None = None) -> Cloud:
    """Return `cloud` with the types that `Cloud` promises and its normals brought to length 1, or say what is wrong.

    `where` and `voxel_size` as in `check_points`, which the points go through. A normal of length 0 stays.

    Raises InputError too for normals, colours, labels or attributes of another shape, values that are not finite,
    colours outside 0..1, and labels that are not whole numbers from −1, which is ignored.

    >>> check_cloud(Cloud(np.zeros((1, 3)), normals=np.array([[0, 0, 2.0]])), "cloud").normals
    array([[0., 0., 1.]], dtype=float32)
    """
    points = check_points(cloud.points, where, voxel_size)
    normals = _rows(cloud.normals, "normals", where, points)
    if normals is not None:
        length = np.linalg.norm(normals.astype(np.float64), axis=1, keepdims=True)
        # Those that have it already keep every bit, however often they are checked.
        normals = (normals / np.where((length > 0) & (np.abs(length - 1) > 1e-6), length, 1)).astype(np.float32)
    colours = _rows(cloud.colours, "colours", where, points)
    if colours is not None and (colours.min() < 0 or colours.max() > 1):
        raise InputError(
            f"{where}: expected colours in 0..1, found {colours.min():g} to {colours.max():g}; "
            "8-bit colours are divided by 255"
        )
    labels = None if cloud.labels is None else np.asarray(cloud.labels)
    if labels is not None and (labels.dtype.kind not in "iu" or labels.shape != (len(points),)):
        raise InputError(
            f"{where}: expected labels to be whole numbers ({len(points)},), found {labels.dtype} {labels.shape}"
        )
    if labels is not None and labels.min() < IGNORED:
        raise InputError(f"{where}: expected labels from 0, or {IGNORED} where ignored, found {labels.min()}")
    attributes = {name: _column(values, name, where, points) for name, values in cloud.attributes.items()}
    origin = np.asarray(cloud.origin, dtype=np.float64)
    if origin.shape != (3,) or not np.isfinite(origin).all():
        raise InputError(f"{where}: expected an origin of three finite numbers, found {cloud.origin}")
    return Cloud(points, normals, colours, None if labels is None else labels.astype(np.int64), attributes, origin)


def check_digits(points: np.ndarray, where: str) -> None:
    """Refuse coordinates [P, 3] whose number type left them too few digits: the cloud's largest extent has fewer than
    250 steps of it. To be asked before they are moved to the origin, where it shows no more.

    >>> check_digits(np.array([[0, 5800000, 0], [1, 5800001, 1]], dtype=np.float32), "a.ply")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    image2point.errors.InputError: a.ply: near 5.8e+06, float32 numbers are 0.5 apart, and the cloud is 1 wide, ...
    """
    points = np.asarray(points)
    if points.dtype.kind != "f" or points.dtype.itemsize > 4 or points.ndim != 2 or not len(points):
        return
    largest = np.abs(points).max()
    if not np.isfinite(largest):
        return  # refused elsewhere, with its place
    extent = float((points.max(axis=0).astype(np.float64) - points.min(axis=0)).max())
    spacing = float(np.spacing(largest))
    if 0 < extent < 250 * spacing:
        raise InputError(
            f"{where}: near {float(largest):.6g}, {points.dtype} numbers are {spacing:.3g} apart, and the cloud is "
            f"{extent:.3g} wide, so that its shape is lost; write it with float64 coordinates, or relative to a point "
            "near it"
        )


def _rows(values: Any, name: str, where: str, points: np.ndarray) -> np.ndarray | None:
    return None if values is None else _numbers(values, name, where, points.shape)


def _column(values: Any, name: str, where: str, points: np.ndarray) -> np.ndarray:
    if not name.isidentifier():  # they are parts of file names in the prepared form
        raise InputError(f"{where}: expected names of attributes to be letters, digits and _, found {name!r}")
    return _numbers(values, f"the attribute {name}", where, (len(points),))


def _numbers(values: Any, name: str, where: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 of that shape, all finite."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiu" or array.shape != shape:
        raise InputError(f"{where}: expected {name} to be numbers {shape}, found {array.dtype} {array.shape}")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
        raise InputError(f"{where}: {name} hold NaN or infinite values, first at point {row}: {array[row].tolist()}")
    return array


def check_points(points: Any, where: str, voxel_size: float | None = None) -> np.ndarray:
    """Return `points` as float32 [P, 3], P >= 1, or say what is wrong with it.

    `where` begins the message: a path, a file and row, an argument's name. With `voxel_size` (same unit as
    the points), indices floor(p / voxel_size) that do not fit into int32 are refused too. A single point is a
    cloud.

    Raises InputError for another shape, no points, a type that is no real number, NaN or infinite coordinates
    (those beyond the range of float32 included), and overflowing indices.

    >>> check_points([[0, 1, 2]], "cloud")
    array([[0., 1., 2.]], dtype=float32)
    >>> check_points([[0, 1]], "cloud")
    Traceback (most recent call last):
    image2point.errors.InputError: cloud: expected points of shape (P, 3), found (1, 2)
    """
    array = np.asarray(points)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{where}: expected real numbers, found the type {array.dtype}")
    if array.ndim != 2 or array.shape[1] != 3:
        raise InputError(f"{where}: expected points of shape (P, 3), found {array.shape}")
    if not len(array):
        raise InputError(f"{where}: the cloud is empty; at least one point is needed")
    with np.errstate(over="ignore"):
        cloud = array.astype(np.float32)
    if not np.isfinite(cloud).all():  # over all at once: axes of length 3 are slow, and this is done for every cloud
        finite = np.isfinite(cloud).all(axis=1)
        row = int(np.flatnonzero(~finite)[0])
        raise InputError(
            f"{where}: {int((~finite).sum())} of {len(cloud)} points are not finite, "
            f"the first is point {row}: {array[row].tolist()}"
        )
    if voxel_size is not None:
        check_indices(cloud, where, voxel_size)
    return cloud


def check_indices(cloud: np.ndarray, where: str, voxel_size: float) -> None:
    """Raise InputError where floor(p / voxel_size), or that less the cloud's own minimum, overflows int32.

    >>> check_indices(np.array([[0, 0, 1e6]], dtype=np.float32), "cloud", 0.05)
    """
    if not (np.isfinite(voxel_size) and voxel_size > 0):
        raise InputError(f"voxel size must be a positive length, found {voxel_size}")
    if float(np.abs(cloud).max()) < INDEX_LIMIT / 2 * voxel_size:
        return
    low, high = (np.floor(side.astype(np.float64) / voxel_size) for side in (cloud.min(axis=0), cloud.max(axis=0)))
    reach = max(np.abs(low).max(), np.abs(high).max(), (high - low).max())
    if reach > INDEX_LIMIT:
        raise InputError(
            f"{where}: a voxel index of {reach:.3g} does not fit into 32 bits; the coordinates reach from "
            f"{cloud.min():.6g} to {cloud.max():.6g} at voxel size {voxel_size:g}. "
            "Scale the cloud (to the unit sphere, say) or use larger voxels"
        )
