"""Gather, sum, multiply, scatter: the execution that uses the structure of inflated kernels.

A kernel that is constant along an axis multiplies every neighbour along that axis by the same weight, so the
neighbours are summed first and multiplied once: y(p) = Σ_ij W2[i, j] · (Σ_k x(p + (i, j, k))). A 3×3×3 kernel
inflated from 3×3 costs 9 products instead of 27; a 2×2×2 kernel of one repeated entry costs one.

The operation is linear in the features, and its derivative is the same operation read in the other direction,
so one function serves forward, data gradient and second derivatives. A weight that asks for no gradient costs
none, and nothing of the input is kept for it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from image2point.voxels.conv import depthwise
from image2point.voxels.plan import Bags, Column, NeighbourTable


def convolve(
    features: Tensor, weight: Tensor, table: NeighbourTable, tied: frozenset[int] = frozenset(), groups: int = 1
) -> Tensor:
    """Convolve over a neighbour table.

    Args:
        features: [N, C_in].
        weight: [C_out, C_in / groups, Kx, Ky, Kz], constant along the axes in `tied`.

    Returns:
        [M, C_out], one row per target of the table.
    """
    return _Convolve.apply(features, weight, table, tied, groups, False)


def sum_neighbours(features: Tensor, table: NeighbourTable) -> Tensor:
    """Sum of what each target reads through all taps: [N, C] → [M, C]."""
    return _SumNeighbours.apply(features, table, False)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        table: NeighbourTable,
        tied: frozenset[int],
        groups: int,
        backward: bool,
    ) -> Tensor:
        ctx.save_for_backward(features if ctx.needs_input_grad[1] else None, weight)
        ctx.table, ctx.tied, ctx.groups, ctx.direction = table, tied, groups, backward
        weights = _columns(weight, tied, groups)
        if weights.shape[2:] == (1, 1):
            return depthwise.multiply(features, weights.flatten(1), table.rows(tied, backward))
        return _multiply(features, weights, table.bags(tied, backward))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        features, weight = ctx.saved_tensors
        table, tied, groups, direction = ctx.table, ctx.tied, ctx.groups, ctx.direction
        data = kernel = None
        if ctx.needs_input_grad[0]:
            data = _Convolve.apply(gradient, _transpose(weight, groups), table, tied, groups, not direction)
        if ctx.needs_input_grad[1]:
            kernel = _WeightGradient.apply(features, gradient, table, groups, direction)
        return data, kernel, None, None, None, None


class _WeightGradient(torch.autograd.Function):
    """[N, C_in], [M, C_out] → [C_out, C_in / groups, Kx, Ky, Kz]; bilinear, so differentiable once more."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, gradient: Tensor, table: NeighbourTable, groups: int, backward: bool
    ) -> Tensor:
        ctx.save_for_backward(features, gradient)
        ctx.table, ctx.groups, ctx.direction = table, groups, backward
        source, target = (table.target, table.source) if backward else (table.source, table.target)
        inputs, outputs = features.shape[1] // groups, gradient.shape[1]
        kernel = features.new_empty(len(table.starts) - 1, outputs, inputs)
        for tap, (start, stop) in enumerate(pairwise(table.starts)):
            x = features[source[start:stop]]
            dy = gradient[target[start:stop]]
            if inputs == 1 and outputs == groups:
                kernel[tap] = (x * dy).sum(0)[:, None]
            elif groups == 1:
                kernel[tap] = dy.T @ x
            else:
                by_group = dy.unflatten(1, (groups, -1)).permute(1, 2, 0) @ x.unflatten(1, (groups, -1)).transpose(0, 1)
                kernel[tap] = by_group.flatten(0, 1)
        return kernel.permute(1, 2, 0).unflatten(2, table.kernel).contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (kernel,) = gradients
        features, gradient = ctx.saved_tensors
        table, groups, direction = ctx.table, ctx.groups, ctx.direction
        free: frozenset[int] = frozenset()
        first = second = None
        if ctx.needs_input_grad[0]:
            first = _Convolve.apply(gradient, _transpose(kernel, groups), table, free, groups, not direction)
        if ctx.needs_input_grad[1]:
            second = _Convolve.apply(features, kernel, table, free, groups, direction)
        return first, second, None, None, None


class _SumNeighbours(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, table: NeighbourTable, backward: bool) -> Tensor:
        ctx.table, ctx.direction = table, backward
        bags = table.bags(frozenset((0, 1, 2)), backward)
        output = features.new_zeros(bags.size, features.shape[1])
        for column in bags.columns:  # at most one: all taps share one weight
            sums = _sum_bags(features, column)
            output = sums if column.rows is None else output.index_copy(0, column.rows.long(), sums)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _SumNeighbours.apply(gradients[0], ctx.table, not ctx.direction), None, None


def _multiply(features: Tensor, weights: Tensor, bags: Bags) -> Tensor:
    """Σ_g scatter(sums of the bags of column g · W_g); weights: [G, groups, C_in / groups, C_out / groups]."""
    _, groups, _, outputs = weights.shape
    output: Tensor | None = None
    for column in bags.columns:
        x = _sum_bags(features, column)
        weight = weights[column.weight]
        if groups == 1:
            product = x @ weight[0]
        else:
            product = (x.unflatten(1, (groups, -1)).transpose(0, 1) @ weight).transpose(0, 1).flatten(1)
        if column.rows is None:
            output = product  # the widest column comes first and usually covers every row: nothing to scatter
            continue
        if output is None:
            output = features.new_zeros(bags.size, groups * outputs)
        output.index_add_(0, column.rows, product)
    return features.new_zeros(bags.size, groups * outputs) if output is None else output


def _sum_bags(features: Tensor, column: Column) -> Tensor:
    """Sum of each bag of a column: [R, C]."""
    return depthwise.sum_bags(features, column.members, column.offsets)


def _columns(weight: Tensor, tied: frozenset[int], groups: int) -> Tensor:
    """[C_out, C_in / groups, Kx, Ky, Kz] → one matrix per column, [G, groups, C_in / groups, C_out / groups]."""
    for axis in tied:
        weight = weight.narrow(2 + axis, 0, 1)
    return weight.flatten(2).unflatten(0, (groups, -1)).permute(3, 0, 2, 1).contiguous()


def _transpose(weight: Tensor, groups: int) -> Tensor:
    """The kernel of the data gradient: inputs and outputs exchanged within each group, taps in place."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
