"""Few-shot subsets and validation parts: sizes, disjointness, dependence on the seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image2point.datasets.cloud import IGNORED, Cloud
from image2point.datasets.splits import CloudSet, StoredClouds, Subset, few_shot, hold_out, make_splits
from image2point.errors import InputError


def clouds(labels: np.ndarray, classes: int) -> StoredClouds:
    points = np.arange(len(labels), dtype=np.float32).repeat(3).reshape(-1, 1, 3)
    return StoredClouds("made", tuple(f"class{index}" for index in range(classes)), points, labels)


# Labels 0..k-1, each at least 6 times, in any order.
label_arrays = st.tuples(st.lists(st.integers(6, 15), min_size=1, max_size=6), st.integers(0, 99)).map(
    lambda drawn: np.random.default_rng(drawn[1]).permutation(np.repeat(np.arange(len(drawn[0])), drawn[0]))
)


@settings(deadline=None)
@given(label_arrays, st.integers(1, 6), st.integers(0, 1000))
def test_few_shot_takes_so_many_of_each(labels: np.ndarray, shots: int, seed: int) -> None:
    indices = few_shot(labels, shots, seed)
    assert (np.diff(indices) > 0).all()
    np.testing.assert_array_equal(np.bincount(labels[indices]), shots)
    np.testing.assert_array_equal(indices, few_shot(labels, shots, seed))
    assert set(few_shot(labels, 1, seed)) <= set(indices)


def test_few_shot_depends_on_the_seed() -> None:
    labels = np.arange(400) % 4
    assert not np.array_equal(few_shot(labels, 5, 0), few_shot(labels, 5, 1))


def test_few_shot_does_not_depend_on_other_classes() -> None:
    labels = np.arange(400) % 4
    without = np.where(labels == 3, 0, labels)
    one, other = few_shot(labels, 5, 0), few_shot(without, 5, 0)
    np.testing.assert_array_equal(one[labels[one] == 2], other[without[other] == 2])


def test_few_shot_names_the_class_that_is_short() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 2])
    with pytest.raises(InputError, match=r"2 shots asked for, but the class 'cup' \(label 2\) has only 1"):
        few_shot(labels, 2, 0, ["bed", "car", "cup"])
    with pytest.raises(InputError, match=r"'door' \(label 3\) has only 0"):
        few_shot(labels, 1, 0, ["bed", "car", "cup", "door"])
    with pytest.raises(InputError, match="at least 1"):
        few_shot(labels, 0, 0)


@settings(deadline=None)
@given(label_arrays, st.floats(0, 0.99), st.integers(0, 1000))
def test_hold_out_is_stratified_and_loses_nothing(labels: np.ndarray, fraction: float, seed: int) -> None:
    kept, held = hold_out(labels, fraction, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(len(labels)))
    total = np.bincount(labels)
    share = np.bincount(labels[held], minlength=len(total))
    assert (np.abs(share - fraction * total) <= 1).all() and (share < total).all()


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_hold_out_refuses_other_fractions(fraction: float) -> None:
    with pytest.raises(InputError, match="must be in"):
        hold_out(np.zeros(4, int), fraction, 0)


def test_split_with_shots() -> None:
    labels = np.arange(60) % 3
    train, test = clouds(labels, 3), clouds(labels[:9], 3)
    parts = make_splits(train, test, shots=10, validation=0.2, seed=1)
    assert parts.validation is not None and parts.test is test
    np.testing.assert_array_equal(np.bincount(parts.train.labels), 8)
    np.testing.assert_array_equal(np.bincount(parts.validation.labels), 2)
    chosen = {part[index].points[0, 0] for part in (parts.train, parts.validation) for index in range(len(part))}
    assert chosen == set(few_shot(labels, 10, 1))


class Scenes:
    """Scenes whose points have the given classes; it counts what is read."""

    name, classes, of_points = "made", ("ground", "house", "tree"), True

    def __init__(self, found: list[tuple[int, ...]]) -> None:
        self.found, self.labels, self.read = found, np.zeros(len(found), np.int64), set()

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: int) -> Cloud:
        self.read.add(index)
        return Cloud(np.zeros((len(self.found[index]), 3), np.float32), labels=np.array(self.found[index]))


scene_classes = st.sets(st.sampled_from([IGNORED, 0, 1, 2]), min_size=1).map(sorted).map(tuple)


@settings(deadline=None)
@given(st.lists(scene_classes, min_size=2, max_size=12), st.floats(0.1, 0.6), st.integers(0, 50))
def test_held_out_scenes_have_every_class_that_training_can_spare(found: list, fraction: float, seed: int) -> None:
    whole = Scenes(found)
    parts = make_splits(whole, whole, validation=fraction, seed=seed)
    kept, held = hold_out(whole.labels, fraction, seed)
    if not len(held):
        assert parts.validation is None
        return

    def classes(rows: np.ndarray) -> set[int]:
        return {label for row in rows for label in found[row]} - {IGNORED}

    train, validation = parts.train.indices, parts.validation.indices
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(found)))
    assert len(validation) == len(held) and classes(held) <= classes(validation)
    assert classes(kept) & classes(validation) <= classes(train)
    if classes(held) == {0, 1, 2}:
        np.testing.assert_array_equal(validation, held)
        assert whole.read == set(held.tolist())
    missing = {0, 1, 2} - classes(validation)
    for row in train:  # a scene that has what is missing would take a class from train or from validation
        if missing & set(found[row]):
            alone = any(one not in classes(np.setdiff1d(train, row)) for one in set(found[row]) - {IGNORED})
            blocked = all(
                set(found[old]) - set(found[row]) - classes(np.setdiff1d(validation, old)) - {IGNORED}
                for old in validation
            )
            assert alone or blocked


def test_a_class_that_the_draw_misses_is_exchanged_for() -> None:
    found = [(0,)] * 12 + [(0, 1), (0, 1), (0, 2), (0, 2)]
    for seed in range(20):
        whole = Scenes(found)
        parts = make_splits(whole, whole, validation=0.25, seed=seed)
        seen = {label for row in parts.validation.indices for label in found[row]}
        assert seen == {0, 1, 2} and len(parts.validation) == 4


def test_split_without_room_for_validation() -> None:
    train = clouds(np.arange(60) % 3, 3)
    assert make_splits(train, train, shots=1, validation=0.4).validation is None
    assert make_splits(train, train).validation is None
    assert len(make_splits(train, train).train) == 60


def test_subset_keeps_order_and_labels() -> None:
    whole = clouds(np.arange(12) % 3, 3)
    part: CloudSet = Subset(whole, np.array([7, 2, 5]))
    assert len(part) == 3 and part.classes == whole.classes
    np.testing.assert_array_equal([part[index].points[0, 0] for index in range(3)], [7, 2, 5])
    np.testing.assert_array_equal(part.labels, [1, 2, 2])
