"""The derivatives of a sparse convolution, written once for all engines.

A convolution is linear in the features, and its derivative is the same operation read in the other direction, so one
function serves forward, data gradient and second derivatives. A weight that asks for no gradient costs none, and
nothing of the input is kept for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from image2point.voxels.conv import cpu, reference
from image2point.voxels.conv.engines import choose
from image2point.voxels.plan import NeighbourTable
from image2point.voxels.remember import Forms


def convolve(
    features: Tensor,
    weight: Tensor,
    table: NeighbourTable,
    groups: int = 1,
    engine: str = "auto",
    forms: Forms | None = None,
) -> Tensor:
    """Convolve over a neighbour table.

    Args:
        features: [N, C_in].
        weight: [C_out, C_in / groups, kx, ky, kz]: the table's kernel size, or 1 along an axis where every tap has the
            same weight.
        engine: see `engines`.
        forms: where an engine keeps what it makes of the weight; None: nowhere.

    Returns:
        [M, C_out], one row per target of the table.
    """
    if engine == "reference":
        return reference.convolve(features, weight.expand(-1, -1, *table.kernel), table, groups)
    return _Convolve.apply(features, weight, table, groups, engine, False, forms)


def data_gradient(
    gradient: Tensor, weight: Tensor, table: NeighbourTable, groups: int, engine: str, forms: Forms | None
) -> Tensor:
    """Gradient [N, C_in] of the features, from that of the result [M, C_out]; differentiable in both operands."""
    return _Convolve.apply(
        gradient, transpose(weight, groups), table, groups, engine, True, forms_of_transpose(forms, groups)
    )


def kernel_gradient(
    features: Tensor,
    gradient: Tensor,
    table: NeighbourTable,
    shape: tuple[int, int, int],
    groups: int,
    engine: str,
    backward: bool = False,
) -> Tensor:
    """Gradient [C_out, C_in / groups, *shape] of the kernel, from features [N, C_in] and the gradient of the result
    [M, C_out]; differentiable in both."""
    return _WeightGradient.apply(features, gradient, table, shape, groups, engine, backward)


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
        groups: int,
        engine: str,
        backward: bool,
        forms: Forms | None,
    ) -> Tensor:
        ctx.save_for_backward(features if ctx.needs_input_grad[1] else None, weight)
        ctx.options, ctx.forms = (table, groups, engine, backward), forms
        chosen = choose(engine, features, weight, table, groups)
        return chosen.multiply(features, weight, table, groups, backward, forms)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        features, weight = ctx.saved_tensors
        table, groups, engine, backward = ctx.options
        data = kernel = None
        if ctx.needs_input_grad[0]:
            forms = forms_of_transpose(ctx.forms, groups)
            data = _Convolve.apply(gradient, transpose(weight, groups), table, groups, engine, not backward, forms)
        if ctx.needs_input_grad[1]:
            kernel = kernel_gradient(features, gradient, table, tuple(weight.shape[2:]), groups, engine, backward)
        return data, kernel, *(None,) * 5


class _WeightGradient(torch.autograd.Function):
    """[N, C_in], [M, C_out] → [C_out, C_in / groups, *shape]; bilinear, so differentiable once more."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        gradient: Tensor,
        table: NeighbourTable,
        shape: tuple[int, int, int],
        groups: int,
        engine: str,
        backward: bool,
    ) -> Tensor:
        ctx.save_for_backward(features, gradient)
        ctx.options = table, groups, engine, backward
        like = features.new_empty(()).expand(gradient.shape[1], features.shape[1] // groups, *shape)
        chosen = choose(engine, features, like, table, groups)
        return chosen.weight_gradient(features, gradient, table, shape, groups, backward)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (kernel,) = gradients
        features, gradient = ctx.saved_tensors
        table, groups, engine, backward = ctx.options
        first = second = None
        if ctx.needs_input_grad[0]:
            first = _Convolve.apply(gradient, transpose(kernel, groups), table, groups, engine, not backward, None)
        if ctx.needs_input_grad[1]:
            second = _Convolve.apply(features, kernel, table, groups, engine, backward, None)
        return first, second, None, None, None, None, None


class _SumNeighbours(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, table: NeighbourTable, backward: bool) -> Tensor:
        ctx.options = table, backward
        return cpu.sum_neighbours(features, table, backward)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        table, backward = ctx.options
        return _SumNeighbours.apply(gradients[0], table, not backward), None, None


def transpose(weight: Tensor, groups: int) -> Tensor:
    """The kernel of the data gradient: inputs and outputs exchanged within each group, taps in place."""
    if groups == 1:
        return weight.transpose(0, 1)
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


def forms_of_transpose(forms: Forms | None, groups: int) -> Forms | None:
    """The forms of the transpose of a weight: its own, of which it is a view, but with groups it is another tensor."""
    return forms if groups == 1 else None
