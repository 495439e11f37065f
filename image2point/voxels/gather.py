"""Rows taken from a map, many of them more than once: what upsampling does, and what points do with their voxels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gathering:
    """Which row each of M takers reads, of N rows.

    Its gradient is a sum over the takers of each row. They are put in order once, which makes that sum several times
    as fast as adding row by row, and its result the same from run to run on every device.

    Attributes:
        index: int64 [M], values in [0, rows).
        rows: N.
    """

    index: Tensor
    rows: int

    @cached_property
    def _takers(self) -> tuple[Tensor, Tensor]:
        """The takers in the order of their rows, int64 [M], and where those of each row start, int64 [N + 1]."""
        with torch.inference_mode(False):
            starts = self.index.new_zeros(self.rows + 1)
            torch.cumsum(torch.bincount(self.index, minlength=self.rows), 0, out=starts[1:])
            return torch.sort(self.index, stable=True).indices, starts

    def take(self, features: Tensor) -> Tensor:
        """What each taker reads: [N, C] → [M, C]; differentiable, any number of times."""
        return _Take.apply(features, self)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the takers of each row, zero where there is none: [M, C] → [N, C]; the transpose of `take`."""
        return _Sum.apply(values, self)


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, gathering: Gathering) -> Tensor:
        ctx.gathering = gathering
        return features.index_select(0, gathering.index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(gradients[0], ctx.gathering), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, gathering: Gathering) -> Tensor:
        ctx.gathering = gathering
        order, starts = gathering._takers
        return torch.embedding_bag(values.detach().contiguous(), order, starts, include_last_offset=True)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Take.apply(gradients[0], ctx.gathering), None
