"""The torchmetrics wrapper: the same numbers over batches and gathered processes, and nothing imported early."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from image2point import collapse
from image2point.collapse import Statistics, StatisticsError, metrics
from image2point.networks.timm_import import load_timm


@pytest.fixture(scope="module", autouse=True)
def torchvision() -> None:
    load_timm()  # torchmetrics imports torchvision, which beside a CPU-only torch needs some help


def draw() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    labels = torch.tensor(rng.integers(0, 4, 80))
    return torch.tensor(100 + rng.normal(size=(80, 6)), dtype=torch.float16), labels


@pytest.mark.parametrize("covariance", ["none", "pooled", "class"])
def test_over_batches(covariance: str) -> None:
    features, labels = draw()
    metric = collapse.CollapseMetric(4, 6, covariance).half()
    for start in range(0, 80, 23):
        metric.update(features[start : start + 23], labels[start : start + 23])
    expected = Statistics(4, 6, covariance).update(features, labels)
    assert metric.compute() == pytest.approx(metrics(expected), rel=1e-9, nan_ok=True)
    assert metric.mean.dtype == torch.float64
    metric.reset()
    assert metric.statistics().count.sum() == 0
    with pytest.raises(StatisticsError, match="at least 2 of the 4 classes"):
        metric.compute()
    assert metric(features, labels) == pytest.approx(metrics(expected), rel=1e-9, nan_ok=True)


def test_over_processes_by_gathering() -> None:
    features, labels = draw()
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    here, there = (collapse.CollapseMetric(4, 6, classifier=(weight, None)) for _ in range(2))
    here.update(features[:30], labels[:30])
    there.update(features[30:], labels[30:])
    theirs = {id(getattr(here, name)): getattr(there, name) for name in ("count", "mean", "squares", "scatter")}

    def gather(state: torch.Tensor, group: Any) -> list[torch.Tensor]:
        return [state, next(value for key, value in theirs.items() if key == id(state))]

    here.dist_sync_fn, here.distributed_available_fn = gather, lambda: True
    before = copy.deepcopy(here.squares)
    expected = metrics(Statistics(4, 6).update(features, labels), (weight, None))
    assert here.compute() == pytest.approx(expected, rel=1e-9, nan_ok=True)
    assert torch.equal(here.squares, before)  # gathered for the value only: the own state goes on


def test_the_package_does_not_import_torchmetrics() -> None:
    code = "import sys, image2point.collapse; print('torchmetrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = collapse.Nonsense
