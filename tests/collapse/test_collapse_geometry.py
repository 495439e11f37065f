"""Gram matrices of class means, and the plane in which features are drawn."""

from __future__ import annotations

import math

import pytest
import torch

from image2point.collapse import (
    Plane,
    Statistics,
    StatisticsError,
    axis_cosines,
    centred_cosines,
    decision_axes,
    metrics,
    simplex_cosines,
)


def test_a_simplex_frame_has_the_cosines_of_one() -> None:
    """Wherever it lies, however long it is, and turned in any way."""
    turn = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    frame = 7 * torch.eye(5, 9, dtype=torch.float64) @ turn + 30
    torch.testing.assert_close(centred_cosines(frame), simplex_cosines(5), atol=1e-12, rtol=0)
    torch.testing.assert_close(simplex_cosines(5)[0], torch.tensor([1.0, *[-0.25] * 4], dtype=torch.float64))
    torch.testing.assert_close(centred_cosines(frame, 3 - 0.1 * frame), -simplex_cosines(5), atol=1e-12, rtol=0)


def test_the_matrix_says_what_equiangle_says() -> None:
    generator = torch.Generator().manual_seed(1)
    features, labels = torch.randn(60, 8, generator=generator), torch.arange(60) % 6
    S = Statistics(6, 8).update(features, labels)
    cosines = centred_cosines(S.means)
    off = ~torch.eye(6, dtype=torch.bool)
    expected = metrics(S, ask="nc2_equiangle")["nc2_equiangle"]
    assert float((cosines + 1 / 5)[off].abs().mean()) == pytest.approx(expected, rel=1e-12)


def test_a_class_without_samples_is_left_out() -> None:
    rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    with_absent = torch.cat([rows[:2], torch.full((1, 6), torch.nan), rows[2:]])
    cosines = centred_cosines(with_absent, with_absent.nan_to_num(5.0))  # a classifier has a row for it
    kept = torch.tensor([0, 1, 3, 4])
    torch.testing.assert_close(cosines[kept[:, None], kept], centred_cosines(rows))
    assert cosines[2].isnan().all() and cosines[:, 2].isnan().all()
    torch.testing.assert_close(Plane.of_means(with_absent).axes, Plane.of_means(rows).axes)


def test_the_plane_is_the_one_that_holds_the_most() -> None:
    """Means that lie in a plane keep their distances; the shares are those of the covariance's eigenvalues."""
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(7, 2, dtype=torch.float64, generator=generator))[0]
    flat = torch.randn(6, 2, dtype=torch.float64, generator=generator) @ basis.mT + 100
    seen = Plane.of_means(flat).project(flat)
    torch.testing.assert_close(torch.cdist(seen, seen), torch.cdist(flat, flat), atol=1e-10, rtol=0)
    means = torch.randn(6, 7, dtype=torch.float64, generator=generator)
    plane = Plane.of_means(means)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(means.mT, correction=0)).flip(0)
    torch.testing.assert_close(plane.shares, eigenvalues[:2] / eigenvalues.sum())
    torch.testing.assert_close(plane.axes @ plane.axes.mT, torch.eye(2, dtype=torch.float64))
    assert (plane.axes.gather(1, plane.axes.abs().argmax(1, keepdim=True)) > 0).all()
    torch.testing.assert_close(plane.project(means.half()), plane.project(means), atol=0.01, rtol=0)


def test_two_classes_span_a_line() -> None:
    plane = Plane.of_means(torch.tensor([[0.0, 0.0, 0.0], [0.0, -2.0, 0.0]]))
    assert plane.shares.tolist() == [1.0, 0.0]
    assert plane.project(torch.tensor([[5.0, 1.0, 7.0]])).tolist() == [[2.0, 0.0]]


def test_one_class_has_no_geometry() -> None:
    for ask in (lambda: simplex_cosines(1), lambda: Plane.of_means(torch.ones(1, 3))):
        with pytest.raises(StatisticsError, match="at least 2 classes"):
            ask()
    with pytest.raises(StatisticsError, match=r"expected two matrices \[C, d\]"):
        centred_cosines(torch.ones(3, 2), torch.ones(3, 4))


def test_axes_of_independent_factors_are_orthogonal() -> None:
    """Four classes at the corners of a rectangle, labelled by either side: two tasks, each with its own axis."""
    corners = torch.tensor([[0.0, 0.0, 7.0], [4.0, 0.0, 7.0], [0.0, 1.0, 7.0], [4.0, 1.0, 7.0]])
    by_side = torch.stack([corners[[0, 2]].mean(0), corners[[1, 3]].mean(0)])
    by_end = torch.stack([corners[[0, 1]].mean(0), corners[[2, 3]].mean(0)])
    assert axis_cosines(by_side, by_end).tolist() == [[0.0]]
    assert axis_cosines(by_side, by_side).tolist() == [[1.0]]
    found = axis_cosines(corners, by_side)
    assert found.shape == (6, 1) and found[0, 0] == 1.0 and found[2, 0] == pytest.approx(4 / math.sqrt(17))
    absent = torch.cat([corners[:2], torch.full((1, 3), math.nan), corners[2:]])
    assert torch.equal(decision_axes(absent), decision_axes(corners))
    with pytest.raises(StatisticsError, match="at least 2 classes with samples, found 1"):
        decision_axes(corners[:1])
    with pytest.raises(StatisticsError, match="of one width"):
        axis_cosines(corners, corners[:, :2])
