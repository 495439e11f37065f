"""Crops of scenes, the changes that scenes get in training, and two scenes in one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from image2point.datasets.cloud import Cloud
from image2point.datasets.crops import Crop, Repeated, crop, mixed
from image2point.datasets.recipe import Recipe, prepare
from image2point.datasets.scene_changes import SceneChanges, bent, change
from image2point.datasets.splits import StoredClouds
from image2point.errors import InputError
from image2point.training.batches import batches


def scene(points: int = 4000) -> Cloud:
    """A plain of 20 × 20 × 5; only the points with x > 10 are labelled. Attribute `row` numbers the points."""
    rng = np.random.default_rng(0)
    xyz = rng.uniform(0, [20, 20, 5], (points, 3)).astype(np.float32)
    labels = np.where(xyz[:, 0] > 10, 1, -1)
    return Cloud(xyz, colours=rng.random((points, 3)).astype(np.float32), labels=labels,
                 attributes={"row": np.arange(points, dtype=np.float32)}, origin=np.array([1e6, 2e6, 50.]))  # fmt: skip


def drawn(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("up", [None, "z"])
def test_a_crop_is_a_box_around_a_labelled_point(up: str | None) -> None:
    whole = scene()
    for seed in range(20):
        part = crop(whole, Crop(size=4.0), 0.5, drawn(seed), up)
        rows = part.attributes["row"].astype(int)
        assert np.array_equal(part.labels, whole.labels[rows])  # type: ignore[index,arg-type]
        assert np.array_equal(part.colours, whole.colours[rows])  # type: ignore[index,arg-type]
        np.testing.assert_allclose(part.points + part.origin, whole.points[rows] + whole.origin, rtol=0, atol=1e-5)
        middle = part.origin - whole.origin
        axes = [0, 1] if up else [0, 1, 2]
        assert middle[0] > 10  # a labelled point
        inside = (np.abs(whole.points[:, axes] - middle[axes]) <= 2.0).all(1)
        assert rows.tolist() == np.flatnonzero(inside).tolist()
        if up:
            assert middle[2] == 0 and part.points[:, 2].max() > 4


def test_a_budget_of_voxels_takes_the_nearest() -> None:
    whole = scene()
    part = crop(whole, Crop(voxels=100), 1.0, drawn(1), "z")
    rows = set(part.attributes["row"].astype(int).tolist())
    middle = (part.origin - whole.origin)[:2]
    cells = np.floor(whole.points).astype(int)
    by_cell: dict[tuple[int, ...], list[int]] = {}
    for number, cell in enumerate(map(tuple, cells.tolist())):
        by_cell.setdefault(cell, []).append(number)
    near = {c: min(((whole.points[n, :2] - middle) ** 2).sum() for n in own) for c, own in by_cell.items()}
    kept = {tuple(cells[n]) for n in rows}
    assert len(kept) == 100 and rows == {n for c in kept for n in by_cell[c]}  # whole voxels
    assert max(near[c] for c in kept) <= min(near[c] for c in near if c not in kept)


def test_a_scene_below_the_budget_stays_whole() -> None:
    assert len(crop(scene(50), Crop(voxels=1000), 1.0, drawn(0))) == 50
    assert len(crop(scene(1), Crop(size=0.1, voxels=1), 1.0, drawn(0))) == 1


def test_without_a_label_any_point_is_the_middle() -> None:
    whole = replace(scene(), labels=np.full(4000, -1))
    assert {(crop(whole, Crop(size=1.0), 1.0, drawn(s)).origin - whole.origin)[0] > 10 for s in range(9)} == {
        True,
        False,
    }


@pytest.mark.parametrize(("given", "message"), [({"size": 0.0}, "size above 0"), ({"voxels": 0}, "at least one voxel")])
def test_an_impossible_crop_is_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Crop(**given)  # type: ignore[arg-type]


def test_changes_are_those_that_were_asked_for() -> None:
    whole, before = scene(), scene().points.copy()
    assert (change(whole, SceneChanges(), drawn(0)).points == before).all()
    signs = {
        tuple(np.sign(change(whole, SceneChanges(flip=0.5), drawn(s), "y").points[0] / before[0])) for s in range(40)
    }
    assert signs == {(a, 1.0, b) for a in (-1.0, 1.0) for b in (-1.0, 1.0)}
    normals = replace(whole, normals=np.tile(np.float32([0.6, 0, 0.8]), (4000, 1)))
    assert change(normals, SceneChanges(flip=1.0), drawn(0), "z").normals[0].tolist() == pytest.approx([-0.6, 0, 0.8])  # type: ignore[index]
    assert (whole.points == before).all()


def test_changes_of_colour() -> None:
    whole = scene()
    assert whole.colours is not None

    def coloured(**given: float) -> np.ndarray:
        found = change(whole, SceneChanges(**given), drawn(3)).colours  # type: ignore[arg-type]
        assert found is not None and found.min() >= 0 and found.max() <= 1
        return found

    assert (coloured(colour_drop=1.0) == 0).all()
    shift = coloured(colour_shift=0.1) - whole.colours
    middle = ((whole.colours > 0.1) & (whole.colours < 0.9)).all(1)
    assert 0 < np.abs(shift).max() <= 0.1 and np.ptp(shift[middle], axis=0).max() < 1e-6  # one for each channel
    assert np.std(coloured(colour_jitter=0.02) - whole.colours) == pytest.approx(0.02, rel=0.1)
    pale = replace(whole, colours=0.4 + 0.2 * whole.colours)
    stretched = change(pale, SceneChanges(colour_contrast=1.0), drawn(3)).colours
    assert stretched is not None and np.ptp(stretched) > np.ptp(pale.colours)  # type: ignore[arg-type]


def test_bending_is_smooth_and_as_strong_as_asked() -> None:
    points = scene().points
    moved = bent(points, 5.0, 1.0, drawn(0)) - points
    assert 0.05 < moved.std() < 0.5  # the average over neighbours, twice on three axes, leaves a part of it
    pairs = np.linalg.norm(points[:200, None] - points[None, :200], axis=2)
    change_of = np.linalg.norm(moved[:200, None] - moved[None, :200], axis=2)
    assert change_of[pairs < 1].mean() < 0.3 * change_of[pairs > 8].mean()
    assert (bent(points, 5.0, 1.0, drawn(0)) == bent(points, 5.0, 1.0, drawn(0))).all()


def test_mixed_scenes_keep_what_both_have() -> None:
    first, second = scene(10), replace(scene(20), colours=None, attributes={"row": np.zeros(20), "other": np.zeros(20)})
    both = mixed(first, second)
    assert len(both) == 30 and both.colours is None and list(both.attributes) == ["row"]
    assert both.labels is not None and both.labels.tolist() == [*first.labels.tolist(), *second.labels.tolist()]  # type: ignore[union-attr]


def stored() -> StoredClouds:
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 8, (4, 300, 3)).astype(np.float32)
    return StoredClouds("scenes", ("a", "b"), points, np.zeros(4, int), point_labels=rng.integers(0, 2, (4, 300)))


RECIPE = Recipe(0.5, up="z", seed=3, crop=Crop(size=4.0), scene_changes=SceneChanges(flip=0.5, mix=0.5), repeats=3)


def test_crops_follow_from_seed_epoch_and_number() -> None:
    clouds = Repeated(stored(), 3)
    assert len(clouds) == 12 and (clouds[5].points == stored()[1].points).all()
    once, again = (prepare(clouds[5], "x", RECIPE, 2, 5) for _ in range(2))
    assert (once.points == again.points).all()
    others = [prepare(clouds[4], "x", RECIPE, 2, 4), prepare(clouds[5], "x", RECIPE, 3, 5)]
    assert all(len(once) != len(other) or (once.points != other.points).any() for other in others)
    assert len(prepare(clouds[5], "x", RECIPE)) == 300  # scoring sees all of it
    still = prepare(clouds[5], "x", RECIPE.still, 0, 5)
    assert len(still) < 300
    np.testing.assert_allclose(  # a crop, and nothing else happened to it
        still.points + still.origin,
        clouds[5].points[
            [int(np.flatnonzero((np.abs(clouds[5].points - p) < 1e-5).all(1))[0]) for p in still.points + still.origin]
        ],
        atol=1e-5,
    )


def test_batches_mix_scenes_the_same_for_any_number_of_workers() -> None:
    clouds, plan = Repeated(stored(), 3), [np.arange(6), np.arange(6, 12)]
    alone, helped = (list(batches(clouds, plan, RECIPE, 1, workers)) for workers in (0, 2))
    for one, other in zip(alone, helped, strict=True):
        assert (one.voxels.features == other.voxels.features).all()  # type: ignore[union-attr]
    mixing = [RECIPE.partner(1, index, 12) for index in range(12)]
    assert 2 < sum(each is not None for each in mixing) < 10
    plain = list(batches(clouds, plan, replace(RECIPE, scene_changes=SceneChanges(flip=0.5)), 1))
    more = [len(a.voxels.sites) - len(b.voxels.sites) for a, b in zip(alone, plain, strict=True)]  # type: ignore[union-attr]
    assert min(more) > 0
