"""Synthetic scenes: by seed, seen from one place, denser near the scanner, with classes of very different size."""

from __future__ import annotations

import numpy as np
import pytest

from image2point import config
from image2point.datasets.meshes import blocks
from image2point.datasets.synthetic_scenes import CLASSES, Part, SyntheticScenes, make_scene, scan
from image2point.errors import InputError
from image2point.jobs.ingredients import load_splits

SCENES = SyntheticScenes("train", scenes=8, rays=6000)


def box(low: tuple[float, float, float], high: tuple[float, float, float]) -> object:
    return blocks(np.ones((1, 1, 1)), *(np.array(pair, dtype=float) for pair in zip(low, high, strict=True)))


def test_scenes_follow_from_their_seed() -> None:
    one, two = SCENES[3], SyntheticScenes("train", scenes=30, rays=6000)[3]
    for name, values in one.columns().items():
        np.testing.assert_array_equal(values, two.columns()[name])
    others = [SyntheticScenes(split, 8, 6000, seed)[3] for split, seed in (("test", 0), ("train", 1))]
    assert all(len(other) != len(one) or (other.points != one.points).any() for other in others)
    assert len(SCENES[0]) != len(SCENES[1])  # a room and a street


def test_rooms_and_streets_have_what_they_are_made_of() -> None:
    counts = sum(np.bincount(SCENES[i].labels, minlength=len(CLASSES)) for i in range(8))  # type: ignore[arg-type]
    assert (counts > 0).all()
    named = dict(zip(CLASSES, counts / counts.sum(), strict=True))
    assert named["floor"] > 0.15 and named["wall"] > 0.15
    assert max(counts) > 10 * min(counts)
    for kind in ("room", "street"):
        cloud = make_scene(kind, 4000, np.random.default_rng(0))
        assert cloud.labels is not None and cloud.normals is not None and len(cloud) > 2000
        assert ((cloud.normals * cloud.points).sum(axis=1) < 0).mean() > 0.98  # towards the scanner
        floor = cloud.points[cloud.labels == 0, 2]
        assert floor.max() < 0.5


def test_what_is_behind_something_is_not_seen() -> None:
    wall = Part(box((4, -5, -5), (4.1, 5, 5)), "wall")  # type: ignore[arg-type]
    thing = Part(box((2, -0.5, -0.5), (3, 0.5, 0.5)), "box")  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    aim = np.stack([np.ones(4000), *rng.uniform(-1, 1, (2, 4000))], axis=1)
    cloud = scan([wall, thing], np.zeros(3), aim / np.linalg.norm(aim, axis=1, keepdims=True), rng)
    assert cloud.labels is not None
    on_wall, on_box = cloud.points[cloud.labels == 1], cloud.points[cloud.labels == 4]
    assert abs(on_wall[:, 0].mean() - 4) < 0.01 and abs(on_box[:, 0].mean() - 2) < 0.01
    shadow = np.abs(on_wall[:, 1:]).max(axis=1)
    assert shadow.min() > 0.97 and len(on_box) > 100  # 0.5 at a distance of 2 hides 1 at 4


def test_density_falls_with_the_square_of_the_distance() -> None:
    rng = np.random.default_rng(0)
    counts = []
    for distance in (2.0, 4.0):
        plane = Part(box((distance, -0.5, -0.5), (distance + 1, 0.5, 0.5)), "wall")  # type: ignore[arg-type]
        aim = np.random.default_rng(1).normal(size=(200_000, 3))
        counts.append(len(scan([plane], np.zeros(3), aim / np.linalg.norm(aim, axis=1, keepdims=True), rng)))
    assert counts[0] / counts[1] == pytest.approx(4, rel=0.1)


def test_from_a_config() -> None:
    data = config.Data(name="synthetic_scenes", synthetic_scenes={"train": 3, "test": 2, "rays": 500}, validation=0)
    splits = load_splits(data)
    assert (len(splits.train), len(splits.test), splits.train.classes) == (3, 2, CLASSES)
    rooms = SyntheticScenes(kinds=("room",))
    assert rooms.labels.tolist() == [0] * 40
    with pytest.raises(IndexError):
        rooms[40]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "all"}, "split must be one of train, test, validation, found 'all'"),
        ({"rays": 0}, "at least 1 and seed at least 0"),
        ({"kinds": ("room", "room")}, "kinds must be of room, street, each at most once"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SyntheticScenes(**settings)  # type: ignore[arg-type]
