"""The solids, their clouds, and how hard they are to tell apart by moments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from image2point.datasets.meshes import Mesh, areas, blocks, revolve, sample_surface, sweep
from image2point.datasets.solids import SOLIDS
from image2point.datasets.synthetic import Difficulty, SyntheticShapes
from image2point.errors import InputError

# Closed surfaces, welded: vertices - edges + faces = 2 (1 - holes), summed over the parts.
EULER = {
    "cylinder": 2, "triangular_prism": 2, "box": 2, "star_prism": 2, "cone": 2, "pyramid": 2, "bipyramid": 2,
    "ellipsoid": 2, "hourglass": 2, "bowl": 2, "torus": 0, "tube": 0, "knot": 0, "chain": 0, "l_beam": 2, "t_beam": 2,
    "u_beam": 2, "h_beam": 2, "stairs": 2, "table": 2, "chair": 2, "frame": -8, "spring": 0, "mug": 2,
}  # fmt: skip


def euler_characteristic(mesh: Mesh) -> int:
    _, welded = np.unique(np.round(mesh.vertices, 9), axis=0, return_inverse=True)
    triangles = welded.reshape(-1)[mesh.triangles]
    triangles = triangles[[len(set(triangle)) == 3 for triangle in triangles.tolist()]]
    edges = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    return len(np.unique(triangles)) - len(np.unique(edges, axis=0)) + len(triangles)


@pytest.mark.parametrize("kind", SOLIDS)
def test_topology(kind: str) -> None:
    for seed in range(3):
        assert euler_characteristic(SOLIDS[kind](np.random.default_rng(seed))) == EULER[kind]


@pytest.mark.parametrize("kind", SOLIDS)
def test_surfaces_are_wound_outwards(kind: str) -> None:
    """Each edge is run through once in each direction at most, and the solid has a positive volume."""
    for seed in range(3):
        mesh = SOLIDS[kind](np.random.default_rng(seed))
        _, welded = np.unique(np.round(mesh.vertices, 9), axis=0, return_inverse=True)
        triangles = welded.reshape(-1)[mesh.triangles]
        triangles = triangles[[len(set(triangle)) == 3 for triangle in triangles.tolist()]]
        edges = triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
        assert len(np.unique(edges, axis=0)) == len(edges)
        a, b, c = (mesh.vertices[mesh.triangles[:, corner]] for corner in range(3))
        assert (a * np.cross(b, c)).sum() > 0


def test_a_tube_is_wound_outwards() -> None:
    path = np.stack([np.zeros(5), np.zeros(5), np.arange(5.0)], axis=1)
    cloud = sample_surface(sweep(path, 0.5, np.array([1.0, 0, 0])), 100, np.random.default_rng(0))
    assert cloud.normals is not None
    assert (cloud.normals[:, :2] * cloud.points[:, :2]).sum(axis=1).min() > 0.4


def test_sampling_gives_exact_normals_and_interpolated_colours() -> None:
    box = blocks(np.ones((1, 1, 1)), *(np.array([-1.0, 1.0]),) * 3)
    cloud = sample_surface(replace(box, colours=(box.vertices + 1) / 2), 500, np.random.default_rng(0))
    assert cloud.normals is not None and cloud.colours is not None
    np.testing.assert_allclose(cloud.colours, (cloud.points + 1) / 2, atol=1e-12)
    side = np.abs(cloud.points).argmax(axis=1)[:, None] == np.arange(3)
    np.testing.assert_allclose(cloud.normals, np.where(side, np.sign(cloud.points), 0), atol=1e-12)


def test_normals_of_a_clean_ball_point_away_from_its_centre() -> None:
    clean = Difficulty(proportions=1, tilt=0, occlusion=0, density=0, noise=0, scale=1)
    ball = SyntheticShapes("train", 1, 500, difficulty=clean, classes=("ellipsoid",))[0]
    assert ball.normals is not None
    assert ((ball.normals * ball.points).sum(axis=1) / np.linalg.norm(ball.points, axis=1)).min() > 0.9


def test_areas_of_known_bodies() -> None:
    box = blocks(np.ones((1, 1, 1)), np.array([0.0, 1]), np.array([0.0, 2]), np.array([0.0, 3]))
    assert areas(box).sum() == pytest.approx(2 * (2 + 3 + 6))
    two = blocks(np.ones((2, 1, 1)), np.array([0.0, 0.5, 1]), np.array([0.0, 2]), np.array([0.0, 3]))
    assert areas(two).sum() == pytest.approx(22)  # the face between the two is left out
    cylinder = revolve(np.array([(0, 0), (1, 0), (1, 2), (0, 2)]), 1000)
    assert areas(cylinder).sum() == pytest.approx(2 * np.pi + 4 * np.pi, rel=1e-4)


def test_sampling_is_uniform_over_the_area() -> None:
    box = blocks(np.ones((1, 1, 1)), np.array([0.0, 1]), np.array([0.0, 2]), np.array([0.0, 3]))
    points = sample_surface(box, 60000, np.random.default_rng(0)).points
    on_face = [
        np.isclose(points[:, axis], side).mean() for axis, length in enumerate((1, 2, 3)) for side in (0, length)
    ]
    np.testing.assert_allclose(on_face, np.array([6, 6, 3, 3, 2, 2]) / 22, atol=0.01)
    top = points[np.isclose(points[:, 2], 3)]
    np.testing.assert_allclose(np.histogram2d(top[:, 0], top[:, 1], bins=4)[0] / len(top), 1 / 16, atol=0.015)


def test_a_mesh_without_area() -> None:
    flat = Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]]))
    with pytest.raises(InputError, match="has no area"):
        sample_surface(flat, 10, np.random.default_rng(0))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(list(SOLIDS)), st.integers(0, 10**6), st.sampled_from([1, 2, 100]))
def test_every_cloud_is_sound(kind: str, seed: int, points: int) -> None:
    shapes = SyntheticShapes("train", 1, points, seed, classes=(kind,))
    cloud, again = shapes[0], shapes[0]
    assert cloud.points.shape == (points, 3) and cloud.points.dtype == np.float32 and np.isfinite(cloud.points).all()
    assert np.linalg.norm(cloud.points, axis=1).max() <= 1 + 1e-5
    assert cloud.normals is not None and cloud.normals.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(cloud.normals, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(cloud.points, again.points)
    np.testing.assert_array_equal(cloud.normals, again.normals)


def test_a_cloud_depends_on_what_it_should_and_no_more() -> None:
    shapes = SyntheticShapes("train", 3, 64)
    first = shapes[5].points
    assert shapes[5].points is not first
    for index in (70, 0, 12):
        shapes[index]
    np.testing.assert_array_equal(shapes[5].points, first)
    np.testing.assert_array_equal(SyntheticShapes("train", 9, 64)[5].points, first)
    np.testing.assert_array_equal(SyntheticShapes("train", 1, 64, classes=(shapes.classes[5],))[0].points, first)
    for other in (
        replace(shapes, split="test"),
        replace(shapes, seed=1),
        replace(shapes, difficulty=Difficulty(noise=0)),
    ):
        assert not np.array_equal(other[5].points, first)
    assert not np.array_equal(shapes[5 + len(SOLIDS)].points, first)


def test_labels_and_names() -> None:
    train, test = SyntheticShapes("train", 3, 16), SyntheticShapes("test", 2, 16)
    assert len(train.classes) == len(SOLIDS) >= 20
    np.testing.assert_array_equal(np.bincount(train.labels), 3)
    np.testing.assert_array_equal(np.bincount(test.labels), 2)
    assert train.labels.dtype == np.int64
    assert (train.name, test.name) == ("synthetic/train", "synthetic/test")
    with pytest.raises(IndexError):
        test[len(test)]


def test_noise_and_occlusion_do_what_they_say() -> None:
    clean = Difficulty(proportions=1, tilt=0, occlusion=0, density=0, noise=0, scale=1)
    ball = SyntheticShapes("train", 1, 2000, difficulty=clean, classes=("ellipsoid",))[0].points
    radius = np.linalg.norm(ball - ball.mean(axis=0), axis=1)
    assert radius.std() < 0.02  # all at one distance: a sphere
    noisy = SyntheticShapes("train", 1, 2000, difficulty=replace(clean, noise=0.2), classes=("ellipsoid",))[0].points
    assert np.linalg.norm(noisy - noisy.mean(axis=0), axis=1).std() > 2 * radius.std()
    gaps = []
    for occlusion in (0.0, 0.5):
        spec = replace(clean, occlusion=occlusion)
        part = [
            SyntheticShapes("train", 20, 500, difficulty=spec, classes=("ellipsoid",))[index].points
            for index in range(20)
        ]
        gaps.append(np.mean([np.linalg.norm(np.median(cloud, axis=0) - middle(cloud)) for cloud in part]))
    assert gaps[1] > 2 * gaps[0]


def middle(cloud: np.ndarray) -> np.ndarray:
    return (cloud.max(axis=0) + cloud.min(axis=0)) / 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"split": "dev"}, "split must be one of train, test, validation"),
        ({"samples_per_class": 0}, "at least 1"),
        ({"points": 0}, "at least 1"),
        ({"seed": -1}, "seed at least 0"),
        ({"classes": ("torus", "sofa")}, "classes must be one or more of .* found torus, sofa"),
        ({"classes": ()}, "found none"),
    ],
)
def test_impossible_settings(changed: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SyntheticShapes(**changed)
    with pytest.raises(InputError, match=r"occlusion must be between 0 and 0\.5"):
        Difficulty(occlusion=0.7)


def moments(cloud: np.ndarray) -> np.ndarray:
    """Mean, covariance, bounding box and its extents, radial histogram: [34]."""
    centred = cloud - cloud.mean(axis=0)
    covariance = centred.T @ centred / len(cloud)
    radial = np.histogram(np.linalg.norm(centred, axis=1), bins=16, range=(0, 1))[0] / len(cloud)
    low, high = cloud.min(axis=0), cloud.max(axis=0)
    return np.concatenate([cloud.mean(axis=0), covariance[np.triu_indices(3)], low, high, high - low, radial])


def test_moments_do_not_tell_the_classes() -> None:
    """Logistic regression on moments and extents stays below 70 %, whatever its weight decay."""
    parts = SyntheticShapes("train", 100, 512), SyntheticShapes("test", 40, 512)
    tables = [torch.from_numpy(np.stack([moments(part[index].points) for index in range(len(part))])) for part in parts]
    mean, spread = tables[0].mean(dim=0), tables[0].std(dim=0) + 1e-9
    x, held = ((table - mean) / spread for table in tables)
    y, truth = (torch.from_numpy(part.labels) for part in parts)
    scores = {}
    for decay in (1e-3, 1e-4):
        weight = torch.zeros(x.shape[1] + 1, len(SOLIDS), dtype=torch.double, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight], max_iter=300, tolerance_grad=1e-4, line_search_fn="strong_wolfe")

        def loss(weight: torch.Tensor = weight, decay: float = decay) -> torch.Tensor:
            fit = torch.nn.functional.cross_entropy(x @ weight[:-1] + weight[-1], y)
            return fit + decay / 2 * weight[:-1].square().sum()

        def closure(optimizer: torch.optim.LBFGS = optimizer, weight: torch.Tensor = weight) -> torch.Tensor:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        optimizer.step(closure)
        assert weight.grad is not None and weight.grad.abs().max() < 1e-3, "not converged"
        scores[decay] = float(((held @ weight[:-1] + weight[-1]).argmax(dim=1) == truth).double().mean())
    print(f"\nlogistic regression on moments, test accuracy by weight decay: {scores}")
    # Below chance times four would mean that the features are broken, not that the shapes are hard.
    assert 4 / len(SOLIDS) < max(scores.values()) < 0.70
