"""Damage that real sensors do to clouds, in five severities: is a network still right?

In the spirit of ModelNet40-C (Sun et al., "Benchmarking Robustness of 3D Point Cloud Recognition Against Common
Corruptions", arXiv 2201.12296), of which this is no copy: other random numbers, fewer kinds, and amounts that follow
the size of the cloud. Compare such numbers with each other, not with that paper's.

All take a cloud of about radius 1, a severity 1..5 and a random generator, and return a new cloud. Rows that stay keep
their normals, colours and parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from image2point.datasets.cloud import Cloud
from image2point.datasets.transforms import random_rotation
from image2point.errors import InputError

SEVERITIES = (1, 2, 3, 4, 5)


def noise(cloud: Cloud, severity: int, rng: np.random.Generator) -> Cloud:
    """Gaussian noise of standard deviation 0.01 to 0.03 on every coordinate."""
    deviation = (0.01, 0.015, 0.02, 0.025, 0.03)[severity - 1]
    moved = cloud.points + deviation * rng.standard_normal(cloud.points.shape)
    return replace(cloud, points=moved.astype(np.float32))


def dropout(cloud: Cloud, severity: int, rng: np.random.Generator) -> Cloud:
    """A quarter to seven eighths of the points are missing, at random."""
    share = (0.25, 0.5, 0.65, 0.75, 0.875)[severity - 1]
    return cloud.take(rng.permutation(len(cloud))[: _kept(len(cloud), share)])


def occlusion(cloud: Cloud, severity: int, rng: np.random.Generator) -> Cloud:
    """The side away from a random viewpoint is missing: 15 to 60 % of the points."""
    share = (0.15, 0.25, 0.35, 0.5, 0.6)[severity - 1]
    depth = cloud.points @ _direction(rng)
    return cloud.take(np.argsort(depth, kind="stable")[: _kept(len(cloud), share)])


def cutout(cloud: Cloud, severity: int, rng: np.random.Generator) -> Cloud:
    """Two to ten round holes, each of 3 % of the points."""
    holes = (2, 3, 5, 7, 10)[severity - 1]
    rows = np.arange(len(cloud))
    for _ in range(holes):
        left = cloud.points[rows]
        far = ((left - left[rng.integers(len(rows))]) ** 2).sum(axis=1)
        rows = rows[np.sort(np.argsort(far, kind="stable")[len(rows) - _kept(len(rows), 0.03) :])]
    return cloud.take(rows)


def density(cloud: Cloud, severity: int, rng: np.random.Generator) -> Cloud:
    """Half of the points, chosen so that the density falls by a factor of e² to e⁶ from one end to the other."""
    slope = (2.0, 3.0, 4.0, 5.0, 6.0)[severity - 1]
    along = cloud.points @ _direction(rng)
    span = float(along.max() - along.min()) or 1.0
    weight = np.exp(-slope * (along - along.min()) / span)
    arrival = rng.standard_exponential(len(cloud)) / weight  # Efraimidis and Spirakis 2006
    return cloud.take(np.sort(np.argsort(arrival, kind="stable")[: _kept(len(cloud), 0.5)]))


def rotation(cloud: Cloud, severity: int, rng: np.random.Generator) -> Cloud:
    """Tilted by 3 to 15 degrees about a random axis."""
    degrees = (3.0, 6.0, 9.0, 12.0, 15.0)[severity - 1]
    return turn(cloud, _about(_direction(rng), np.radians(degrees)))


def outliers(cloud: Cloud, severity: int, rng: np.random.Generator) -> Cloud:
    """2 to 10 % of the points are anywhere in the cube of side 2 about the origin."""
    share = (0.02, 0.03, 0.05, 0.07, 0.1)[severity - 1]
    rows = rng.permutation(len(cloud))[: max(1, round(share * len(cloud)))]
    points = cloud.points.copy()
    points[rows] = rng.uniform(-1, 1, (len(rows), 3))
    normals = cloud.normals
    if normals is not None:
        normals = normals.copy()
        normals[rows] = 0  # unknown
    return replace(cloud, points=points, normals=normals)


CORRUPTIONS: dict[str, Callable[[Cloud, int, np.random.Generator], Cloud]] = {
    "noise": noise,
    "dropout": dropout,
    "occlusion": occlusion,
    "cutout": cutout,
    "density": density,
    "rotation": rotation,
    "outliers": outliers,
}


def corrupt(cloud: Cloud, kind: str, severity: int, seed: int, index: int) -> Cloud:
    """Corrupt cloud `index` of a set; the same (kind, severity, seed, index) give the same damage. A cloud of another
    size or place than the unit sphere is damaged as it would be there.

    Raises InputError for an unknown kind or severity.
    """
    if kind not in CORRUPTIONS:
        raise InputError(f"there is no corruption {kind!r}; there are {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise InputError(f"the severity must be one of 1 to 5, found {severity}")
    rng = np.random.default_rng((seed, list(CORRUPTIONS).index(kind), severity, index))
    if 0.5 < np.linalg.norm(cloud.points, axis=1).max() < 1.5:
        return CORRUPTIONS[kind](cloud, severity, rng)
    centre = cloud.points.mean(axis=0, dtype=np.float64)
    radius = float(np.linalg.norm(cloud.points - centre, axis=1).max()) or 1.0
    unit = replace(cloud, points=((cloud.points - centre) / radius).astype(np.float32))
    damaged = CORRUPTIONS[kind](unit, severity, rng)
    return replace(damaged, points=(damaged.points * radius + centre).astype(np.float32))


def turn(cloud: Cloud, matrix: np.ndarray) -> Cloud:
    """Points and normals turned by a rotation matrix [3, 3]."""
    turned = matrix.T.astype(np.float32)
    normals = None if cloud.normals is None else cloud.normals @ turned
    return replace(cloud, points=cloud.points @ turned, normals=normals)


def turn_at_random(cloud: Cloud, seed: int, index: int) -> Cloud:
    """A uniform rotation of cloud `index`, the same for the same seed."""
    return turn(cloud, random_rotation("so3", np.random.default_rng((seed, index))))


def _kept(count: int, missing: float) -> int:
    return max(1, count - round(missing * count))


def _direction(rng: np.random.Generator) -> np.ndarray:
    vector = rng.standard_normal(3)
    return vector / np.linalg.norm(vector)


def _about(axis: np.ndarray, angle: float) -> np.ndarray:
    """The rotation matrix about a unit vector, by Rodrigues' formula."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
