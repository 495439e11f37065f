"""Depth images of clouds: where points land, what is near, and that they show the clouds that a transfer has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from image2point.config import Config, Images
from image2point.config.reading import from_values
from image2point.datasets.depth_images import FARTHEST, DepthImages, depth_image
from image2point.datasets.splits import StoredClouds
from image2point.errors import InputError
from image2point.jobs.image_ingredients import load_images, load_novel_images
from image2point.jobs.ingredients import load_splits

SHAPES: dict[str, Any] = {"train_per_class": 5, "test_per_class": 2, "points": 64, "classes": ["box", "cone", "torus"]}


def lit(image: np.ndarray) -> tuple[float, float]:
    """Mean row and column of what is not black."""
    rows, columns = np.nonzero(image[..., 0])
    return float(rows.mean()), float(columns.mean())


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_a_column_stands_upright_and_its_top_is_above(up: Any) -> None:
    points = np.zeros((50, 3))
    points[:, "xyz".index(up)] = np.linspace(0, 1, 50)
    image = depth_image(points, 60, up, (75.0, 0.0))[..., 0]
    rows, columns = np.nonzero(image)
    assert np.ptp(rows) > 50 and abs(columns.mean() - 30) < 1 and np.ptp(columns) <= np.ptp(rows) / 3
    low = depth_image(np.concatenate([points, np.repeat(points[:1], 200, 0)]), 60, up, (75.0, 0.0))
    assert lit(low)[0] > 25  # the middle of the picture, whatever the density


def test_right_above_and_near_are_where_the_viewer_sees_them() -> None:
    corners = np.array([[-1.0, 0, -1], [1, 0, -1], [-1, 0, 1]])  # seen along y: left below, right below, left above
    image = depth_image(corners, 100, "z", (0.0, 0.0))[..., 0]
    rows, columns = np.nonzero(image)
    assert image[:40, 60:].max() == 0 and all(
        part.max() > 0 for part in (image[60:, :40], image[60:, 60:], image[:40, :40])
    )
    assert rows.min() >= 0 and columns.max() < 100
    turned = depth_image(np.array([[0.0, -1, 0], [0, 1, 0]]), 100, "z", (90.0, 0.0))[..., 0]
    near_and_far = depth_image(np.array([[-1.0, -1, 0], [1.0, 1, 0]]), 100, "z", (0.0, 0.0))[..., 0]
    assert near_and_far[:, :50].max() == 255 and near_and_far[:, 50:].max() == round(255 * FARTHEST)
    assert turned[:, :40].max() and turned[:, 60:].max()  # from the side, before and behind are left and right


def test_what_is_near_hides_what_is_behind() -> None:
    image = depth_image(np.array([[0.0, 1, 0], [0, -1, 0]]), 32, "z", (0.0, 0.0))
    assert set(np.unique(image)) == {0, 255}
    from_above = depth_image(np.array([[0.0, 0, 1], [0, 0, -1]]), 32, "z", (0.0, 90.0))
    assert set(np.unique(from_above)) == {0, 255}


def test_one_point_fills_the_middle_and_the_gaps_of_a_plane_close() -> None:
    assert depth_image(np.zeros((1, 3)), 16)[8, 8, 0] == 255
    plane = np.stack(np.meshgrid(np.linspace(0, 1, 32), [0.0], np.linspace(0, 1, 32)), -1).reshape(-1, 3)
    assert (depth_image(plane, 224, "z", (0.0, 0.0))[20:200, 20:200] > 0).all()


def data(**settings: Any) -> Config:
    return from_values(
        {"network": {"weights": "random"}, "data": {"name": "synthetic", "synthetic": SHAPES, **settings}}
    )


def images(**settings: Any) -> Images:
    return Images(name="clouds", size=24, clouds={"name": "synthetic", "synthetic": SHAPES, **settings})


@pytest.mark.parametrize("settings", [{"shots": 2}, {"validation": 0.4}])
def test_both_sides_of_the_transfer_have_the_same_samples(settings: dict[str, Any]) -> None:
    clouds, shown = load_splits(data(**settings).data), load_images(images(**settings))
    for part in ("train", "validation", "test"):
        one, other = getattr(clouds, part), getattr(shown, part)
        assert (one is None) == (other is None)
        if one is not None:
            assert other.classes == one.classes
            np.testing.assert_array_equal(other.labels, one.labels)
            for index in (0, len(one) - 1):
                np.testing.assert_array_equal(other[index], depth_image(one[index].points, 24))


def test_novel_classes_and_fewer_images() -> None:
    split = images(validation=0).model_copy(update={"train_per_class": 3})
    assert np.bincount(load_images(split).train.labels).tolist() == [3, 3, 3]
    novel = Images(
        name="clouds",
        size=24,
        class_split={"novel": ["cone"]},
        clouds={"name": "synthetic", "synthetic": SHAPES, "validation": 0},
    )
    assert load_novel_images(novel).classes == ("cone",) and load_images(novel).train.classes == ("box", "torus")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "clouds"}, r"set images\.clouds\.name"),
        ({"clouds": {"name": "synthetic"}}, "is for images.name = clouds, found rendered"),
        ({"name": "clouds", "clouds": {"name": "synthetic"}, "validation": 0.1}, r"images\.clouds\.validation"),
        ({"name": "clouds", "clouds": {"name": "synthetic"}, "view": [0, 91]}, "less than or equal to 90"),
    ],
)
def test_settings_that_fit_nothing_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Images(**values)


def test_clouds_that_cannot_be_shown_are_refused() -> None:
    class Scenes:
        name, classes, labels, of_points = "rooms", ("wall",), np.zeros(1, np.int64), True

    with pytest.raises(InputError, match="rooms has a class for each point"):
        DepthImages(Scenes(), 24)  # type: ignore[arg-type]
    bad = StoredClouds("made", ("a",), np.full((1, 8, 3), np.nan, np.float32), np.zeros(1, np.int64))
    with pytest.raises(InputError, match="made cloud 0"):
        DepthImages(bad, 24)[0]
