"""Clouds as Python programs hold them → `Cloud`: arrays, tensors, and the clouds of PyTorch Geometric and Open3D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from image2point.datasets.cloud import Cloud
from image2point.datasets.columns import unit_colours
from image2point.datasets.features import ATTRIBUTES
from image2point.errors import InputError
from image2point.voxels.inputs import by_cloud, clouds_in, coordinates_of, to_tensor

FORMS = "an array or tensor [P, 3], a `datasets.Cloud`, PyG Data or an Open3D point cloud"


def clouds_of(given: Any) -> list[Any]:
    """The clouds, one by one, of a sequence of them, of a PyG Batch, or of one cloud of PyG or Open3D.

    Raises InputError for one array of points, which is no list of clouds, and for what is neither.

    >>> [len(cloud) for cloud in clouds_of([np.zeros((4, 3)), np.zeros((2, 3))])]
    [4, 2]
    """
    batch = getattr(given, "batch", None) if hasattr(given, "pos") else None
    if batch is not None:
        whole = cloud_in_memory(given, "clouds", several=True)
        if wrong := [name for name, values in whole.columns().items() if len(values) != len(whole)]:
            raise InputError(f"clouds: expected {len(whole)} rows, one for each point, under {wrong[0]}")
        order, counts = by_cloud(to_tensor(batch, "batch").cpu(), len(whole), clouds_in(given))
        return [whole.take(rows.numpy()) for rows in order.split(counts)]
    if isinstance(given, Cloud) or any(hasattr(given, name) for name in ("pos", "point", "points")):
        return [given]
    try:
        clouds = list(given)
    except TypeError:
        raise InputError(
            f"clouds: expected a list of clouds, each {FORMS}, or a PyG Batch; found {type(given).__name__}"
        ) from None
    if clouds and getattr(clouds[0], "ndim", None) == 1:
        raise InputError("clouds: expected a list of clouds, found one cloud; give a list of one, [points]")
    return clouds


def cloud_in_memory(given: Any, where: str, several: bool = False) -> Cloud:
    """One cloud, as it is: not checked yet.

    Of PyG's Data: `pos`, `normal`, and `colour`, `intensity`, `return_share` and `number_of_returns` where they are
    there. Of Open3D: positions, normals and colours; of its tensor clouds those attributes too. several: a PyG Batch
    is taken as one.

    Raises InputError, which begins with `where`, for what is no cloud.

    >>> from types import SimpleNamespace
    >>> data = SimpleNamespace(pos=np.zeros((2, 3)), normal=np.ones((2, 3)), intensity=np.array([[1.0], [2.0]]))
    >>> cloud_in_memory(data, "cloud 0").attributes
    {'intensity': array([1., 2.])}
    """
    if isinstance(given, Cloud):
        return given
    points = given.pos if several else coordinates_of(given, where)
    if hasattr(given, "pos"):
        found = {name: getattr(given, name, None) for name in ("normal", "colour", *ATTRIBUTES)}
        normals, colours = found.pop("normal"), found.pop("colour")
    elif hasattr(given, "point"):
        found = {name: given.point[name] for name in ("normals", "colors", *ATTRIBUTES) if name in given.point}
        normals, colours = found.pop("normals", None), found.pop("colors", None)
    else:
        found = {}
        normals, colours = (_filled(getattr(given, name, None)) for name in ("normals", "colors"))
    try:
        rows = _array(points)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: expected {FORMS}; {error}") from None
    if rows.dtype == object:
        raise InputError(f"{where}: expected {FORMS}; found {type(given).__name__}")
    return Cloud(
        rows,
        None if normals is None else _array(normals),
        None if colours is None else unit_colours(_array(colours)),
        attributes={name: _column(_array(values)) for name, values in found.items() if values is not None},
    )


def _array(values: Any) -> np.ndarray:
    """A NumPy array of an array of any library, on any device."""
    if isinstance(values, Tensor):
        values = values.detach()
    if hasattr(values, "cpu"):
        values = values.cpu()
    return np.asarray(values.numpy() if hasattr(values, "numpy") else values)


def _column(values: np.ndarray) -> np.ndarray:
    """[P, 1] as [P]."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def _filled(values: Sequence[Any] | None) -> Sequence[Any] | None:
    """Open3D keeps what a cloud lacks as an empty list."""
    return values if values is not None and len(values) else None
