"""Scenes part by part, so that few of their points are in memory: from .las and .laz files, or cut from a cloud."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from image2point.datasets import las
from image2point.datasets.cloud import Cloud, near_origin
from image2point.datasets.columns import NORMALS, cloud_of_columns
from image2point.datasets.las import COLOURS, las_chunks
from image2point.datasets.scene_files import (
    ATTRIBUTES,
    SceneFields,
    own_coordinates,
    read_scene,
    scene_attributes,
)
from image2point.datasets.semantickitti import read_scan
from image2point.datasets.validate import check_cloud
from image2point.errors import InputError


class Parts(Protocol):
    """The points of a scene in order, some at a time, as often as it is asked for them; labels are left out.

    low: the smallest coordinates, float64 [3].
    """

    @property
    def low(self) -> np.ndarray: ...

    def __len__(self) -> int:
        """The number of points."""
        ...

    def __iter__(self) -> Iterator[Cloud]: ...


class CloudParts:
    """A cloud that is in memory, at most `size` points at a time; None: all at once.

    >>> [len(part) for part in CloudParts(Cloud(np.zeros((5, 3))), size=2)]
    [2, 2, 1]
    """

    def __init__(self, cloud: Cloud, size: int | None = None) -> None:
        self.cloud, self.size = replace(cloud, labels=None), size or max(len(cloud), 1)

    @cached_property
    def low(self) -> np.ndarray:
        return self.cloud.points.min(axis=0).astype(np.float64)

    def __len__(self) -> int:
        return len(self.cloud)

    def __iter__(self) -> Iterator[Cloud]:
        for start in range(0, len(self.cloud), self.size):
            end = min(start + self.size, len(self.cloud))
            yield self.cloud.take(np.arange(start, end))


class LasParts:
    """A .las or .laz file, which is decoded anew each time. Points lie near `origin`, in the wanted unit, as those of
    `read_scene` do.

    Raises InputError as `las.read_las` does, when it is made: so the whole file was seen once.
    """

    def __init__(self, path: Path, fields: SceneFields) -> None:
        self.path, self.fields = path, fields
        self.wanted = {*ATTRIBUTES, *COLOURS, *(name for names in NORMALS for name in names), *fields.named}
        low, self._points, self._colours = np.full(3, np.inf), 0, 0.0
        for chunk in las_chunks(path, {*COLOURS}):
            if not len(chunk["x"]):
                raise InputError(f"{path}: expected at least one point, found none")
            low = np.minimum(low, [chunk[axis].min() for axis in "xyz"])
            self._points += len(chunk["x"])
            self._colours = max([self._colours, *(float(chunk[name].max()) for name in COLOURS if name in chunk)])
        self.origin = np.floor(low * fields.unit)
        self.low = low * fields.unit - self.origin

    def __len__(self) -> int:
        return self._points

    def __iter__(self) -> Iterator[Cloud]:
        for found in las_chunks(self.path, self.wanted):
            chunk = {name.lower(): values for name, values in found.items()}
            colours = [chunk.pop(name) for name in COLOURS if name in chunk]
            cloud = cloud_of_columns(chunk, str(self.path))
            if len(colours) == 3 and self._colours:  # colours that are all 0 are none
                scale = 255 if self._colours <= 255 else 65535
                cloud = replace(cloud, colours=np.stack(colours, axis=1) / scale)
            attributes = scene_attributes(chunk, self.fields, str(self.path))
            points = cloud.points * self.fields.unit - self.origin
            yield replace(cloud, points=points, attributes=attributes, origin=self.origin)


def open_parts(path: Path, fields: SceneFields, columns: str | None = None, whole: bool = False) -> Parts:
    """A file of points, whatever its format, in parts of at most `las.CHUNK` points, or `whole`.

    Only .las and .laz are decoded part by part; other formats are read once and cut. A .bin is a scan as SemanticKITTI
    has them. fields, columns: as in `scene_files.read_scene`, but for names of coordinates and attributes that this
    file does not have: it is read by the usual names then, coordinates in the unit of the config.

    Raises InputError as `read_scene` does, and for points that are NaN: they can have no label.
    """
    if path.suffix.lower() in (".las", ".laz"):
        fields = own_coordinates(fields)
        if not whole and path.is_file():
            return LasParts(path, fields)
    if path.suffix.lower() == ".bin":
        scan, unit = read_scan(path, labelled=False), own_coordinates(fields).unit
        cloud = check_cloud(near_origin(replace(scan, points=scan.points * unit)), str(path))
    else:
        cloud = read_scene(path, None, fields, columns, nan_points="refuse", lenient=True)
    return CloudParts(cloud, None if whole else las.CHUNK)
