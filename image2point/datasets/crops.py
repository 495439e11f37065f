"""Parts of scenes that are small enough to train on, and two of them in one place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from image2point.datasets.class_split import Labelled
from image2point.datasets.cloud import IGNORED, Cloud
from image2point.datasets.splits import origin
from image2point.errors import InputError


@dataclass(frozen=True)
class Crop:
    """How much of a scene a training step sees.

    size: edge of the box around a random point, in the unit of the clouds; with `up` a column of full height.
    voxels: at most about so many occupied voxels, those nearest to that point; with `up` in the horizontal distance.
    None: no limit.
    """

    size: float | None = None
    voxels: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not 0 < self.size < np.inf:
            raise InputError(f"a crop needs a finite size above 0, found {self.size}")
        if self.voxels is not None and self.voxels < 1:
            raise InputError(f"a crop needs at least one voxel, found {self.voxels}")


def crop(cloud: Cloud, spec: Crop, voxel_size: float, rng: np.random.Generator, up: str | None = None) -> Cloud:
    """The part of a scene around a random labelled point, moved so that this point is (0, 0, 0), but for its height.

    `origin` moves the other way. Where nothing is labelled, any point may be the middle.

    >>> line = Cloud(np.arange(100, dtype=np.float32)[:, None] * np.float32([1, 0, 0]))
    >>> [len(crop(line, spec, 1.0, np.random.default_rng(4))) for spec in (Crop(size=10.0), Crop(voxels=7))]
    [11, 7]
    """
    labelled = np.arange(len(cloud)) if cloud.labels is None else np.flatnonzero(cloud.labels != IGNORED)
    candidates = labelled if len(labelled) else np.arange(len(cloud))
    middle = cloud.points[candidates[rng.integers(len(candidates))]].astype(np.float64)
    axes = [axis for axis in range(3) if up is None or axis != "xyz".index(up)]
    away = np.abs(cloud.points[:, axes] - middle[axes])
    rows = np.arange(len(cloud))
    if spec.size is not None:
        rows = np.flatnonzero((away <= spec.size / 2).all(1))
    if spec.voxels is not None:
        rows = rows[_nearest(cloud.points[rows], (away[rows] ** 2).sum(1), spec.voxels, voxel_size)]
    moved = np.zeros(3)
    moved[axes] = middle[axes]
    part = cloud.take(rows)
    return replace(part, points=(part.points - moved).astype(np.float32), origin=part.origin + moved)


def _nearest(points: np.ndarray, distance: np.ndarray, voxels: int, voxel_size: float) -> np.ndarray:
    """Rows, ascending, of the points in the `voxels` voxels whose nearest point is nearest; one voxel more at most."""
    cells = np.floor(points.astype(np.float64) / voxel_size).astype(np.int64)
    low, extent = cells.min(0), np.ptp(cells, axis=0) + 1
    keys = ((cells - low) * [extent[1] * extent[2], extent[2], 1]).sum(1)
    _, cell = np.unique(keys, return_inverse=True)
    cell = cell.reshape(-1)
    if len(cell) == 0 or cell.max() < voxels:
        return np.arange(len(points))
    near = np.full(cell.max() + 1, np.inf)
    np.minimum.at(near, cell, distance)
    chosen = np.zeros(len(near), dtype=bool)
    chosen[np.argsort(near, kind="stable")[:voxels]] = True
    return np.flatnonzero(chosen[cell])


def mixed(first: Cloud, second: Cloud) -> Cloud:
    """Two crops in one place: the points of both, with what both have of normals, colours, labels and attributes.

    Source: Nekrasov et al. 2021, "Mix3D: Out-of-Context Data Augmentation for 3D Scenes".

    >>> len(mixed(Cloud(np.zeros((2, 3))), Cloud(np.ones((3, 3)))))
    5
    """

    def both(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
        return None if a is None or b is None else np.concatenate([a, b])

    shared = [name for name in first.attributes if name in second.attributes]
    return Cloud(
        np.concatenate([first.points, second.points]),
        both(first.normals, second.normals),
        both(first.colours, second.colours),
        both(first.labels, second.labels),
        {name: np.concatenate([first.attributes[name], second.attributes[name]]) for name in shared},
        first.origin,
    )


class Repeated:
    """Every sample of `whole` several times, one after the other: an epoch with more than one crop of each scene."""

    def __init__(self, whole: Labelled, times: int) -> None:
        self.whole, self.times = whole, times
        self.name, self.classes, self.labels = whole.name, whole.classes, np.repeat(whole.labels, times)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        return self.whole[index // self.times]

    def origin(self, index: int) -> str:
        return origin(self.whole, index // self.times)
