"""Depth images of clouds: the same shapes as a 2D network sees them, to measure both sides of the transfer on them.

A cloud is seen from above at an angle, in parallel projection. Near points are bright, far ones dark, nothing is black;
each point is a disc, wide enough to close the gaps between its neighbours.
"""

from __future__ import annotations

import math

import numpy as np

from image2point.datasets.class_split import Labelled
from image2point.datasets.features import Up
from image2point.datasets.splits import origin
from image2point.datasets.validate import check_cloud
from image2point.errors import InputError

MARGIN = 0.05
"""Of the image's edge, on each side of the shape."""
FARTHEST = 0.2
"""Brightness of the farthest point; the nearest has 1."""
ROUNDING = 1e-9
"""An extent of less, as a share of the other, is none."""
REACH = 0.6
"""Radius of a point's disc, in units of the edge over the square root of the number of points."""


class DepthImages:
    """An `ImageSet` of the depth images of clouds: image i shows cloud i, uint8 [size, size, 3], three equal channels.

    Args:
        clouds: a set of clouds with a class each.
        size: edge in pixels.
        up: the axis that points up.
        view: azimuth and elevation of the viewer in degrees.

    Raises InputError where it is points that have classes, not clouds.
    """

    def __init__(self, clouds: Labelled, size: int, up: Up = "z", view: tuple[float, float] = (30.0, 30.0)) -> None:
        if getattr(clouds, "of_points", False):
            raise InputError(
                f"{clouds.name} has a class for each point; a depth image needs clouds with one class each"
            )
        self.name, self.classes, self.labels = f"depth/{clouds.name}", clouds.classes, clouds.labels
        self._clouds, self._size, self._up, self._view = clouds, size, up, view

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> np.ndarray:
        cloud = check_cloud(self._clouds[index], self.origin(index))
        return depth_image(cloud.points, self._size, self._up, self._view)

    def origin(self, index: int) -> str:
        return origin(self._clouds, index)


def depth_image(points: np.ndarray, size: int, up: Up = "z", view: tuple[float, float] = (30.0, 30.0)) -> np.ndarray:
    """One depth image uint8 [size, size, 3] of points [P, 3].

    >>> image = depth_image(np.random.default_rng(0).random((500, 3)), 32)
    >>> image.shape, int(image.max()), int(image[0, 0, 0])
    ((32, 32, 3), 255, 0)
    """
    right, above, towards = _seen(np.asarray(points, np.float64), up, view).T
    centre = [(axis.min() + axis.max()) / 2 for axis in (right, above)]
    extent, depth = max(float(np.ptp(right)), float(np.ptp(above))), float(np.ptp(towards))
    scale = (1 - 2 * MARGIN) * size / extent if extent > ROUNDING * depth else 0.0
    column = np.floor(size / 2 + (right - centre[0]) * scale).astype(np.int64)
    row = np.floor(size / 2 - (above - centre[1]) * scale).astype(np.int64)
    near = (towards - towards.min()) / depth if depth > ROUNDING * extent else np.ones(len(towards))
    reach = math.ceil(REACH * size / math.sqrt(len(points)))
    steps = np.arange(-reach, reach + 1)
    down, across = (each.ravel() for each in np.meshgrid(steps, steps, indexing="ij"))
    disc = down**2 + across**2 <= reach**2
    rows, columns = row[:, None] + down[disc], column[:, None] + across[disc]
    inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
    value = np.broadcast_to((FARTHEST + (1 - FARTHEST) * near)[:, None], rows.shape)
    image = np.zeros(size * size)
    np.maximum.at(image, (rows * size + columns)[inside], value[inside])
    return np.repeat((255 * image + 0.5).astype(np.uint8).reshape(size, size, 1), 3, axis=2)


def _seen(points: np.ndarray, up: Up, view: tuple[float, float]) -> np.ndarray:
    """Coordinates [P, 3] to the right, upwards and towards the viewer."""
    last = "xyz".index(up)
    turned = points[:, [(last + 1) % 3, (last + 2) % 3, last]]
    azimuth, elevation = np.radians(view)
    outward = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
    towards = np.cos(elevation) * outward + np.array([0, 0, np.sin(elevation)])
    right = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
    return turned @ np.stack([right, np.cross(towards, right), towards], axis=1)
