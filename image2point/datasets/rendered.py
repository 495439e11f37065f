"""Images of the synthetic solids: an image set without downloads, whose classes are those of the synthetic clouds.

A solid is posed as `synthetic` poses it, seen from above at an angle in parallel projection, and shaded by one light
(Lambert). Points drawn evenly from its surface fill a depth buffer of twice the resolution, which is then averaged.
"""

from __future__ import annotations

import numpy as np

from image2point.datasets.meshes import Mesh, sample_surface
from image2point.datasets.solids import SOLIDS
from image2point.datasets.synthetic import SPLITS, Difficulty, check_classes, make_mesh
from image2point.errors import InputError

STREAM = 7
"""Tells the random numbers of images from those of the clouds with the same seed."""

DIFFICULTY = Difficulty()
FINER = 2
POINTS_PER_PIXEL = 5


class RenderedImages:
    """An `ImageSet` of `per_class` images of every class, drawn when first asked for and then kept.

    An image depends on (split, seed, class, number, size, difficulty) alone. Classes alternate.

    Raises InputError for an unknown class, and numbers that are too small.
    """

    def __init__(
        self,
        split: str,
        per_class: int,
        size: int = 32,
        seed: int = 0,
        classes: tuple[str, ...] = tuple(SOLIDS),
        difficulty: Difficulty = DIFFICULTY,
    ) -> None:
        check_classes(classes)
        if per_class < 1 or size < 8:
            raise InputError(
                f"rendered images: expected one per class or more, a size of at least 8; found {per_class} and {size}"
            )
        self.name, self.classes, self.labels = f"rendered/{split}", classes, np.tile(np.arange(len(classes)), per_class)
        self._split, self._size, self._seed, self._difficulty = SPLITS[split], size, seed, difficulty
        self._drawn: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> np.ndarray:
        if index not in self._drawn:
            repeat, label = divmod(index, len(self.classes))
            kind = self.classes[label]
            rng = np.random.default_rng((self._seed, self._split, list(SOLIDS).index(kind), repeat, STREAM))
            self._drawn[index] = render(make_mesh(kind, self._difficulty, rng), self._size, rng)
        return self._drawn[index]


def render(mesh: Mesh, size: int, rng: np.random.Generator) -> np.ndarray:
    """One image uint8 [size, size, 3] of a mesh, with random elevation, light, colours and place."""
    fine = FINER * size
    cloud = sample_surface(mesh, POINTS_PER_PIXEL * fine**2, rng)
    points, normals = cloud.points, cloud.normals
    assert normals is not None
    right, up, towards = _camera(np.radians(rng.uniform(15, 50)))
    seen = np.stack([points @ right, points @ up], axis=1)
    low, high = seen.min(0), seen.max(0)
    scale = rng.uniform(0.65, 0.9) * fine / max(float((high - low).max()), 1e-9)
    margin = fine - scale * (high - low)
    cells = np.floor((seen - low) * scale + rng.uniform(0.2, 0.8, 2) * margin).astype(np.int64).clip(0, fine - 1)

    nearest_last = np.argsort(points @ towards, kind="stable")
    pixel = ((fine - 1 - cells[:, 1]) * fine + cells[:, 0])[nearest_last]
    light = towards + 0.8 * rng.standard_normal(3)
    # An open surface is seen from behind as well: both sides reflect.
    facing = np.where(normals @ towards >= 0, 1, -1)
    shade = 0.25 + 0.75 * np.clip(facing * (normals @ (light / np.linalg.norm(light))), 0, 1)
    paint, ground = rng.uniform(0.3, 1.0, 3), rng.uniform(0.0, 0.6, 3)
    image = np.tile(ground, (fine * fine, 1))
    image[pixel] = shade[nearest_last, None] * paint
    averaged = image.reshape(size, FINER, size, FINER, 3).mean((1, 3))
    noisy = averaged + 0.02 * rng.standard_normal(averaged.shape)
    return (255 * noisy.clip(0, 1) + 0.5).astype(np.uint8)


def _camera(elevation: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right, up and towards the viewer, for a view along y that looks down by `elevation`."""
    cosine, sine = np.cos(elevation), np.sin(elevation)
    return np.array([1.0, 0, 0]), np.array([0, sine, cosine]), np.array([0, -cosine, sine])
