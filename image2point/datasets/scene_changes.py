"""Random changes that scenes and coloured clouds get in training, beside those of `datasets.transforms`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from image2point.datasets.cloud import Cloud


@dataclass(frozen=True)
class SceneChanges:
    """What may happen to a training scene; the default is nothing. Lengths are in the unit of the cloud.

    The order is: elastic, flip, colours (contrast, shift, jitter, drop). Chances are in 0..1.

    flip: chance of a mirror image along each axis but the one that points up.
    elastic: pairs (distance, strength): the space is bent by smooth noise, with that distance between its knots and
    that standard deviation of the offsets before they are smoothed; one pair after the other.
    elastic_probability: chance of it all.
    colour_contrast: chance that colours are stretched to 0..1, mixed with the old ones by a random share.
    colour_shift: largest shift of each channel; colour_jitter: standard deviation of the noise of each value;
    colour_drop: chance that all colours become 0.
    mix: chance that the scene is joined with another one (`datasets.crops.mixed`).
    """

    flip: float = 0.0
    elastic: tuple[tuple[float, float], ...] = ()
    elastic_probability: float = 0.0
    colour_contrast: float = 0.0
    colour_shift: float = 0.0
    colour_jitter: float = 0.0
    colour_drop: float = 0.0
    mix: float = 0.0


def change(cloud: Cloud, spec: SceneChanges, rng: np.random.Generator, up: str | None = None) -> Cloud:
    """A changed copy; the arrays of `cloud` are never written to. A mirror image turns normals too, bending does not.

    >>> cloud = Cloud(np.float32([[1, 2, 3]]), colours=np.float32([[0.2, 0.4, 0.6]]))
    >>> changed = change(cloud, SceneChanges(flip=1.0, colour_drop=1.0), np.random.default_rng(0), up="z")
    >>> changed.points.tolist(), changed.colours.tolist()
    ([[-1.0, -2.0, 3.0]], [[0.0, 0.0, 0.0]])
    """
    points, normals = cloud.points.astype(np.float32), cloud.normals
    if rng.random() < spec.elastic_probability:
        for distance, strength in spec.elastic:
            points = bent(points, distance, strength, rng)
    signs = np.where(rng.random(3) < spec.flip, -1, 1).astype(np.float32)
    if up is not None:
        signs["xyz".index(up)] = 1
    points, normals = points * signs, None if normals is None else normals * signs
    return replace(cloud, points=points, normals=normals, colours=_coloured(cloud.colours, spec, rng))


def _coloured(colours: np.ndarray | None, spec: SceneChanges, rng: np.random.Generator) -> np.ndarray | None:
    if colours is None:
        return None
    values = colours.astype(np.float32)
    if rng.random() < spec.colour_contrast:
        low, high = values.min(0), values.max(0)
        share = np.float32(rng.random())
        values = (1 - share) * values + share * (values - low) / np.maximum(high - low, np.float32(1e-6))
    if spec.colour_shift:
        values = values + rng.uniform(-spec.colour_shift, spec.colour_shift, 3).astype(np.float32)
    if spec.colour_jitter:
        values = values + rng.normal(0, spec.colour_jitter, values.shape).astype(np.float32)
    if rng.random() < spec.colour_drop:
        values = np.zeros_like(values)
    return np.clip(values, 0, 1)


def bent(points: np.ndarray, distance: float, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Points float32 [P, 3] moved by smooth noise.

    Normal noise on knots `distance` apart, averaged over three neighbours twice along each axis, and read by linear
    interpolation.

    Source: the elastic distortion of Graham et al. 2018 (SparseConvNet's ScanNet example), as later codes have it.

    >>> cloud = np.random.default_rng(0).random((50, 3)).astype(np.float32)
    >>> bool(np.abs(bent(cloud, 0.2, 0.1, np.random.default_rng(1)) - cloud).max() < 0.2)
    True
    """
    from scipy.ndimage import map_coordinates, uniform_filter1d

    low = points.min(0).astype(np.float64)
    place = (points - low) / distance
    knots = np.ceil(place.max(0)).astype(int) + 2
    moved = points.copy()
    for axis in range(3):
        noise = rng.normal(0, strength, knots)
        for along in (0, 1, 2) * 2:
            noise = uniform_filter1d(noise, 3, axis=along, mode="constant")
        moved[:, axis] += map_coordinates(noise, place.T, order=1, mode="nearest").astype(np.float32)
    return moved
