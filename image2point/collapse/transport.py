"""How far two sets of features are apart, channel by channel: the Wasserstein-1 distance of their laws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from image2point.collapse.inputs import StatisticsError, as_float64, check_matrix


@dataclass(frozen=True)
class Transport:
    """Wasserstein-1 distances of each channel [d], and the spread of that channel in the first set [d]."""

    distances: Tensor
    spread: Tensor

    @property
    def mean(self) -> float:
        """Over channels, in the units of the features."""
        return float(self.distances.mean())

    @property
    def relative(self) -> float:
        """Over channels that vary in the first set, in standard deviations that they have there."""
        moving = self.spread > 0
        return float((self.distances[moving] / self.spread[moving]).mean()) if moving.any() else torch.nan


@torch.no_grad()
def wasserstein(first: Any, second: Any) -> Transport:
    """W₁ = ∫ |F − G| of every column of features [n, d] and [m, d], exact for the two samples.

    Means of several channels do not see how channels go together; they compare what Xu et al. 2022 compare between
    images and point clouds, whose features have no order that could pair them. From few samples it is above 0 for equal
    laws too. StatisticsError for shapes that do not fit and for an empty set.

    >>> found = wasserstein([[0.0], [2.0]], [[1.0], [5.0]])
    >>> found.mean, found.relative
    (2.0, 2.0)
    """
    columns = torch.as_tensor(first).shape[-1]
    a = check_matrix(first, "first features", "n", columns)
    b = check_matrix(second, "second features", "m", columns)
    if len(a) == 0 or len(b) == 0:
        raise StatisticsError(f"expected samples in both sets, found {len(a)} and {len(b)}")
    a, b = as_float64(a, torch.device("cpu")), as_float64(b, torch.device("cpu"))
    both = torch.cat([a, b])
    order = both.argsort(0)
    steps = both.gather(0, order).diff(dim=0)
    weight = torch.cat([torch.full((len(a),), 1 / len(a)), torch.full((len(b),), -1 / len(b))]).double()
    difference = weight[order].cumsum(0)[:-1].abs()  # |F − G| between neighbouring values
    return Transport((steps * difference).sum(0), a.std(0, correction=0))
