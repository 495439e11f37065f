"""Warnings of networks that learnt nothing: those that guess, and no others."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import rows, run_transfer, tiny

from image2point.jobs import scoring
from image2point.training.health import diverged, lifeless

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


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([3.6, 3.0, 5.1, 4.2, 3.9, 3.2], True),
        ([3.6, 3.0, 5.1, 4.2, 3.9, 3.1], False),  # almost back
        ([3.6, 3.0, 5.1, 2.0, 3.0, 3.6], False),  # low again, late: noise of the last epochs
        ([3.6, 3.0, 5.1, 4.2, 3.9], False),  # few epochs
        ([3.6, 3.0, 2.1, 1.2, 0.9, 0.8], False),
        ([], False),
    ],
)
def test_a_loss_that_rises_for_good_is_told(losses: list[float], told: bool) -> None:
    assert bool(diverged(losses)) is told


def test_a_run_tells_of_its_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[float]] = []
    monkeypatch.setattr(scoring, "diverged", lambda losses: asked.append(losses) or ["it rose"])
    run = run_transfer(tiny("training.epochs=2"), tmp_path)
    assert "it rose" in run.read_summary()["warnings"] and "warning: it rose" in run.log.read_text()
    assert asked == [[pytest.approx(float(row["train_loss"]), rel=1e-5) for row in rows(run.path)[1:]]]
