"""Each corruption does what it says, more of it with every severity, and the same again for the same seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from image2point.datasets.cloud import Cloud
from image2point.datasets.corruptions import CORRUPTIONS, SEVERITIES, corrupt, turn_at_random
from image2point.errors import InputError


@pytest.fixture(scope="module")
def ball() -> Cloud:
    """1000 points on the unit sphere, with their normals; labels are their numbers."""
    points = np.random.default_rng(0).standard_normal((1000, 3)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return Cloud(points, points.copy(), labels=np.arange(1000))


def moved(ball: Cloud, found: Cloud) -> float:
    assert found.labels is not None
    return float(np.linalg.norm(found.points - ball.points[found.labels], axis=1).mean())


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_every_corruption(ball: Cloud, kind: str) -> None:
    before = ball.points.copy()
    found = [corrupt(ball, kind, severity, 5, 7) for severity in SEVERITIES]
    for severity, cloud in zip(SEVERITIES, found, strict=True):
        assert cloud.points.dtype == np.float32 and np.isfinite(cloud.points).all() and len(cloud) >= 1
        assert cloud.normals is not None and cloud.normals.shape == cloud.points.shape
        again, other = corrupt(ball, kind, severity, 5, 7), corrupt(ball, kind, severity, 5, 8)
        np.testing.assert_array_equal(cloud.points, again.points)
        assert not np.array_equal(cloud.points, other.points)
    np.testing.assert_array_equal(ball.points, before)
    counts, distances = [len(cloud) for cloud in found], [moved(ball, cloud) for cloud in found]
    if kind in ("dropout", "occlusion", "cutout"):
        assert counts == sorted(counts, reverse=True) and counts[-1] < counts[0] < 1000 and max(distances) == 0
    elif kind == "density":
        assert counts == [500] * 5 and max(distances) == 0
        lean = [float(np.linalg.norm(cloud.points.mean(axis=0))) for cloud in found]
        assert lean[0] > 0.2 and lean[-1] > lean[0]
    else:
        assert counts == [1000] * 5 and distances == sorted(distances) and distances[0] > 0


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize(("size", "place"), [(400, (9000, 0, -70)), (0.02, (0, 0, 0))])
def test_damage_follows_the_size_and_place_of_the_cloud(
    ball: Cloud, kind: str, size: float, place: tuple[float, ...]
) -> None:
    mean = ball.points.mean(axis=0)
    centred = replace(ball, points=(ball.points - mean) / np.linalg.norm(ball.points - mean, axis=1).max())
    expected = corrupt(centred, kind, 4, 5, 7)
    found = corrupt(replace(ball, points=centred.points * np.float32(size) + np.float32(place)), kind, 4, 5, 7)
    np.testing.assert_allclose((found.points - np.float32(place)) / size, expected.points, atol=2e-3)
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_a_single_point_survives_everything() -> None:
    point = Cloud(np.array([[0.1, 0.2, 0.3]], dtype=np.float32))
    for kind in CORRUPTIONS:
        assert len(corrupt(point, kind, 5, 0, 0)) == 1


def test_rotations_keep_distances_and_turn_normals(ball: Cloud) -> None:
    turned = turn_at_random(ball, 3, 4)
    assert turned.normals is not None
    np.testing.assert_allclose(turned.points @ turned.points.T, ball.points @ ball.points.T, atol=1e-5)
    np.testing.assert_allclose(turned.points, turned.normals, atol=1e-6)
    assert not np.allclose(turned.points, ball.points, atol=0.1)
    # Uniform over all rotations: a fixed point ends anywhere on the sphere.
    ends = np.array([turn_at_random(Cloud(ball.points[:1]), 0, index).points[0] for index in range(2000)])
    np.testing.assert_allclose(ends.mean(axis=0), 0, atol=0.06)
    np.testing.assert_allclose(ends.T @ ends / 2000, np.eye(3) / 3, atol=0.04)


@pytest.mark.parametrize(("kind", "severity", "message"), [("rain", 1, "no corruption 'rain'"), ("noise", 6, "1 to 5")])
def test_wrong_asks(ball: Cloud, kind: str, severity: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        corrupt(ball, kind, severity, 0, 0)
