"""Classes of unequal size: each class's NC1, and the geometry that counts imply, against the model behind it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from image2point.collapse import (
    Statistics,
    StatisticsError,
    class_nc1,
    closest_means,
    imbalanced_nc2,
    implied_lengths,
    metrics,
    minority,
    simplex_cosines,
)


def turn(dim: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=generator))[0]


def noisy(means: Tensor, each: list[int], spread: list[float], seed: int = 1) -> Statistics:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(means)), torch.tensor(each))
    noise = torch.randn(len(labels), means.shape[1], dtype=torch.float64, generator=generator)
    return Statistics(len(means), means.shape[1], "class").update(
        means[labels] + torch.tensor(spread, dtype=torch.float64)[labels, None] * noise, labels
    )


def test_the_nc1_of_classes_is_what_nc1_is_made_of() -> None:
    S = noisy(torch.randn(4, 6, dtype=torch.float64), [40, 7, 200, 12], [0.1, 0.5, 1.0, 2.0])
    each = class_nc1(S)
    mean = float((each * S.count).sum() / S.count.sum())
    assert mean == pytest.approx(metrics(S, ask="nc1")["nc1"], rel=1e-12)
    by_hand = torch.linalg.pinv(torch.cov(S.mean.mT, correction=0), hermitian=True, rtol=1e-12)
    assert S.scatter is not None
    for c in range(4):
        assert float(each[c]) == pytest.approx(float(torch.trace(S.scatter[c] / S.count[c] @ by_hand)) / 4, rel=1e-9)


def test_the_nc1_of_an_exact_frame_is_known() -> None:
    """Simplex means of length a and noise σ: σ²(C−1)²/(C a²) for each class, in proportion to its own σ²."""
    frame = torch.eye(10, 64, dtype=torch.float64) - 0.1 * torch.ones(10, 1) * (torch.arange(64) < 10)
    frame = 3 * frame / frame.norm(dim=1, keepdim=True)
    S = Statistics(10, 64, "class")
    for c in range(10):  # noise of exactly covariance σ²I
        sigma = 0.5 if c < 9 else 1.0
        offsets = sigma * math.sqrt(64) * torch.cat([torch.eye(64), -torch.eye(64)]).double()
        S.update(frame[c] + offsets, torch.full((128,), c))
    torch.testing.assert_close(class_nc1(S), torch.tensor([0.225] * 9 + [0.9], dtype=torch.float64))


def test_classes_of_few_samples_are_undefined() -> None:
    S = Statistics(5, 2, "class").update([[0.0, 0], [1, 0], [5, 0], [6, 0], [9, 9]], [0, 0, 1, 1, 3])
    found = class_nc1(S)
    assert found.isnan().tolist() == [False, False, True, True, True]
    with pytest.raises(StatisticsError, match=r'needs Statistics.*covariance="class"'):
        class_nc1(Statistics(2, 2))
    with pytest.raises(StatisticsError, match="at least 2 classes, found 1"):
        class_nc1(Statistics(2, 1, "class").update([[0.0], [1.0], [3.0]], [0, 0, 1]))
    same = Statistics(2, 1, "class").update([[0.0], [2.0], [0.0], [2.0]], [0, 0, 1, 1])
    assert class_nc1(same).isnan().all()


def minimised(counts: list[int], decay: tuple[float, float]) -> Tensor:
    """Class means [C, 5] that minimise the model of `implied_lengths`, by descent; samples of a class share one."""
    count = torch.tensor(counts).double()
    generator = torch.Generator().manual_seed(2)
    h = torch.rand(len(counts), 5, dtype=torch.float64, generator=generator).requires_grad_()
    w = torch.randn(len(counts), 5, dtype=torch.float64, generator=generator).requires_grad_()
    descent = torch.optim.LBFGS([h, w], max_iter=400, max_eval=1000, line_search_fn="strong_wolfe", tolerance_change=0)

    def loss() -> Tensor:
        descent.zero_grad()
        positive = h.clamp(min=0)
        entropy = torch.nn.functional.cross_entropy(positive @ w.T, torch.arange(len(counts)), reduction="none")
        shrink = decay[0] * w.square().sum() + decay[1] * (count * positive.square().sum(1)).sum()
        value = (count * entropy).sum() / count.sum() + shrink / 2
        value.backward()
        return value

    descent.step(loss)
    return h.detach().clamp(min=0)


def test_counts_imply_what_the_model_ends_in() -> None:
    counts, decay = [80, 20, 10], (2e-3, 2e-4)
    means = minimised(counts, decay)
    lengths = means.norm(dim=1)
    torch.testing.assert_close(lengths / lengths.max(), implied_lengths(counts, decay[0] * decay[1]), rtol=1e-3, atol=0)
    S = Statistics(3, 5).update(means, [0, 1, 2])
    found = imbalanced_nc2(S, counts, decay[0] * decay[1])
    assert found["nc2_orthogonal"] < 2e-3 and found["nc2_orthogonal_equiangle"] < 1e-3
    assert found["nc2_etf"] > 0.1  # it is no simplex frame
    assert imbalanced_nc2(S, counts)["nc2_orthogonal"] > 0.05  # nor what no decay implies


def test_the_smallest_classes_shrink_to_nothing_at_the_threshold() -> None:
    counts = [1000, 100, 20]
    threshold = 20 * 2 / 3 / 1120**2  # n = N² λ_W λ_H C/(C−1)
    assert implied_lengths(counts, threshold * 0.99)[2] > 0
    assert implied_lengths(counts, threshold * 1.01).tolist()[2] == 0
    with pytest.raises(StatisticsError, match="no class is left"):
        implied_lengths(counts, threshold * 100)


def test_without_decay_lengths_are_a_power_of_the_counts() -> None:
    found = implied_lengths([10_000, 0, 16, 1])
    assert found[1].isnan() and found[[0, 2, 3]].tolist() == pytest.approx([0.1, 0.5, 1.0])
    small = implied_lengths([10_000, 0, 16, 1], 1e-200)
    torch.testing.assert_close(small, found, rtol=0.02, atol=0, equal_nan=True)
    assert implied_lengths([7, 7, 7]).tolist() == implied_lengths([7, 7, 7], 1e-4).tolist() == [1.0, 1.0, 1.0]


def test_balanced_orthogonal_means_are_both_geometries() -> None:
    """Orthogonal means of one length, centred, are a simplex frame; moved, they are one still, and not orthogonal."""
    means = 3 * torch.eye(4, 6, dtype=torch.float64) @ turn(6)
    found = imbalanced_nc2(Statistics(4, 6).update(means, range(4)), [50] * 4)
    assert {name: round(value, 9) for name, value in found.items() if name != "minority_cosine"} == dict.fromkeys(
        ("nc2_orthogonal", "nc2_orthogonal_equiangle", "nc2_etf", "nc2_equiangle"), 0.0
    )
    assert math.isnan(found["minority_cosine"])  # no class is smaller than the average
    moved = imbalanced_nc2(Statistics(4, 6).update(means + 5, range(4)), [50] * 4)
    assert moved["nc2_etf"] < 1e-9 < 0.5 < moved["nc2_orthogonal"]


def test_classes_that_merge_are_named() -> None:
    means = torch.eye(5, 8, dtype=torch.float64) @ turn(8)
    means[3] = means[1] + 0.01 * means[3]
    value, *pair = closest_means(means)
    assert pair == [1, 3] and value > 0.999
    assert closest_means(means, among=[0, 2, 3])[1:] in ((0, 2), (0, 3), (2, 3))
    assert math.isnan(closest_means(means, among=[2])[0]) and closest_means(means, among=[2])[1:] == (-1, -1)
    absent = torch.cat([means[:2], torch.full((1, 8), torch.nan), means[3:]])
    assert closest_means(absent)[1:] == (1, 3)
    frame = torch.eye(5, dtype=torch.float64)
    assert closest_means(frame)[0] == pytest.approx(float(simplex_cosines(5)[0, 1]))
    S = Statistics(5, 8).update(means, range(5))
    assert imbalanced_nc2(S, [900, 10, 500, 20, 800])["minority_cosine"] == pytest.approx(value)
    assert minority([900, 10, 500, 20, 800]).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda S: imbalanced_nc2(S, [1, 2]), r"counts: expected \[3\]"),
        (lambda S: imbalanced_nc2(S, [1, 2, 0]), "above 0 for every class with samples"),
        (lambda S: implied_lengths([5]), "samples of each class, of 2 classes or more"),
        (lambda S: implied_lengths([5, -1, 3]), "samples of each class"),
        (lambda S: implied_lengths([5, 3], -1.0), "decay: expected"),
        (lambda S: implied_lengths([5, 3], math.nan), "decay: expected"),
    ],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        call(Statistics(3, 2).update([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]], [0, 1, 2]))


def test_classes_among_which_are_indices_or_a_mask() -> None:
    means = torch.tensor([[4.0, 0.0], [0.0, 1.0], [0.0, 1.1], [1.0, 1.0]])
    mask = torch.tensor([True, False, True, True])
    assert closest_means(means, mask) == closest_means(means, [0, 2, 3]) != closest_means(means)
    assert closest_means(means, [])[1:] == (-1, -1)
    for wrong in ([4], [-1], [0.5], [True, False], [[0, 1]]):
        with pytest.raises(StatisticsError, match=r"among: expected indices of classes, 0\.\.3, or a mask \[4\]"):
            closest_means(means, wrong)
    with pytest.raises(StatisticsError, match=r"means: expected \[C, d\] of 1 class or more, found \[0, 2\]"):
        closest_means(means[:0])
