"""Input features and the check of single clouds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image2point.datasets.cloud import Cloud
from image2point.datasets.features import feature_width, input_features
from image2point.datasets.normals import estimate_normals
from image2point.datasets.transforms import random_rotation
from image2point.datasets.validate import check_cloud, check_points
from image2point.errors import InputError

POINTS = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
NORMALS = POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)
COLOURS = np.random.default_rng(1).uniform(size=(7, 3)).astype(np.float32)
CLOUD = Cloud(POINTS, NORMALS, COLOURS)
EVERYTHING = ("height", "normals", "xyz", "occupancy", "colour")


def test_features_in_the_order_asked_for() -> None:
    made = input_features(CLOUD, EVERYTHING, {"xyz": 2.0, "occupancy": 0.5, "colour": 3.0}, up="y")
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made[:, 0], POINTS[:, 1] - POINTS[:, 1].min())
    np.testing.assert_array_equal(made[:, 1:4], NORMALS)
    np.testing.assert_array_equal(made[:, 4:7], 2 * POINTS)
    np.testing.assert_array_equal(made[:, 7], 0.5)
    np.testing.assert_array_equal(made[:, 8:], 3 * COLOURS)


@pytest.mark.parametrize(
    ("names", "width"),
    [(("xyz",), 3), (("occupancy",), 1), (("xyz", "height"), 4), (("normals", "colour"), 6), (EVERYTHING, 11)],
)
def test_width(names: tuple[str, ...], width: int) -> None:
    assert feature_width(names) == input_features(CLOUD, names, up="z").shape[1] == width


def test_features_are_a_copy() -> None:
    for name in ("xyz", "normals", "colour"):
        made = input_features(CLOUD, (name,))
        assert not any(np.shares_memory(made, each) for each in (POINTS, NORMALS, COLOURS))


def test_height_does_not_change_with_the_place_of_the_cloud() -> None:
    moved = replace(CLOUD, points=POINTS + np.float32([3, -2, 8]))
    for up in ("x", "y", "z"):
        high = input_features(moved, ("height",), up=up)  # type: ignore[arg-type]
        assert high.min() == 0
        np.testing.assert_allclose(high, input_features(CLOUD, ("height",), up=up), atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [(), ("xyz", "xyz"), ("rgb",)])
def test_wrong_names(names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="input features must be one or more of"):
        feature_width(names)


def test_scaling_of_an_unknown_feature() -> None:
    with pytest.raises(InputError, match=r"unknown input features \['rgb'\]"):
        input_features(CLOUD, ("xyz",), {"rgb": 1.0})


def test_what_a_cloud_lacks() -> None:
    with pytest.raises(InputError, match=r"cup\.xyz: the input feature normals needs .* set data\.normals=estimated"):
        input_features(Cloud(POINTS), ("xyz", "normals"), where="cup.xyz")
    with pytest.raises(InputError, match=r"cup\.xyz: the input feature colour needs a cloud with colours"):
        input_features(Cloud(POINTS), ("colour",), where="cup.xyz")
    with pytest.raises(InputError, match="height needs the axis that points up: one of x, y, z, found None"):
        input_features(CLOUD, ("height",))


def ball(points: int = 400) -> np.ndarray:
    directions = np.random.default_rng(0).normal(size=(points, 3))
    return (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)


def test_estimated_normals_of_a_ball_point_outwards() -> None:
    points = ball()
    normals = estimate_normals(0.5 * points + np.float32([7, 0, 0]))
    assert normals.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    assert (normals * points).sum(axis=1).min() > 0.95


def test_estimated_normals_depend_on_the_shape_alone() -> None:
    points = np.random.default_rng(3).uniform(size=(200, 3)).astype(np.float32)
    normals = estimate_normals(points)
    np.testing.assert_array_equal(normals, estimate_normals(points))
    order = np.random.default_rng(4).permutation(200)
    np.testing.assert_allclose(estimate_normals(points[order]), normals[order], atol=1e-4)
    turn = random_rotation("so3", np.random.default_rng(5)).T.astype(np.float32)
    turned = estimate_normals(points @ turn)
    # Two neighbours at nearly the same distance may change places in the rounding.
    assert np.median(np.abs(turned - normals @ turn)) < 1e-4


@pytest.mark.parametrize("points", [np.zeros((1, 3)), np.zeros((5, 3)), np.eye(3)[[0]] * np.arange(9)[:, None]])
def test_estimated_normals_where_there_is_no_plane(points: np.ndarray) -> None:
    np.testing.assert_allclose(np.linalg.norm(estimate_normals(points), axis=1), 1, atol=1e-6)


def test_a_checked_cloud_has_unit_normals() -> None:
    given = np.float32([[0, 0, 2], [0, 3, 4], [0, 0, 0]])
    cloud = check_cloud(Cloud(np.eye(3), given, np.eye(3), np.arange(3, dtype=np.uint8)), "here")
    np.testing.assert_allclose(cloud.normals, [[0, 0, 1], [0, 0.6, 0.8], [0, 0, 0]], atol=1e-7)
    assert cloud.points.dtype == cloud.colours.dtype == np.float32 and cloud.labels.dtype == np.int64  # type: ignore


@pytest.mark.parametrize(
    ("cloud", "message"),
    [
        (
            Cloud(np.eye(3), normals=np.eye(4)[:, :3]),
            r"here: expected normals to be numbers \(3, 3\), found .* \(4, 3\)",
        ),
        (
            Cloud(np.eye(3), normals=np.full((3, 3), np.nan)),
            "here: normals hold NaN or infinite values, first at point 0",
        ),
        (Cloud(np.eye(3), colours=255 * np.eye(3)), r"expected colours in 0\.\.1, found 0 to 255; 8-bit"),
        (Cloud(np.eye(3), labels=np.arange(4)), r"expected labels to be whole numbers \(3,\), found int64 \(4,\)"),
        (Cloud(np.eye(3), labels=np.full(3, -2)), "expected labels from 0, or -1 where ignored, found -2"),
        (
            Cloud(np.eye(3), attributes={"intensity": np.zeros(2)}),
            r"expected the attribute intensity to be numbers \(3,\), found float64 \(2,\)",
        ),
        (
            Cloud(np.eye(3), attributes={"intensity": np.float32([0, np.inf, 0])}),
            "the attribute intensity hold NaN or infinite values, first at point 1: inf",
        ),
        (Cloud(np.eye(3), attributes={"../up": np.zeros(3)}), "names of attributes to be letters, digits and _"),
        (Cloud(np.eye(3), origin=np.array([0, 0, np.nan])), "an origin of three finite numbers"),
        (Cloud(np.eye(3), labels=np.zeros(3)), r"expected labels to be whole numbers \(3,\), found float64 \(3,\)"),
    ],
)
def test_a_cloud_whose_parts_do_not_fit(cloud: Cloud, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_cloud(cloud, "here")


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.int64, np.uint8])
def test_a_cloud_of_any_real_type(kind: type) -> None:
    cloud = check_points(np.ones((4, 3), kind), "here")
    assert cloud.dtype == np.float32 and cloud.shape == (4, 3)


def test_one_point_is_a_cloud() -> None:
    assert check_points([[1, 2, 3]], "here", voxel_size=0.05).shape == (1, 3)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((0, 3)), "here: the cloud is empty"),
        (np.zeros((4, 2)), r"here: expected points of shape \(P, 3\), found \(4, 2\)"),
        (np.zeros(3), r"found \(3,\)"),
        (np.zeros((4, 3), complex), "expected real numbers, found the type complex128"),
        (np.zeros((4, 3), bool), "found the type bool"),
        (np.array([["a", "b", "c"]]), "expected real numbers"),
        (np.array([[0, 0, 0], [0, np.nan, 0]]), r"1 of 2 points are not finite, the first is point 1"),
        (np.array([[0, 0, -np.inf]]), "not finite"),
        (np.array([[0, 0, 1e200]]), "not finite"),
    ],
)
def test_no_cloud(points: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_points(points, "here")


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-1e12, 1e12), st.floats(0, 1e12))
def test_voxel_indices_fit_or_are_refused(voxel_size: float, start: float, extent: float) -> None:
    points = np.array([[start] * 3, [start + extent] * 3], dtype=np.float32)
    indices = np.floor(points.astype(np.float64) / voxel_size)
    if max(np.abs(indices).max(), np.ptp(indices)) <= 2**31 - 1:
        check_points(points, "here", voxel_size)
    else:
        with pytest.raises(InputError, match=r"here: a voxel index of .* does not fit into 32 bits"):
            check_points(points, "here", voxel_size)


@pytest.mark.parametrize("voxel_size", [0, -1, float("nan"), float("inf")])
def test_impossible_voxel_size(voxel_size: float) -> None:
    with pytest.raises(InputError, match="voxel size must be a positive length"):
        check_points(POINTS, "here", voxel_size)
