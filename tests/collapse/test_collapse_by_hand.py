"""Numbers that can be worked out in another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from image2point.collapse import linear_probe, mean_interval


def test_the_interval_of_a_mean() -> None:
    found = mean_interval([1.0, 2.0, 6.0])
    error = np.std([1, 2, 6], ddof=1) / np.sqrt(3)
    assert (found.value, found.error) == (3.0, pytest.approx(error))
    assert found.high - 3 == 3 - found.low == pytest.approx(4.302653 * error, rel=1e-6)  # Student's t, 2 degrees


@pytest.mark.parametrize("width", [2, 12])
def test_ridge_of_unequal_classes_has_a_free_bias(width: int) -> None:
    """Against the normal equations with a bias that is not penalised; on both sides of n = d."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(8, width)), np.array([0, 0, 0, 0, 0, 0, 1, 2])
    queries = 2 * rng.normal(size=(300, width))
    wide, targets = np.c_[x, np.ones(8)], np.eye(3)[labels]
    penalty = np.diag([2.0] * width + [0.0])
    solved = np.linalg.solve(wide.T @ wide + penalty, wide.T @ targets)
    wanted = (np.c_[queries, np.ones(300)] @ solved).argmax(1)
    assert len(set(wanted.tolist())) > 1 and (wanted == 0).mean() > 0.5  # the bias decides
    tensors = (torch.as_tensor(each) for each in (x, labels, queries, wanted))
    assert linear_probe(*tensors, classifier="ridge", penalty=2.0) == 1.0
