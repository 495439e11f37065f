"""Input features and the check of single clouds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image2point.datasets.features import feature_width, input_features
from image2point.datasets.validate import check_cloud
from image2point.errors import InputError

CLOUD = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)


def test_features_in_the_order_asked_for() -> None:
    made = input_features(CLOUD, ("occupancy", "xyz"), {"xyz": 2.0, "occupancy": 0.5})
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made[:, 0], 0.5)
    np.testing.assert_array_equal(made[:, 1:], 2 * CLOUD)


@pytest.mark.parametrize(("names", "width"), [(("xyz",), 3), (("occupancy",), 1), (("xyz", "occupancy"), 4)])
def test_width(names: tuple[str, ...], width: int) -> None:
    assert feature_width(names) == input_features(CLOUD, names).shape[1] == width


def test_features_are_a_copy() -> None:
    assert not np.shares_memory(input_features(CLOUD), CLOUD)


@pytest.mark.parametrize("names", [(), ("xyz", "xyz"), ("rgb",)])
def test_wrong_names(names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="input features must be one or more of"):
        feature_width(names)


def test_scaling_of_an_unknown_feature() -> None:
    with pytest.raises(InputError, match=r"unknown input features \['rgb'\]"):
        input_features(CLOUD, ("xyz",), {"rgb": 1.0})


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.int64, np.uint8])
def test_a_cloud_of_any_real_type(kind: type) -> None:
    cloud = check_cloud(np.ones((4, 3), kind), "here")
    assert cloud.dtype == np.float32 and cloud.shape == (4, 3)


def test_one_point_is_a_cloud() -> None:
    assert check_cloud([[1, 2, 3]], "here", voxel_size=0.05).shape == (1, 3)


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
        check_cloud(points, "here")


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-1e12, 1e12), st.floats(0, 1e12))
def test_voxel_indices_fit_or_are_refused(voxel_size: float, start: float, extent: float) -> None:
    points = np.array([[start] * 3, [start + extent] * 3], dtype=np.float32)
    indices = np.floor(points.astype(np.float64) / voxel_size)
    if max(np.abs(indices).max(), np.ptp(indices)) <= 2**31 - 1:
        check_cloud(points, "here", voxel_size)
    else:
        with pytest.raises(InputError, match=r"here: a voxel index of .* does not fit into 32 bits"):
            check_cloud(points, "here", voxel_size)


@pytest.mark.parametrize("voxel_size", [0, -1, float("nan"), float("inf")])
def test_impossible_voxel_size(voxel_size: float) -> None:
    with pytest.raises(InputError, match="voxel size must be a positive length"):
        check_cloud(CLOUD, "here", voxel_size)
