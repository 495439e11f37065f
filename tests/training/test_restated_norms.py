"""Running statistics taken anew are the averages over the batches of one pass, of the named norms alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tiny_runs import restate
from torch import nn

VALUES = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)) * 3 + 5


class Rows:
    """Ten samples that are vectors, and how to put them together."""

    name, classes, labels, noun = "rows", ("a",), np.zeros(10, dtype=np.int64), "row"

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> torch.Tensor:
        return VALUES[index]

    def prepare(self, sample: torch.Tensor, where: str, epoch: int | None = None, index: int = 0) -> torch.Tensor:
        assert epoch is None  # nothing is augmented
        return sample

    def join(self, samples: Any, where: Any = None) -> torch.Tensor:
        return torch.stack(list(samples))


def test_statistics_are_averages_over_batches() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    with torch.no_grad():
        network[0].running_mean.fill_(100.0)
        network[0].num_batches_tracked.fill_(50)
    network.train()
    network[2].eval()
    batches = np.array_split(np.random.default_rng((7, 0)).permutation(10), 3)  # of 4, 3 and 3
    restate(network, Rows(), Rows(), {"0"}, batch_size=4, seed=7)
    means = torch.stack([VALUES[batch].mean(0) for batch in batches]).mean(0)
    variances = torch.stack([VALUES[batch].var(0) for batch in batches]).mean(0)
    torch.testing.assert_close(network[0].running_mean, means)
    torch.testing.assert_close(network[0].running_var, variances)
    assert network[0].momentum == 0.1 and [module.training for module in network] == [True, True, False]
    assert not network[2].running_mean.any() and bool((network[2].running_var == 1).all())
