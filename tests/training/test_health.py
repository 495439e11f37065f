"""Warnings of networks that learnt nothing: those that guess, and no others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from image2point.training.health import lifeless

LIVELY = torch.arange(12.0).reshape(6, 2)


@pytest.mark.parametrize(
    ("loss", "counts", "told"),
    [
        (math.log(3), [[2, 0, 0], [2, 0, 0], [2, 0, 0]], True),
        (1.005 * math.log(3), [[0, 2, 0], [2, 0, 0], [1, 1, 0]], True),
        (math.log(3), [[4, 0, 0], [1, 0, 0], [1, 0, 0]], True),  # always the commonest
        (math.log(3), [[2, 0, 0], [1, 1, 0], [0, 0, 2]], False),  # sure of itself, and mostly right
        (0.9 * math.log(3), [[2, 0, 0], [2, 0, 0], [2, 0, 0]], False),
    ],
)
def test_a_network_that_guesses_is_told(loss: float, counts: list[list[int]], told: bool) -> None:
    found = lifeless(LIVELY, loss, np.array(counts))
    assert bool(found) is told
    assert not told or "is that of guessing among 3 classes: nothing was learnt" in found[0]


def test_features_that_are_dead_are_told() -> None:
    features = torch.cat([LIVELY[:, :1], torch.ones(6, 2)], 1)
    (one,) = lifeless(features, 0.1, np.eye(3, dtype=int))
    assert one == "2 of 3 features before the classifier are the same for all samples"
    assert lifeless(LIVELY, 0.1, np.eye(3, dtype=int)) == []
