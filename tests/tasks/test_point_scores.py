"""The scores of segmentation against their definitions, written out point by point."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from image2point.errors import InputError
from image2point.tasks.confusion import Confusion
from image2point.tasks.part_scores import part_means, part_predictions, shape_iou
from image2point.tasks.point_labels import majority, sampled

CLASSES = 6


def made(seed: int, size: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Labels 0..3 and ignored ones; predictions 0..4, often right. Class 4 is predicted alone, 5 is in neither."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 4, size)
    return labels, np.where(rng.random(size) < 0.6, np.maximum(labels, 0), rng.integers(0, 5, size))


def test_scores_are_those_of_their_definitions() -> None:
    labels, predictions = made(0)
    seen = Confusion.of(labels, predictions, CLASSES)
    pairs = [(t, p) for t, p in zip(labels.tolist(), predictions.tolist(), strict=True) if t != -1]
    ious, recalls = [], []
    for c in range(CLASSES):
        both = sum(t == c and p == c for t, p in pairs)
        either = sum(t == c or p == c for t, p in pairs)
        true = sum(t == c for t, p in pairs)
        ious.append(both / either if either else None)
        recalls.append(both / true if true else None)
    assert seen.iou == tuple(ious) and seen.recall == tuple(recalls)
    assert ious[4] == 0 and ious[5] is None and recalls[4] is None
    assert seen.miou == pytest.approx(np.mean(ious[:5])) and seen.miou_all == pytest.approx(np.sum(ious[:5]) / 6)
    assert seen.mean_accuracy == pytest.approx(np.mean(recalls[:4]))
    assert seen.accuracy == pytest.approx(np.mean([t == p for t, p in pairs]))
    assert (seen.total, seen.ignored) == (len(pairs), len(labels) - len(pairs))


def test_an_ignored_point_counts_for_nothing_whatever_is_predicted() -> None:
    labels, predictions = made(1)
    other = np.where(labels == -1, 4, predictions)
    first, second = (Confusion.of(labels, each, CLASSES) for each in (predictions, other))
    assert (first.counts == second.counts).all()


def test_parts_of_a_set_add_up_to_the_whole() -> None:
    labels, predictions = made(2)
    parts = [Confusion.of(labels[rows], predictions[rows], CLASSES) for rows in np.array_split(np.arange(400), 7)]
    whole = Confusion.of(labels, predictions, CLASSES)
    joined = sum(parts[1:], parts[0])
    assert (joined.counts == whole.counts).all() and joined.ignored == whole.ignored
    assert joined.miou == whole.miou != pytest.approx(np.mean([part.miou for part in parts]))  # no mean over scenes


def test_nothing_to_score_is_undefined() -> None:
    seen = Confusion.of(np.full(3, -1), np.zeros(3, int), CLASSES)
    assert (seen.miou, seen.miou_all, seen.accuracy, seen.mean_accuracy) == (None, None, None, None)


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 1], [0], r"a prediction for each label, found labels \[2\] and predictions \[1\]"),
        ([0, 6], [0, 0], r"labels in 0..5, found 0 to 6"),
        ([0, -2], [0, 0], r"labels in 0..5, found -2 to 0"),
        ([0, 1], [0, -1], r"predictions in 0..5, found -1 to 0"),
    ],
)
def test_what_is_no_class_is_refused(labels: list[int], predictions: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Confusion.of(np.array(labels), np.array(predictions), CLASSES)


def brute_force_shape(labels: list[int], scores: np.ndarray, parts: list[int]) -> float:
    """The rule of ShapeNetPart, point by point."""
    said = [max(parts, key=lambda part: scores[point][part]) for point in range(len(labels))]
    ious = []
    for part in parts:
        union = [t == part or p == part for t, p in zip(labels, said, strict=True)]
        hits = [t == part and p == part for t, p in zip(labels, said, strict=True)]
        ious.append(1.0 if not any(union) else sum(hits) / sum(union))
    return sum(ious) / len(ious)


def test_shapenet_part_is_scored_by_its_own_rule() -> None:
    rng = np.random.default_rng(3)
    parts_of = [[0, 1, 2, 3], [4, 5], [6, 7, 8]]
    categories, found, expected = [], [], []
    for _ in range(40):
        category = int(rng.integers(3))
        parts = parts_of[category]
        there = rng.choice(parts, size=int(rng.integers(1, len(parts) + 1)), replace=False)
        labels, scores = rng.choice(there, 30), rng.normal(size=(30, 9))
        scores[np.arange(30), labels] += 1.5
        categories.append(category)
        found.append(shape_iou(labels, part_predictions(scores, parts), parts))
        expected.append(brute_force_shape(labels.tolist(), scores, parts))
    assert found == pytest.approx(expected)
    means = [np.mean([e for e, c in zip(expected, categories, strict=True) if c == k]) for k in range(3)]
    assert part_means(found, categories) == pytest.approx((np.mean(expected), np.mean(means)))
    assert np.mean(expected) != pytest.approx(np.mean(means))


def test_a_part_in_neither_truth_nor_prediction_counts_as_one() -> None:
    assert shape_iou(np.array([4, 4]), np.array([4, 4]), [4, 5, 6]) == 1.0
    assert shape_iou(np.array([4, 4]), np.array([4, 5]), [4, 5, 6]) == pytest.approx((0.5 + 0 + 1) / 3)
    assert shape_iou(np.full(2, -1), np.array([4, 5]), [4, 5]) is None and part_means([None], [0]) == (None, None)


def test_majority_against_counting() -> None:
    rng = np.random.default_rng(4)
    labels, index = rng.integers(-1, 3, 500), rng.integers(0, 120, 500)
    expected = []
    for voxel in range(120):
        votes = np.bincount(labels[(index == voxel) & (labels >= 0)], minlength=3)
        expected.append(int(votes.argmax()) if votes.any() else -1)  # argmax: the lowest of equal ones
    assert majority(torch.tensor(labels), torch.tensor(index), 120, 3).tolist() == expected
    assert -1 in expected


def test_the_sample_of_a_scene_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(5)
    labels = torch.tensor(rng.integers(-1, 3, 300))
    scenes = torch.tensor([0] * 100 + [1] * 200)
    rows = sampled(labels, scenes, torch.tensor([8, 3]), 3, 10)
    alone = sampled(labels[100:], scenes[100:] - 1, torch.tensor([3]), 3, 10)
    assert rows[rows >= 100].tolist() == (alone + 100).tolist()
    assert torch.bincount(scenes[rows] * 3 + labels[rows]).tolist() == [10] * 6
    assert len(sampled(labels, scenes, torch.tensor([8, 3]), 3, 1000)) == int((labels >= 0).sum())
