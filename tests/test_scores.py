"""Scores of a set against the formulas, with a class that is missing and classes of unequal size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_runs import ClassOutputs, scores

LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 3])
LOGITS = torch.tensor(
    [[4, 1, 0, 0], [3, 1, 0, 0], [2, 0, 1, 0], [0, 1, 0, 0], [0, 5, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]],
    dtype=torch.float64,
)


def test_scores_by_hand() -> None:
    found = scores(ClassOutputs(torch.zeros(7, 2), LABELS, LOGITS, LABELS))
    shares = np.exp(LOGITS.numpy()) / np.exp(LOGITS.numpy()).sum(1, keepdims=True)
    assert found.loss == pytest.approx(-np.log(shares[np.arange(7), LABELS.numpy()]).mean())
    assert found.accuracy == pytest.approx(4 / 7)
    assert found.per_class == (0.75, 0.5, None, 0.0)
    assert found.mean_class_accuracy == pytest.approx((0.75 + 0.5 + 0) / 3)


def test_a_process_has_the_logits_of_its_own_share() -> None:
    second = ClassOutputs(torch.zeros(3, 2), LABELS[4:], LOGITS, LABELS, 4)
    assert torch.equal(second.own_logits, LOGITS[4:])
