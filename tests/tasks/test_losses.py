"""Losses of segmentation against what they are defined to be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from image2point.tasks.losses import class_weights, cross_entropy, lovasz_softmax


def test_weights_have_a_mean_of_one_over_the_points() -> None:
    counts = np.array([1000, 10, 1, 0])
    for kind in ("inverse_sqrt", "effective_number"):
        weights = class_weights(counts, kind)  # type: ignore[arg-type]
        assert weights is not None and weights @ counts / counts.sum() == pytest.approx(1)
        assert weights[3] == 0 and weights[0] < weights[1] < weights[2]
    assert class_weights(counts, "none") is None


def test_weights_by_their_definitions() -> None:
    counts = np.array([1_000_000, 400, 100])
    inverse = class_weights(counts, "inverse_sqrt")
    assert inverse is not None and inverse[2] / inverse[1] == pytest.approx(2)
    effective = class_weights(counts, "effective_number")
    beta = 1 - 1 / 400
    expected = (1 - beta**100) / (1 - beta**400)  # of 1 / (1 - beta^n), the ratio of the second class to the third
    assert effective is not None and effective[1] / effective[2] == pytest.approx(expected)
    assert effective[1] / effective[0] == pytest.approx(1 / (1 - beta**400))


def test_cross_entropy_by_hand() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 2, -1, 1, 2])
    weights, smoothing = np.array([1.0, 2.0, 0.5]), 0.3
    expected = 0.0
    for row, label in zip(logits.log_softmax(1), labels.tolist(), strict=True):
        if label != -1:
            spread = sum(-float(row[c]) * weights[c] for c in range(3)) / 3
            expected += (1 - smoothing) * -float(row[label]) * weights[label] + smoothing * spread
    assert float(cross_entropy(logits, labels, weights, smoothing)) == pytest.approx(expected)


def test_lovasz_is_one_minus_iou_where_the_network_is_sure() -> None:
    """The extension agrees with the set function at its corners: 1 − IoU of each class that occurs."""
    for labels, said in itertools.product(itertools.product(range(3), repeat=4), [(0, 0, 1, 2), (1, 1, 1, 1)]):
        logits = 60 * torch.nn.functional.one_hot(torch.tensor(said), 3).double()
        losses = []
        for c in set(labels):
            both = sum(t == c == p for t, p in zip(labels, said, strict=True))
            either = sum(c in (t, p) for t, p in zip(labels, said, strict=True))
            losses.append(1 - both / either)
        assert float(lovasz_softmax(logits, torch.tensor(labels))) == pytest.approx(np.mean(losses), abs=1e-9)


def test_lovasz_leaves_ignored_rows_out() -> None:
    torch.manual_seed(1)
    logits, labels = torch.randn(20, 4, requires_grad=True), torch.randint(-1, 4, (20,))
    loss = lovasz_softmax(logits, labels)
    assert torch.allclose(loss, lovasz_softmax(logits[labels >= 0], labels[labels >= 0]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[labels == -1] == 0).all() and (gradient[labels >= 0] != 0).any()
    nothing = lovasz_softmax(logits, torch.full((20,), -1))
    assert nothing.item() == 0 and nothing.requires_grad
