"""Samples in groups: as many of each class and scene, and intervals over scenes."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import pytest
import torch

from image2point.collapse import Statistics, StatisticsError, bootstrap, draw_rows, merge_repeated, metrics


def scenes(number: int = 6, covariance: str = "class", classes: int = 3) -> list[Statistics]:
    parts = []
    for scene in range(number):
        generator = torch.Generator().manual_seed(scene)
        labels = torch.randint(classes, (25 + scene,), generator=generator)
        features = torch.randn(len(labels), 4, dtype=torch.float64, generator=generator) + 100 + labels[:, None] + scene
        parts.append(Statistics(classes, 4, covariance).update(features, labels))
    return parts


@pytest.mark.parametrize("covariance", ["none", "pooled", "class"])
def test_one_step_gives_what_merging_one_by_one_gives(covariance: str) -> None:
    parts, times = scenes(covariance=covariance), [2, 0, 1, 3, 0, 1]
    expected = reduce(Statistics.merge, [part for part, often in zip(parts, times, strict=True) for _ in range(often)])
    found = merge_repeated(parts, times)
    for name, tensor in expected.state().items():
        torch.testing.assert_close(found.state()[name], tensor, rtol=1e-10, atol=1e-9)
    assert found.count.dtype == torch.int64 and metrics(found).keys() == metrics(expected).keys()


def test_a_class_that_no_drawn_part_has_is_absent() -> None:
    parts = [Statistics(2, 1).update([[1.0]], [0]), Statistics(2, 1).update([[5.0]], [1])]
    found = merge_repeated(parts, [2, 0])
    assert found.count.tolist() == [2, 0] and found.absent.tolist() == [1] and found.squares.tolist() == [0.0, 0.0]


def test_the_error_of_a_mean_is_that_of_the_scenes() -> None:
    """Of G scenes of one size, the mean has the error s/√G of the scenes' means, however many samples are in them."""
    rng = np.random.default_rng(0)
    middle = rng.normal(size=30)
    parts = [Statistics(1, 1).update((m + rng.normal(size=(500, 1)) * 0.01), [0] * 500) for m in middle]
    found = bootstrap(parts, lambda S: {"mean": float(S.mean)}, draws=1500)["mean"]
    expected = float(np.std([float(part.mean) for part in parts], ddof=1)) / math.sqrt(30)
    assert found.error == pytest.approx(expected, rel=0.07) and found.over == "scenes"
    assert (found.high - found.value) / found.error == pytest.approx(2.045, rel=1e-3)  # Student, 29 degrees of freedom
    assert found.low == pytest.approx(2 * found.value - found.high)


def test_a_seed_gives_the_same_interval() -> None:
    parts = scenes()
    first, again, other = (bootstrap(parts, metrics, draws=30, seed=seed)["nc1"] for seed in (1, 1, 2))
    assert first == again and first.error != other.error


def test_what_is_undefined_or_does_not_move_has_no_interval() -> None:
    def compute(S: Statistics) -> dict[str, float]:
        return {"same": 1.0, "sometimes": math.nan if S.count[0] > 40 else 1.0 + float(S.count[0]), "never": math.nan}

    for interval in bootstrap(scenes(), compute, draws=100).values():
        assert math.isnan(interval.error) and math.isnan(interval.low) and math.isnan(interval.high)


def test_every_draw_has_every_class() -> None:
    """Class 1 is in three of eight scenes, so one draw in forty-three would be without it."""
    parts = []
    for g in range(8):
        size = 4 if g < 3 else 2
        parts.append(Statistics(2, 1).update([[float(g)], [1.0], [9.0], [8.0 - g]][:size], [0, 0, 1, 1][:size]))
    seen: list[list[int]] = []

    def compute(S: Statistics) -> dict[str, float]:
        seen.append(S.count.tolist())
        return metrics(S, ask="cdnv")

    bootstrap(parts, compute, draws=300)
    assert len(seen) == 301 and min(count[1] for count in seen) >= 2
    alone = [*parts[:1], *parts[3:]]
    with pytest.raises(StatisticsError, match="class 1 occurs in one of 6 groups alone"):
        bootstrap(alone, metrics)


def test_classes_too_rare_for_any_draw_are_named() -> None:
    parts = []
    for group in range(40):
        labels = [group // 2, group // 2, 20]
        parts.append(Statistics(21, 1).update([[0.0], [1.0], [2.0]], labels))
    with pytest.raises(StatisticsError, match="have two samples of every class"):
        bootstrap(parts, metrics, draws=5)


def test_as_many_rows_of_each_class_and_scene() -> None:
    rng = np.random.default_rng(3)
    labels, groups = rng.choice([-1, 0, 1, 2], p=[0.1, 0.8, 0.08, 0.02], size=3000), rng.integers(4, size=3000)
    rows = draw_rows(labels, groups, each=20, seed=5)
    assert torch.equal(rows, rows.unique())
    for group in range(4):
        for label in range(3):
            there = int(((labels == label) & (groups == group)).sum())
            assert int(((labels[rows] == label) & (groups[rows] == group)).sum()) == min(20, there)
    assert not (labels[rows] == -1).any()
    assert not torch.equal(rows, draw_rows(labels, groups, each=20, seed=6))
    first = np.flatnonzero((labels == 0) & (groups == 0))
    assert set(rows.tolist()) & set(first.tolist()) != set(first[:20].tolist())  # not merely the first


def test_a_scene_gives_the_same_rows_alone_and_beside_others() -> None:
    labels, groups = torch.arange(630) % 3, torch.arange(630) // 210
    together = draw_rows(labels, groups, each=7, seed=2)
    for scene in range(3):
        alone = draw_rows(labels[groups == scene], scene, each=7, seed=2)
        assert torch.equal(alone + 210 * scene, together[groups[together] == scene])
    assert not torch.equal(together[:21] + 210, together[21:42])  # scenes are not drawn alike


def test_what_does_not_fit_is_named() -> None:
    parts = scenes()
    for call, message in (
        (lambda: merge_repeated(parts, [1, 2]), "times: expected 6 whole numbers"),
        (lambda: merge_repeated(parts, [1, 1, 1, 1, 1, -1]), "times: expected 6 whole numbers"),
        (lambda: merge_repeated([*parts, Statistics(4, 4)], [1] * 7), "of one kind"),
        (lambda: merge_repeated([], []), "one part or more"),
        (lambda: merge_repeated([Statistics(2, 2, "class", moments=4)], [1]), "with moments=2"),
        (lambda: bootstrap(parts[:1], metrics), "found 1 groups"),
        (lambda: draw_rows([0, 1], [0], 0), "1 row or more"),
        (lambda: draw_rows([0, 1], [0, 1, 2], 1), r"labels and groups: expected integers \[n\]"),
        (lambda: draw_rows([0.5, 1], [0, 1], 1), r"labels and groups: expected integers \[n\]"),
        (lambda: draw_rows([0, 1], [0, -1], 1), "groups from 0 on"),
    ):
        with pytest.raises(StatisticsError, match=message):
            call()
    assert draw_rows([-1, -1], 0, 5).tolist() == []
