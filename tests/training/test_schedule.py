"""The learning rate as a function of where training stands."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from image2point.config import Training
from image2point.training.schedule import learning_rate, make_optimizer


def rates(training: Training, steps: int) -> list[float]:
    return [learning_rate(training, e, s, steps) for e in range(training.epochs) for s in range(steps)]


@pytest.mark.parametrize("unit", ["iteration", "epoch"])
def test_the_cosine_is_that_of_torch_in_its_own_unit(unit: str) -> None:
    training = Training(epochs=6, lr=0.4, step_per=unit)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6 if unit == "epoch" else 6 * 5)
    expected = []
    for _ in range(6):
        for _ in range(5):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if unit == "iteration":
                scheduler.step()
        if unit == "epoch":
            scheduler.step()
    assert rates(training, 5) == pytest.approx(expected)


def test_the_rate_never_rises_again() -> None:
    found = rates(Training(epochs=8, warmup_epochs=0), 30)
    assert all(later <= earlier for earlier, later in pairwise(found))
    assert found[-1] < 1e-4


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_warm_up_climbs_to_the_peak(schedule: str) -> None:
    found = rates(Training(epochs=5, warmup_epochs=2, lr=1.0, schedule=schedule), 4)  # type: ignore[arg-type]
    assert found[:8] == pytest.approx([(k + 1) / 8 for k in range(8)])
    assert found[8] == 1.0
    assert max(found) == 1.0


def test_a_fractional_warm_up_stays_below_the_peak() -> None:
    assert max(rates(Training(epochs=3, warmup_epochs=0.3, lr=1.0), 4)) <= 1.0


def test_only_what_trains_is_given_to_the_optimizer() -> None:
    network = torch.nn.Linear(3, 2)
    network.weight.requires_grad_(False)
    for training in (Training(optimizer="sgd"), Training(optimizer="adamw")):
        optimizer = make_optimizer(network, training)
        assert [p.shape for group in optimizer.param_groups for p in group["params"]] == [network.bias.shape]
