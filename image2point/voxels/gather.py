"""Rows taken from a map, many of them more than once: what upsampling does, and what points do with their voxels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gathering:
    """Which rows each of M takers reads, of N rows: a sparse matrix [M, N] with k entries in each row.

    Its gradient is a sum over the takers of each row. They are put in order once, which makes that sum several times
    as fast as adding row by row, and its result the same from run to run on every device.

    Attributes:
        index: int64 [M], or [M, k] with weights; values in [0, rows).
        rows: N.
        weights: float64 [M, k], what each read row is multiplied by; None for one row, as it is.
    """

    index: Tensor
    rows: int
    weights: Tensor | None = None

    def take(self, features: Tensor) -> Tensor:
        """What each taker reads: [N, C] → [M, C]; differentiable, any number of times."""
        return _Sums.apply(features, self, False)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the takers of each row, zero where there is none: [M, C] → [N, C]; the transpose of `take`."""
        return _Sums.apply(values, self, True)

    def read(self, features: Tensor) -> Tensor:
        """`take` without autograd."""
        if self.weights is None:
            return features.index_select(0, self.index)
        takers, each = self.index.shape
        starts = torch.arange(0, takers * each + 1, each, device=self.index.device)
        return _bags(features, self.index.flatten(), starts, self.weights.flatten())

    def add(self, values: Tensor) -> Tensor:
        """`sum` without autograd."""
        order, starts = self._by_row
        if self.weights is None:
            return _bags(values, order, starts)
        taker = torch.div(order, self.index.shape[1], rounding_mode="floor")
        return _bags(values, taker, starts, self.weights.flatten()[order])

    @cached_property
    def _by_row(self) -> tuple[Tensor, Tensor]:
        """The entries in the order of the rows that they read, int64 [M · k]; where each row's start, int64 [N + 1]."""
        with torch.inference_mode(False):
            index = self.index.flatten()
            starts = index.new_zeros(self.rows + 1)
            torch.cumsum(torch.bincount(index, minlength=self.rows), 0, out=starts[1:])
            return torch.sort(index, stable=True).indices, starts


def _bags(rows: Tensor, members: Tensor, starts: Tensor, weights: Tensor | None = None) -> Tensor:
    """The (weighted) sum of the members of each bag."""
    rows = rows.detach().contiguous()
    weights = None if weights is None else weights.to(rows.dtype)
    return torch.embedding_bag(rows, members, starts, per_sample_weights=weights, include_last_offset=True)[0]


class _Sums(torch.autograd.Function):
    """`read`, or with `transposed` its transpose `add`: the gradient of each is the other."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, gathering: Gathering, transposed: bool) -> Tensor:
        ctx.gathering, ctx.transposed = gathering, transposed
        return gathering.add(values) if transposed else gathering.read(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Sums.apply(gradients[0], ctx.gathering, not ctx.transposed), None, None
