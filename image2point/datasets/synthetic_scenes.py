"""Synthetic scenes: rooms and streets put together from the solids of `solids.py`, as a scanner in them sees them.

Made for tests and first experiments without downloads. A scanner sends rays in all directions and sees the first
surface that each meets (Open3D casts them): so things hide what is behind them, density falls with the square of the
distance, and grazing surfaces are sparse. Tables, chairs, boxes, stairs, frames and tubes are classes; the other
kinds of solid lie between them as clutter. Sizes overlap and streets slope, so that neither height nor the shape of a
small neighbourhood tells most of the classes. z is up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from image2point.datasets.cloud import Cloud
from image2point.datasets.files import import_open3d
from image2point.datasets.meshes import Mesh, blocks
from image2point.datasets.solids import SOLIDS
from image2point.datasets.synthetic import SPLITS
from image2point.datasets.transforms import random_rotation
from image2point.datasets.validate import check_cloud
from image2point.errors import InputError

CLASSES = ("floor", "wall", "table", "chair", "box", "stairs", "frame", "tube", "clutter")

FREQUENCY = {"table": 5, "chair": 7, "box": 4, "stairs": 1.5, "frame": 1.5, "tube": 1, "clutter": 6}
"""How often things stand around, up to a common factor."""

HEIGHT = {
    "table": (0.5, 1.1), "chair": (0.7, 1.3), "box": (0.3, 1.4), "stairs": (0.5, 1.4), "frame": (0.6, 1.8),
    "tube": (0.3, 1.3), "clutter": (0.2, 1.0),
}  # fmt: skip
"""Metres in rooms; in streets things are up to 2.5 times as large."""

CLUTTER = tuple(name for name in SOLIDS if name not in HEIGHT)
KINDS = ("room", "street")
REACH = 60.0
"""Metres from which nothing comes back."""


@dataclass(frozen=True)
class Part:
    """A surface of a scene, and the class that its points have."""

    mesh: Mesh
    name: str


@dataclass(frozen=True)
class SyntheticScenes:
    """A `CloudSet` of scenes with a class for each point, made when asked for. Rooms and streets alternate.

    Scene `index` depends on (split, seed, index, rays, kinds) and nothing else. rays: that the scanner sends; most of
    them meet something.

    Raises InputError for an unknown split or kind, and for counts below 1.

    >>> scene = SyntheticScenes("train", scenes=2, rays=2000, kinds=("room",))[1]
    >>> len(scene) == len(scene.labels) > 1000
    True
    """

    split: str = "train"
    scenes: int = 40
    rays: int = 20_000
    seed: int = 0
    kinds: tuple[str, ...] = KINDS
    classes: tuple[str, ...] = CLASSES

    of_points = True  # no annotation: no field

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise InputError(f"synthetic scenes: split must be one of {', '.join(SPLITS)}, found {self.split!r}")
        if self.scenes < 1 or self.rays < 1 or self.seed < 0:
            raise InputError(
                "synthetic scenes: scenes and rays must be at least 1 and seed at least 0, found "
                f"{self.scenes}, {self.rays} and {self.seed}"
            )
        if not self.kinds or not set(self.kinds) <= set(KINDS) or len(set(self.kinds)) < len(self.kinds):
            raise InputError(
                f"synthetic scenes: kinds must be of {', '.join(KINDS)}, each at most once; found {self.kinds}"
            )

    @property
    def name(self) -> str:
        return f"synthetic_scenes/{self.split}"

    @property
    def labels(self) -> np.ndarray:
        return np.zeros(self.scenes, dtype=np.int64)

    def __len__(self) -> int:
        return self.scenes

    def __getitem__(self, index: int) -> Cloud:
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        rng = np.random.default_rng((self.seed, SPLITS[self.split], 1_000_003, index))
        return make_scene(self.kinds[index % len(self.kinds)], self.rays, rng)


def make_scene(kind: str, rays: int, rng: np.random.Generator) -> Cloud:
    """One room or street as a scanner sees it, which stands at (0, 0, 0): points in metres, normals towards the
    scanner, labels by `CLASSES`."""
    parts, place = _room(rng) if kind == "room" else _street(rng)
    low, high = (-1.0, 0.5) if kind == "room" else (-0.95, 0.4)
    return scan(parts, place, _directions(rays, low, high, rng), rng)


def scan(parts: Sequence[Part], place: np.ndarray, directions: np.ndarray, rng: np.random.Generator) -> Cloud:
    """What a scanner at `place` [3] sees of `parts` along `directions` [R, 3] of length 1; `place` becomes the zero.

    Surfaces that are met at a grazing angle reflect less, so that some of their points are missing; distances are
    noisy, by 5 mm and one thousandth of the distance.
    """
    open3d = import_open3d()
    scene = open3d.t.geometry.RaycastingScene(nthreads=1)
    tensor = open3d.core.Tensor
    for part in parts:
        vertices = (part.mesh.vertices - place).astype(np.float32)
        scene.add_triangles(tensor(vertices), tensor(part.mesh.triangles.astype(np.uint32)))
    rays = np.concatenate([np.zeros_like(directions), directions], axis=1).astype(np.float32)
    hits = scene.cast_rays(tensor(rays), nthreads=1)
    distance, normals = hits["t_hit"].numpy().astype(np.float64), hits["primitive_normals"].numpy()
    towards = -(normals * directions).sum(axis=1)
    returned = (distance < REACH) & (rng.random(len(rays)) < 4 * np.abs(towards))
    noisy = distance + rng.standard_normal(len(rays)) * (0.005 + 0.001 * np.where(returned, distance, 0))
    which = hits["geometry_ids"].numpy()[returned].astype(np.int64)
    labels = np.array([CLASSES.index(part.name) for part in parts])[which]
    facing = (normals * np.sign(towards)[:, None])[returned]
    return check_cloud(Cloud(directions[returned] * noisy[returned, None], facing, labels=labels), "synthetic scene")


def _directions(count: int, low: float, high: float, rng: np.random.Generator) -> np.ndarray:
    """`count` directions [R, 3], even over the sphere but for chance, whose sines of elevation are in low..high."""
    height = low + (high - low) * (np.arange(count) + rng.random(count)) / count
    around = np.pi * (3 - np.sqrt(5)) * np.arange(count) + rng.uniform(0, 2 * np.pi)
    flat = np.sqrt(1 - height**2)
    return np.stack([flat * np.cos(around), flat * np.sin(around), height], axis=1)


def _room(rng: np.random.Generator) -> tuple[list[Part], np.ndarray]:
    """A room with walls, perhaps one more between them, and what stands in it; and where the scanner is."""
    size, wall = rng.uniform(4, 9, 2), rng.uniform(2.2, 3.2)
    parts = [Part(_block((0, 0, -0.1), (*size, 0)), "floor")]
    for axis in (0, 1):
        for side in (0, size[axis]):
            low, high = np.array([0, 0, 0.0]), np.array([*size, wall])
            low[axis], high[axis] = side - 0.05, side + 0.05
            parts.append(Part(_block(low, high), "wall"))
    if rng.random() < 0.5:  # a wall that ends in the room
        across, reach = rng.uniform(0.3, 0.7) * size[0], rng.uniform(0.3, 0.6) * size[1]
        parts.append(Part(_block((across - 0.05, 0, 0), (across + 0.05, reach, wall)), "wall"))
    things = _things(size, int(rng.uniform(0.35, 0.7) * size.prod()), 1.0, rng)
    place = np.array([*(rng.uniform(0.25, 0.75, 2) * size), rng.uniform(1.1, 2.0)])
    return _turned([*parts, *things], place, rng)


def _street(rng: np.random.Generator) -> tuple[list[Part], np.ndarray]:
    """A street on a slope between two rows of houses, with pavements and what stands about; and the scanner."""
    size = np.array([rng.uniform(25, 45), rng.uniform(10, 18)])
    parts = [Part(_block((0, -1, -0.1), (size[0], size[1] + 1, 0)), "floor")]
    for side in (0, 1):
        kerb = rng.uniform(1.5, 2.5)
        low, high = (0, kerb) if side == 0 else (size[1] - kerb, size[1])
        parts.append(Part(_block((0, low, 0), (size[0], high, rng.uniform(0.08, 0.2))), "floor"))
        start = 0.0
        while start < size[0]:
            width, back, top = rng.uniform(4, 10), rng.uniform(-1.0, 0.3), rng.uniform(3, 10)
            low, high = (back - 3, back) if side == 0 else (size[1] - back, size[1] - back + 3)
            if rng.random() < 0.85:  # else a gap between houses
                parts.append(Part(_block((start, low, 0), (start + width, high, top)), "wall"))
            start += width
    things = _things(size, int(rng.uniform(0.08, 0.14) * size.prod()), 2.5, rng)
    place = np.array([rng.uniform(0.3, 0.7) * size[0], rng.uniform(0.35, 0.65) * size[1], rng.uniform(1.6, 2.4)])
    slope = rng.uniform(-0.08, 0.08, 2)
    parts, place = _turned([*parts, *things], place, rng)
    return [Part(_sheared(part.mesh, slope, place), part.name) for part in parts], place


def _things(size: np.ndarray, count: int, largest: float, rng: np.random.Generator) -> list[Part]:
    """Things on a floor of `size` [2], some on tables; none stands in another. largest: factor on their heights."""
    names, weights = list(FREQUENCY), np.array(list(FREQUENCY.values()))
    parts, taken = list[Part](), list[tuple[np.ndarray, float]]()
    for name in rng.choice(names, count, p=weights / weights.sum()):
        mesh = _thing(str(name), largest ** rng.uniform(0, 1), rng)
        radius = float(np.linalg.norm(mesh.vertices[:, :2], axis=1).max())
        for _ in range(10):
            place = rng.uniform(0.05, 0.95, 2) * size
            near_wall = (place - radius * 0.8 < 0).any() or (place + radius * 0.8 > size).any()
            if not near_wall and all(np.linalg.norm(place - other) > 0.8 * (radius + r) for other, r in taken):
                break
        else:
            continue
        taken.append((place, radius))
        parts.append(Part(_moved(mesh, np.array([*place, 0])), str(name)))
        top = float(mesh.vertices[:, 2].max())
        if name in ("table", "box") and rng.random() < 0.6:
            small = _thing("clutter", 0.4, rng)
            parts.append(Part(_moved(small, np.array([*place, top])), "clutter"))
    return parts


def _thing(name: str, factor: float, rng: np.random.Generator) -> Mesh:
    """A solid on the plane z = 0, around the z axis; clutter lies any way, tubes lie half the time."""
    mesh = SOLIDS[str(rng.choice(CLUTTER)) if name == "clutter" else name](rng)
    vertices = mesh.vertices - (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2
    vertices = vertices / np.ptp(vertices, axis=0).max() * 1.3 ** rng.uniform(-1, 1, 3)
    if name == "clutter":
        vertices = vertices @ random_rotation("so3", rng).T
    elif name == "tube" and rng.random() < 0.5:
        vertices = vertices[:, [2, 0, 1]]
    vertices = vertices @ random_rotation("z", rng).T
    vertices *= factor * rng.uniform(*HEIGHT[name]) / np.ptp(vertices[:, 2])
    widest = np.ptp(vertices[:, :2], axis=0).max()
    vertices *= min(1.0, 2.2 * factor / widest)  # flat things would be huge
    return Mesh(vertices - [0, 0, vertices[:, 2].min()], mesh.triangles)


def _block(low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray) -> Mesh:
    return blocks(np.ones((1, 1, 1)), *(np.array([a, b], dtype=float) for a, b in zip(low, high, strict=True)))


def _moved(mesh: Mesh, offset: np.ndarray) -> Mesh:
    return Mesh(mesh.vertices + offset, mesh.triangles)


def _sheared(mesh: Mesh, slope: np.ndarray, about: np.ndarray) -> Mesh:
    """Lifted by `slope` [2] times the horizontal distance: what is upright stays so."""
    lift = (mesh.vertices[:, :2] - about[:2]) @ slope
    return Mesh(mesh.vertices + np.stack([0 * lift, 0 * lift, lift], axis=1), mesh.triangles)


def _turned(parts: Sequence[Part], place: np.ndarray, rng: np.random.Generator) -> tuple[list[Part], np.ndarray]:
    """All of it turned about the z axis by one angle."""
    turn = random_rotation("z", rng).T
    return [Part(Mesh(part.mesh.vertices @ turn, part.mesh.triangles), part.name) for part in parts], place @ turn
