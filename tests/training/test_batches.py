"""Batches: every sample once, the same whatever the number of workers and processes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from image2point.datasets.cloud import Cloud
from image2point.datasets.normals import estimate_normals
from image2point.datasets.recipe import Recipe, prepare, to_voxels
from image2point.datasets.splits import StoredClouds
from image2point.datasets.transforms import PAPER, Augmentation
from image2point.errors import InputError
from image2point.training.batches import batches, in_order, shuffled
from image2point.voxels import VoxelTensor


@pytest.fixture
def clouds() -> StoredClouds:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (9, 20, 3)).astype(np.float32)
    return StoredClouds("cubes", ("a", "b"), points, np.arange(9) % 2)


RECIPE = Recipe(voxel_size=0.25, augmentation=PAPER, points=15, seed=5)


@pytest.mark.parametrize(
    ("count", "size", "expected"), [(10, 4, [4, 3, 3]), (33, 32, [17, 16]), (3, 8, [3]), (8, 4, [4, 4])]
)
def test_batches_are_nearly_equal_and_drop_nothing(count: int, size: int, expected: list[int]) -> None:
    plan = shuffled(count, size, seed=1, epoch=2)
    assert [len(batch) for batch in plan] == expected
    assert sorted(np.concatenate(plan)) == list(range(count))


def test_the_order_changes_with_seed_and_epoch() -> None:
    first = np.concatenate(shuffled(50, 8, seed=1, epoch=1))
    assert np.array_equal(first, np.concatenate(shuffled(50, 8, seed=1, epoch=1)))
    assert not np.array_equal(first, np.concatenate(shuffled(50, 8, seed=1, epoch=2)))
    assert not np.array_equal(first, np.concatenate(shuffled(50, 8, seed=2, epoch=1)))


@pytest.mark.parametrize("count", [1, 2, 7, 12])
def test_processes_share_a_test_set_without_overlap(count: int) -> None:
    shares = [np.concatenate([np.empty(0, int), *in_order(count, 3, rank, 3)]) for rank in range(3)]
    assert np.concatenate(shares).tolist() == list(range(count))


def test_workers_change_nothing(clouds: StoredClouds) -> None:
    plan = shuffled(len(clouds), 4, seed=5, epoch=3)
    alone = list(batches(clouds, plan, RECIPE, epoch=3))
    helped = list(batches(clouds, plan, RECIPE, epoch=3, workers=2))
    assert len(alone) == len(helped) == 3
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.voxels.features, other.voxels.features)  # type: ignore[union-attr]
        assert torch.equal(one.voxels.coordinates, other.voxels.coordinates)  # type: ignore[union-attr]
        assert torch.equal(one.targets, other.targets) and torch.equal(one.indices, other.indices)
        assert torch.equal(one.targets, torch.as_tensor(clouds.labels)[one.indices])


def test_global_random_state_is_neither_used_nor_moved(clouds: StoredClouds) -> None:
    plan = shuffled(len(clouds), 4, seed=5, epoch=3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = [batch.voxels.features for batch in batches(clouds, plan, RECIPE, epoch=3)]  # type: ignore[union-attr]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    second = [batch.voxels.features for batch in batches(clouds, plan, RECIPE, epoch=3)]  # type: ignore[union-attr]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_sample_is_augmented_by_its_index_and_epoch_alone(clouds: StoredClouds) -> None:
    stored = clouds.points.copy()
    once = prepare(clouds[4], "cloud", RECIPE, epoch=2, index=4)
    assert once.points.shape == (15, 3)
    assert np.array_equal(once.points, prepare(clouds[4], "cloud", RECIPE, epoch=2, index=4).points)
    assert not np.array_equal(once.points, prepare(clouds[4], "cloud", RECIPE, epoch=3, index=4).points)
    assert not np.array_equal(once.points, prepare(clouds[4], "cloud", RECIPE, epoch=2, index=5).points)
    assert np.array_equal(clouds.points, stored)


def test_without_an_epoch_points_stay_where_they_are(clouds: StoredClouds) -> None:
    points = {tuple(point) for point in clouds[2].points.tolist()}
    assert {tuple(point) for point in prepare(clouds[2], "cloud", RECIPE, None, 2).points.tolist()} <= points


def test_voxels_carry_the_mean_of_every_feature() -> None:
    """Two points in one voxel: nothing is brought to length 1 again."""
    points = np.float32([[0.1, 0.1, 0.1], [0.3, 0.1, 0.1], [0.1, 0.1, 0.9]])
    normals, colours = np.eye(3, dtype=np.float32), np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    recipe = Recipe(voxel_size=0.5, features=("normals", "colour", "height"), up="z")
    voxels = to_voxels([prepare(Cloud(points, normals, colours), "cloud", recipe)], recipe)
    assert isinstance(voxels, VoxelTensor)
    mean = [0.5, 0.5, 0]
    torch.testing.assert_close(voxels.features, torch.tensor([[*mean, *mean, 0], [0, 0, 1, 0, 0, 1, 0.8]]))


def test_normals_are_given_or_estimated(clouds: StoredClouds) -> None:
    given = np.zeros((20, 3), dtype=np.float32)
    given[:, 2] = 1
    cloud = Cloud(clouds.points[0], given)
    recipe = replace(RECIPE, features=("xyz", "normals"), points=None)
    np.testing.assert_array_equal(prepare(cloud, "cloud", recipe).normals, given)
    estimated = prepare(cloud, "cloud", replace(recipe, normals="estimated"))
    np.testing.assert_allclose(estimated.normals, estimate_normals(cloud.points), atol=1e-6)
    assert prepare(cloud, "cloud", RECIPE).normals is None  # nobody asked


def test_estimated_normals_are_those_of_the_whole_cloud_and_turn_with_it(clouds: StoredClouds) -> None:
    recipe = replace(RECIPE, features=("xyz", "normals"), normals="estimated", augmentation=Augmentation(rotate="so3"))
    turned, still = prepare(clouds[3], "cloud", recipe, 1, 3), prepare(clouds[3], "cloud", recipe, None, 3)
    assert turned.normals is not None and still.normals is not None and len(turned) == 15
    whole = estimate_normals(clouds[3].points)
    rows = [np.flatnonzero((clouds[3].points == point).all(axis=1))[0] for point in still.points]
    np.testing.assert_allclose(still.normals, whole[rows], atol=1e-6)
    # Angles between normals and points do not change in a rotation.
    products = [
        np.sort((cloud.normals * cloud.points).sum(axis=1))
        for cloud in (turned, prepare(clouds[3], "cloud", replace(recipe, augmentation=Augmentation()), 1, 3))
    ]
    np.testing.assert_allclose(*products, atol=1e-5)


def test_a_cloud_without_what_the_features_need_is_named(clouds: StoredClouds) -> None:
    for feature, missing in (("normals", "normals"), ("colour", "colours")):
        with pytest.raises(
            InputError, match=f"cubes cloud 3: the input feature {feature} needs a cloud with {missing}"
        ):
            list(batches(clouds, [np.array([3])], Recipe(voxel_size=0.25, features=("xyz", feature))))


def test_bad_clouds_are_named() -> None:
    bad = np.full((2, 5, 3), 0.5, dtype=np.float32)
    bad[1, 3, 0] = np.nan
    clouds = StoredClouds("cubes", ("a",), bad, np.zeros(2, int))
    with pytest.raises(InputError, match="cubes cloud 1"):
        list(batches(clouds, [np.array([0, 1])], RECIPE))
    with pytest.raises(InputError, match="voxel index"):
        prepare(Cloud(np.full((2, 3), 1e9, dtype=np.float32) * [[1], [-1]]), "cloud", Recipe(voxel_size=0.1))
