"""Convolution with a 2D kernel W that fills its depth by K numbers: V[i, j, k] = depth[k] · W[i, j].

The neighbours along the depth are summed with these weights as they are gathered, so that one product per column is
enough: y(p) = Σ_ij W[i, j] · (Σ_k depth[k] · x(p + (i, j, k))). Backwards, the product of W[i, j]ᵀ with the gradient
at p serves both derivatives: depth[k] times it goes to x(p + (i, j, k)), and its product with that row to depth[k].
Each input channel may have K numbers of its own.

The compiled `cpu` engine does so, in float32 and float64, with one group or one per channel, where W is a constant.
With a group per channel no product is spared, and only the derivatives of depth are. Everything else runs with the
expanded kernel, by any engine, and the derivative of depth follows from the kernel's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from image2point.voxels.conv import native
from image2point.voxels.conv.autograd import convolve, data_gradient, forms_of_transpose, kernel_gradient, transpose
from image2point.voxels.plan import NeighbourTable
from image2point.voxels.remember import Forms


def expand(weight: Tensor, depth: Tensor, kernel: tuple[int, int, int]) -> Tensor:
    """V [C_out, C_in / groups, Kx, Ky, Kz] of a kernel of size 1 along the depth, and of numbers [K] or [C_in, K].

    >>> expand(torch.ones(1, 1, 2, 2, 1), torch.tensor([0.5, 2.0]), (2, 2, 2))[0, 0, 0].tolist()
    [[0.5, 2.0], [0.5, 2.0]]
    """
    slices = [-1 if weight.shape[2 + axis] < size else 1 for axis, size in enumerate(kernel)]
    depth = depth.to(weight.dtype)
    if depth.ndim == 1:
        return weight * depth.view(1, 1, *slices)
    inputs = weight.shape[1]
    of_group = depth.view(-1, 1, inputs, depth.shape[1])  # [groups, 1, C_in / groups, K]
    each = of_group.expand(-1, weight.shape[0] // len(of_group), -1, -1).flatten(0, 1)
    return weight * each.reshape(len(weight), inputs, *slices)


def convolve_along(
    features: Tensor,
    weight: Tensor,
    depth: Tensor,
    table: NeighbourTable,
    groups: int = 1,
    engine: str = "auto",
    forms: Forms | None = None,
) -> Tensor:
    """Convolve over a neighbour table.

    Args:
        features: [N, C_in].
        weight: [C_out, C_in / groups, kx, ky, kz], of size 1 along the depth, and of the table's size elsewhere.
        depth: [K] or [C_in, K], K the table's size along the depth.
        engine, forms: as of `autograd.convolve`.

    Returns:
        [M, C_out], one row per target of the table.
    """
    trains = torch.is_grad_enabled() and weight.requires_grad
    if engine in ("auto", "cpu") and not trains and native.takes(features, weight, weight.shape[0], groups):
        return _Along.apply(features, depth, weight, table, groups, forms)
    return convolve(features, expand(weight, depth, table.kernel), table, groups, engine)


class _Along(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        depth: Tensor,
        weight: Tensor,
        table: NeighbourTable,
        groups: int,
        forms: Forms | None,
    ) -> Tensor:
        ctx.save_for_backward(features if ctx.needs_input_grad[1] else None, depth, weight)
        ctx.options = table, groups, forms
        return native.multiply(features, weight, table, groups, False, forms, depth)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        features, depth, weight = ctx.saved_tensors
        table, groups, forms = ctx.options
        data = numbers = None
        if torch.is_grad_enabled():  # somebody wants derivatives of these: those of the expanded kernel have them
            kernel = expand(weight, depth, table.kernel)
            data = data_gradient(gradient, kernel, table, groups, "cpu", None)
            if features is not None:
                of_kernel = kernel_gradient(features, gradient, table, table.kernel, groups, "cpu")
                (numbers,) = torch.autograd.grad(kernel, depth, of_kernel, create_graph=True)
        elif features is not None:
            data, numbers = native.depth_gradients(features, gradient, weight, depth, table, groups, forms)
        elif ctx.needs_input_grad[0] and depth.ndim == 2 and groups == 1:  # no sum comes first: other channels
            data = data_gradient(gradient, expand(weight, depth, table.kernel), table, groups, "cpu", None)
        elif ctx.needs_input_grad[0]:
            turned, kept = transpose(weight, groups), forms_of_transpose(forms, groups)
            data = native.multiply(gradient, turned, table, groups, True, kept, depth)
        return data, numbers, *(None,) * 4
