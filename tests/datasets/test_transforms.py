"""Augmentation: pure, reproducible, and each step within its stated bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image2point.datasets.cloud import Cloud
from image2point.datasets.transforms import NONE, PAPER, Augmentation, Rotation, augment, random_rotation, rng_for
from image2point.errors import InputError

POINTS = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3)).astype(np.float32)
CLOUD = Cloud(POINTS)
FULL = Cloud(POINTS, POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True), np.abs(POINTS), np.arange(50))
ALL = Augmentation(
    points=40, rotate="so3", scale=(0.5, 2), scale_probability=1,
    shift=0.3, shift_probability=1, jitter=0.1, jitter_probability=1,
)  # fmt: skip


@pytest.mark.parametrize("spec", [NONE, PAPER, ALL])
def test_never_in_place(spec: Augmentation) -> None:
    stored = FULL.take(np.arange(50))
    for name in ("points", "normals", "colours", "labels"):
        getattr(stored, name).setflags(write=False)
    new = augment(stored, spec, rng_for(0, 0, 0))
    for name in ("points", "normals", "colours", "labels"):
        assert not np.shares_memory(getattr(new, name), getattr(stored, name))
        assert getattr(new, name).flags.writeable
    assert new.points.dtype == np.float32


def test_nothing_is_the_default() -> None:
    np.testing.assert_array_equal(augment(CLOUD, NONE, rng_for(0, 0, 0)).points, POINTS)


def test_random_state_is_that_of_the_sample() -> None:
    one, two = (augment(CLOUD, ALL, rng_for(3, 4, 5)).points for _ in range(2))
    np.testing.assert_array_equal(one, two)
    draws = {rng_for(*key).random() for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)]}
    assert len(draws) == 5


def test_the_paper_values() -> None:
    assert (PAPER.scale, PAPER.scale_probability) == ((0.9, 1.1), 0.9)
    assert (PAPER.shift, PAPER.shift_probability) == (0.2, 0.9)
    assert (PAPER.jitter, PAPER.jitter_probability) == (0.0125, 0.7)
    assert PAPER.rotate == "none" and PAPER.points is None


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_scale_is_one_factor_in_range(index: int) -> None:
    new = augment(CLOUD, Augmentation(scale=(0.9, 1.1), scale_probability=1), rng_for(0, 0, index))
    factors = new.points / POINTS
    assert factors.min() >= 0.9 - 1e-5 and factors.max() <= 1.1 + 1e-5
    np.testing.assert_allclose(factors, factors[0, 0], rtol=1e-5)


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_shift_is_one_offset_per_axis(index: int) -> None:
    offset = augment(CLOUD, Augmentation(shift=0.2, shift_probability=1), rng_for(0, 0, index)).points - POINTS
    assert np.abs(offset).max() <= 0.2 + 1e-6
    np.testing.assert_allclose(offset, np.broadcast_to(offset[0], offset.shape), atol=1e-6)
    assert len(set(np.round(offset[0], 6))) == 3


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_jitter_is_small_and_per_coordinate(index: int) -> None:
    offset = augment(CLOUD, Augmentation(jitter=0.0125, jitter_probability=1), rng_for(0, 0, index)).points - POINTS
    assert np.abs(offset).max() <= 0.0125 + 1e-6
    assert offset.std() > 0.003


def test_steps_happen_as_often_as_stated() -> None:
    spec = Augmentation(shift=0.2, shift_probability=0.3)
    moved = sum(not np.array_equal(augment(CLOUD, spec, rng_for(0, 0, i)).points, POINTS) for i in range(1000))
    assert 240 < moved < 360


@settings(deadline=None)
@given(st.integers(1, 80), st.integers(0, 10**6))
def test_subsampling_keeps_points_as_they_are(points: int, index: int) -> None:
    new = augment(FULL, Augmentation(points=points), rng_for(0, 0, index))
    assert new.labels is not None
    assert len(set(new.labels.tolist())) == len(new) == min(points, len(FULL))
    for name in ("points", "normals", "colours"):
        np.testing.assert_array_equal(getattr(new, name), getattr(FULL, name)[new.labels])


@settings(deadline=None)
@given(st.sampled_from(["x", "y", "z", "so3"]), st.integers(0, 10**6))
def test_normals_turn_with_the_points_and_with_nothing_else(kind: Rotation, index: int) -> None:
    spec = replace(ALL, rotate=kind, jitter=0.0, shift=0.0)
    new = augment(FULL, spec, rng_for(0, 0, index))
    assert new.normals is not None and new.labels is not None and FULL.colours is not None
    # The points of FULL lie along their own normals, and a rotation and a scale keep that so.
    length = np.linalg.norm(new.points, axis=1, keepdims=True)
    np.testing.assert_allclose(new.points / length, new.normals, atol=1e-5)
    np.testing.assert_array_equal(new.colours, FULL.colours[new.labels])
    still = augment(FULL, replace(ALL, rotate="none"), rng_for(0, 0, index))
    assert FULL.normals is not None and still.labels is not None
    np.testing.assert_array_equal(still.normals, FULL.normals[still.labels])


@settings(deadline=None)
@given(st.sampled_from(["x", "y", "z", "so3"]), st.integers(0, 10**6))
def test_rotations_are_proper_and_keep_their_axis(kind: Rotation, seed: int) -> None:
    matrix = random_rotation(kind, np.random.default_rng(seed))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)
    if kind != "so3":
        axis = np.eye(3)["xyz".index(kind)]
        np.testing.assert_allclose(matrix @ axis, axis, atol=1e-12)


@pytest.mark.parametrize("kind", ["z", "so3"])
def test_rotations_are_spread_evenly(kind: Rotation) -> None:
    rng = np.random.default_rng(0)
    images = np.stack([random_rotation(kind, rng)[:, 0] for _ in range(4000)])
    # A uniform direction on the circle (sphere) has mean 0 and covariance I/2 (I/3).
    expected = np.diag([1 / 2, 1 / 2, 0]) if kind == "z" else np.eye(3) / 3
    np.testing.assert_allclose(images.mean(axis=0), 0, atol=0.04)
    np.testing.assert_allclose(images.T @ images / len(images), expected, atol=0.04)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"points": 0}, "points must be at least 1"),
        ({"rotate": "up"}, "rotate must be one of"),
        ({"scale": (1.1, 0.9)}, "scale must be a range"),
        ({"scale": (0, 1)}, "scale must be a range"),
        ({"shift": -1}, "shift must be"),
        ({"jitter": float("nan")}, "jitter must be"),
        ({"scale_probability": 1.5}, "scale_probability must be in"),
    ],
)
def test_impossible_settings(changed: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Augmentation(**changed)
