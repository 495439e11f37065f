"""Augmentation of one cloud: plain functions of (cloud, specification, random generator).

Which axis points up is a fact of each dataset, and no dataset is turned on loading. A random heading is a
rotation about that axis: `rotate="z"` for the synthetic shapes, `rotate="y"` for the usual
modelnet40_ply_hdf5_2048.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from image2point.datasets.cloud import Cloud
from image2point.errors import InputError

LENGTHS = ("ground_height",)
"""Attributes of a cloud that are in the units of its points."""

Rotation = Literal["none", "x", "y", "z", "so3"]


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training cloud; the default is nothing.

    The order is: subsample, rotate, scale, shift, jitter. Lengths are in the units of the cloud, which has
    about radius 1.

    points: keep this many at random, without repetition (None, or a smaller cloud: keep all).
    rotate: "x", "y", "z": by a uniform angle about that axis through the origin; "so3": a uniform rotation.
    scale: the range of one uniform factor for all three axes.
    shift: half-width of the uniform offset, drawn per axis.
    jitter: half-width of the uniform noise, drawn per coordinate.
    *_probability: how often that step takes place.
    """

    points: int | None = None
    rotate: Rotation = "none"
    scale: tuple[float, float] = (1.0, 1.0)
    scale_probability: float = 0.0
    shift: float = 0.0
    shift_probability: float = 0.0
    jitter: float = 0.0
    jitter_probability: float = 0.0

    def __post_init__(self) -> None:
        if self.points is not None and self.points < 1:
            raise InputError(f"augmentation: points must be at least 1 or none, found {self.points}")
        if self.rotate not in ("none", "x", "y", "z", "so3"):
            raise InputError(f"augmentation: rotate must be one of none, x, y, z, so3, found {self.rotate!r}")
        low, high = self.scale
        if not 0 < low <= high < np.inf:
            raise InputError(f"augmentation: scale must be a range 0 < low <= high, found {self.scale}")
        for name in ("shift", "jitter"):
            width = getattr(self, name)
            if not 0 <= width < np.inf:
                raise InputError(f"augmentation: {name} must be a finite length >= 0, found {width}")
        for name in ("scale_probability", "shift_probability", "jitter_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"augmentation: {name} must be in [0, 1], found {getattr(self, name)}")


NONE = Augmentation()

PAPER = Augmentation(
    scale=(0.9, 1.1), scale_probability=0.9,
    shift=0.2, shift_probability=0.9,
    jitter=0.0125, jitter_probability=0.7,
)  # fmt: skip
"""The values of Image2Point's released code (Xu et al., ECCV 2022) for ModelNet40: no rotation."""


def rng_for(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random generator of one sample in one epoch.

    It depends on these three numbers (each >= 0) and nothing else: not on the order of loading, the worker,
    the process or what was drawn before. So a run on several processes, or one that was resumed, sees the
    same clouds.
    """
    return np.random.default_rng((seed, epoch, index))


def augment(cloud: Cloud, spec: Augmentation, rng: np.random.Generator) -> Cloud:
    """Return an augmented copy of `cloud`, its points float32; the input is never written to.

    Subsampling takes the same rows of everything; a rotation turns the normals with the points, a scale the attributes
    that are lengths (`LENGTHS`). The other steps leave normals as they are, noise too: they stay those of the surface
    that the points were taken from. `origin` stays: the points no longer lie where they did.
    """
    if spec.points is not None and spec.points < len(cloud):
        cloud = cloud.take(rng.choice(len(cloud), spec.points, replace=False))
    points, normals = cloud.points.astype(np.float32), cloud.normals
    if spec.rotate != "none":
        turn = random_rotation(spec.rotate, rng).T.astype(np.float32)
        points = points @ turn
        normals = None if normals is None else normals.astype(np.float32, copy=False) @ turn
    if rng.random() < spec.scale_probability:
        factor = np.float32(rng.uniform(*spec.scale))
        points *= factor
        cloud = replace(cloud, attributes=_scaled(cloud.attributes, factor))
    if rng.random() < spec.shift_probability:
        points += rng.uniform(-spec.shift, spec.shift, 3).astype(np.float32)
    if rng.random() < spec.jitter_probability:
        points += rng.uniform(-spec.jitter, spec.jitter, points.shape).astype(np.float32)
    return replace(cloud.each(np.copy), points=points, normals=None if normals is None else normals.copy())


def _scaled(attributes: Mapping[str, np.ndarray], factor: np.float32) -> dict[str, np.ndarray]:
    return {name: values * factor if name in LENGTHS else values for name, values in attributes.items()}


def random_rotation(kind: Rotation, rng: np.random.Generator) -> np.ndarray:
    """A rotation matrix, float64 [3, 3], with determinant 1, to be applied to column vectors.

    "so3" is uniform: the rotation of a unit quaternion whose direction is uniform on the 3-sphere.
    """
    if kind == "none":
        return np.eye(3)
    if kind == "so3":
        quaternion = rng.standard_normal(4)
        return quaternion_rotation(quaternion / np.linalg.norm(quaternion))
    half = rng.uniform(0, np.pi)
    quaternion = np.zeros(4)
    quaternion[0], quaternion[1 + "xyz".index(kind)] = np.cos(half), np.sin(half)
    return quaternion_rotation(quaternion)


def quaternion_rotation(quaternion: np.ndarray) -> np.ndarray:
    """The rotation matrix [3, 3] of a unit quaternion (w, x, y, z)."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
