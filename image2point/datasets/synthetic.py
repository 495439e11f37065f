"""Synthetic shapes: the solids of `solids.py`, sampled as a scanner might, without end and by seed.

Made for tests and for a first experiment without downloads. The proportions of every cloud are drawn anew
after its second moments along x, y and z have been made equal, so that extents and moments alone do not
tell a class. z is up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from image2point.datasets.cloud import Cloud
from image2point.datasets.meshes import Mesh, areas, sample_surface
from image2point.datasets.solids import SOLIDS
from image2point.datasets.transforms import quaternion_rotation, random_rotation
from image2point.datasets.validate import check_cloud
from image2point.errors import InputError

SPLITS = {"train": 0, "test": 1, "validation": 2}
"""Each split is a random stream of its own, so that no cloud is in two of them."""


@dataclass(frozen=True)
class Difficulty:
    """What may happen to a shape on its way to a cloud; each amount is drawn per cloud, up to the one given.

    proportions: every axis is stretched by a factor between 1/proportions and proportions (log-uniform).
    tilt: degrees that "up" leans, on top of a random heading.
    occlusion: largest share of the surface that is missing, behind a plane or in a round hole.
    density: largest exponent, per standard deviation, by which sampling gets denser towards some direction.
    noise: largest standard deviation of Gaussian noise, in units of the cloud's radius.
    scale: the smallest radius of a cloud; the largest is 1.
    """

    proportions: float = 1.4
    tilt: float = 10.0
    occlusion: float = 0.15
    density: float = 1.0
    noise: float = 0.02
    scale: float = 0.8

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {
            "proportions": (1, 10),
            "tilt": (0, 180),
            "occlusion": (0, 0.5),
            "density": (0, 10),
            "noise": (0, 1),
            "scale": (0.01, 1),
        }
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(
                    f"synthetic shapes: {name} must be between {low} and {high}, found {getattr(self, name)}"
                )


@dataclass(frozen=True)
class SyntheticShapes:
    """A `CloudSet` of `samples_per_class` clouds of every class, made when asked for.

    Cloud number `repeat` of a class depends on (split, seed, class, repeat, points, difficulty) and nothing
    else: a larger set begins with the smaller one, and a choice of `classes` leaves the clouds of each as
    they are. Classes alternate: cloud i has label i mod the number of classes.

    Raises InputError for an unknown split or class, and for counts below 1.
    """

    split: str = "train"
    samples_per_class: int = 100
    points: int = 1024
    seed: int = 0
    difficulty: Difficulty = Difficulty()
    classes: tuple[str, ...] = tuple(SOLIDS)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise InputError(f"synthetic shapes: split must be one of {', '.join(SPLITS)}, found {self.split!r}")
        if self.samples_per_class < 1 or self.points < 1 or self.seed < 0:
            raise InputError(
                "synthetic shapes: samples_per_class and points must be at least 1 and seed at least 0, "
                f"found {self.samples_per_class}, {self.points} and {self.seed}"
            )
        check_classes(self.classes)

    @property
    def name(self) -> str:
        return f"synthetic/{self.split}"

    @property
    def labels(self) -> np.ndarray:
        return np.arange(len(self)) % len(self.classes)

    def __len__(self) -> int:
        return self.samples_per_class * len(self.classes)

    def __getitem__(self, index: int) -> Cloud:
        if not 0 <= index < len(self):
            raise IndexError(f"cloud {index} of {len(self)}")
        repeat, label = divmod(index, len(self.classes))
        kind = self.classes[label]
        rng = np.random.default_rng((self.seed, SPLITS[self.split], list(SOLIDS).index(kind), repeat))
        return make_cloud(kind, self.points, self.difficulty, rng)


def check_classes(classes: tuple[str, ...]) -> None:
    """InputError unless `classes` are one or more kinds of solid, each at most once."""
    unknown = [name for name in classes if name not in SOLIDS]
    if unknown or not classes or len(set(classes)) != len(classes):
        raise InputError(
            f"synthetic shapes: classes must be one or more of {', '.join(SOLIDS)}, each at most once; "
            f"found {', '.join(classes) or 'none'}"
        )


def make_mesh(kind: str, difficulty: Difficulty, rng: np.random.Generator) -> Mesh:
    """One solid, stretched and turned at random; its surface has moments about 1 before the stretch."""
    mesh = SOLIDS[kind](rng)
    stretch = difficulty.proportions ** rng.uniform(-1, 1, 3)
    pose = _pose(difficulty.tilt, rng)
    return Mesh(_standardise(mesh) * stretch @ pose.T, mesh.triangles)


def make_cloud(kind: str, points: int, difficulty: Difficulty, rng: np.random.Generator) -> Cloud:
    """One cloud of one kind of solid: `points` points, centred, radius at most 1.

    The normals are the exact outward ones of the surface where each point was, before noise moved it.
    """
    # Twice the points, so that density and occlusion have something to choose from.
    sampled = sample_surface(make_mesh(kind, difficulty, rng), 2 * points, rng)
    sampled = sampled.take(_visible(sampled.points, points, difficulty, rng))
    cloud = sampled.points - sampled.points.mean(axis=0)
    cloud /= _radius(cloud)
    cloud += rng.uniform(0, difficulty.noise) * rng.standard_normal(cloud.shape)
    cloud *= rng.uniform(difficulty.scale, 1) / _radius(cloud)
    return check_cloud(Cloud(cloud, sampled.normals), kind)


def _standardise(mesh: Mesh) -> np.ndarray:
    """The vertices [V, 3], moved and scaled per axis: the surface gets mean 0 and standard deviation 1 in each."""
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    vertices = (mesh.vertices - low) / (high - low)
    weights = areas(Mesh(vertices, mesh.triangles))
    centres = vertices[mesh.triangles].mean(axis=1)
    mean = weights @ centres / weights.sum()
    return (vertices - mean) / np.sqrt(weights @ (centres - mean) ** 2 / weights.sum())


def _pose(tilt: float, rng: np.random.Generator) -> np.ndarray:
    """Rotation [3, 3]: turn to a random heading, then lean by up to `tilt` degrees in a random direction."""
    lean, direction = np.radians(rng.uniform(0, tilt)) / 2, rng.uniform(0, 2 * np.pi)
    axis = np.sin(lean) * np.array([np.cos(direction), np.sin(direction), 0])
    return quaternion_rotation(np.array([np.cos(lean), *axis])) @ random_rotation("z", rng)


def _visible(cloud: np.ndarray, count: int, difficulty: Difficulty, rng: np.random.Generator) -> np.ndarray:
    """Indices of `count` points: none of the occluded ones; of the others, more on one side than the other.

    Weighted sampling without replacement, by the smallest exponential arrival times (Efraimidis and Spirakis
    2006). At least half of `cloud` stays visible, so `cloud` needs 2 · `count` points.
    """
    towards, aside = rng.standard_normal((2, 3))
    towards, aside = towards / np.linalg.norm(towards), aside / np.linalg.norm(aside)
    arrival = rng.standard_exponential(len(cloud)) * np.exp(-rng.uniform(0, difficulty.density) * (cloud @ towards))
    hidden = int(len(cloud) * rng.uniform(0, difficulty.occlusion))
    if hidden:
        if rng.random() < 0.5:
            depth = cloud @ aside
        else:
            depth = ((cloud - cloud[rng.integers(len(cloud))]) ** 2).sum(axis=1)
        arrival[np.argpartition(depth, hidden - 1)[:hidden]] = np.inf
    return np.argpartition(arrival, count - 1)[:count]


def _radius(cloud: np.ndarray) -> float:
    """The largest distance from the origin; 1 for a cloud that is a single point."""
    return float(np.sqrt((cloud**2).sum(axis=1).max())) or 1.0
