"""What belongs to single points of a scene: labels, attributes, and coordinates far from zero."""

from __future__ import annotations

import numpy as np
import pytest

from image2point import config
from image2point.datasets.cloud import Cloud, near_origin
from image2point.datasets.features import ground_height, input_features, scene_intensity
from image2point.datasets.recipe import Recipe, prepare
from image2point.datasets.transforms import Augmentation, augment, rng_for
from image2point.datasets.validate import check_cloud
from image2point.errors import InputError

RNG = np.random.default_rng(0)
POINTS = RNG.uniform(0, 30, (500, 3)).astype(np.float32)
CLOUD = Cloud(
    POINTS,
    labels=np.arange(500) - 1,
    attributes={"intensity": RNG.uniform(0, 4000, 500).astype(np.float32), "number": np.arange(500, dtype=np.float32)},
    origin=np.array([869400.0, 6524300.0, 210.0]),
)


def test_rows_stay_together_through_augmentation() -> None:
    spec = Augmentation(
        points=200, rotate="z", scale=(2, 2), scale_probability=1, jitter=0.1, jitter_probability=1
    )  # fmt: skip
    new = check_cloud(augment(CLOUD, spec, rng_for(0, 1, 2)), "here")
    rows = new.attributes["number"].astype(int)
    assert len(set(rows.tolist())) == 200
    np.testing.assert_array_equal(new.labels, rows - 1)
    np.testing.assert_array_equal(new.attributes["intensity"], CLOUD.attributes["intensity"][rows])
    np.testing.assert_array_equal(new.origin, CLOUD.origin)
    np.testing.assert_allclose(new.points[:, 2], 2 * POINTS[rows, 2], atol=0.11)


def test_coordinates_of_a_map_lose_nothing() -> None:
    place = np.array([869400.0, 6524300.0, 210.0])
    fine = RNG.integers(0, 100_000, (1000, 3)) / 1000  # a millimetre, up to 100 m
    cloud = check_cloud(near_origin(Cloud(place + fine)), "map")
    assert cloud.points.dtype == np.float32 and cloud.origin.dtype == np.float64
    np.testing.assert_allclose(cloud.points + cloud.origin, place + fine, rtol=0, atol=1e-5)
    assert np.abs(np.float32(place + fine).astype(np.float64) - (place + fine)).max() > 0.1  # what is avoided


def test_ground_height_against_its_definition() -> None:
    found = ground_height(POINTS, "y", cell=7.0)
    low = POINTS.min(axis=0)
    for row in range(0, 500, 37):
        same = (
            np.floor((POINTS[:, [0, 2]] - low[[0, 2]]) / 7) == np.floor((POINTS[row, [0, 2]] - low[[0, 2]]) / 7)
        ).all(1)
        assert found[row] == pytest.approx(POINTS[row, 1] - POINTS[same, 1].min(), abs=1e-5)
    assert found.min() == 0


def test_the_ground_is_that_of_the_whole_scene() -> None:
    recipe = Recipe(0.5, features=("ground_height",), up="z", points=50, augmentation=Augmentation(rotate="z"))
    crop = prepare(CLOUD, "cloud", recipe, epoch=1)
    whole = ground_height(POINTS, "z")[crop.attributes["number"].astype(int)]
    np.testing.assert_array_equal(input_features(crop, ("ground_height",), up="z")[:, 0], whole)
    doubled = Augmentation(scale=(2, 2), scale_probability=1)
    twice = prepare(CLOUD, "cloud", Recipe(0.5, features=("ground_height",), up="z", augmentation=doubled), epoch=1)
    np.testing.assert_allclose(twice.attributes["ground_height"], 2 * ground_height(POINTS, "z"), rtol=1e-6)


def test_intensity_by_scene() -> None:
    scaled = scene_intensity(CLOUD).attributes["intensity"]
    top = np.percentile(CLOUD.attributes["intensity"], 95)
    np.testing.assert_allclose(scaled, np.minimum(CLOUD.attributes["intensity"] / top, 1), rtol=1e-6)
    brighter = Cloud(POINTS, attributes={"intensity": 16 * CLOUD.attributes["intensity"]})
    np.testing.assert_allclose(scene_intensity(brighter).attributes["intensity"], scaled, rtol=1e-5)
    assert not scene_intensity(Cloud(POINTS, attributes={"intensity": np.zeros(500)})).attributes["intensity"].any()
    recipe = Recipe(0.5, features=("intensity",), intensity="scene")
    np.testing.assert_array_equal(prepare(CLOUD, "cloud", recipe).attributes["intensity"], scaled)


@pytest.mark.parametrize("name", ["intensity", "return_share", "number_of_returns"])
def test_a_missing_attribute_is_named(name: str) -> None:
    with pytest.raises(
        InputError, match=rf"a\.laz: the input feature {name} needs .* and this has number; take {name}"
    ):
        input_features(Cloud(POINTS, attributes={"number": np.zeros(500)}), ("xyz", name), where="a.laz")


def test_config_asks_for_the_axis() -> None:
    with pytest.raises(ValueError, match="ground_height, which needs the axis that points up"):
        config.Data(features=("ground_height",))
    assert config.Data(features=("ground_height", "return_share"), up="z").ground_cell == 5
