"""Convolution, frozen norm, residual and activation in one kernel, forward and backward.

A norm with fixed statistics is a scale and a shift per channel, so that a block's tail y = activation(scale · conv(x) +
shift + residual) needs no pass of its own. Its backward takes one elementwise pass before the data gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from image2point.voxels.conv import triton_engine
from image2point.voxels.conv.autograd import transpose
from image2point.voxels.conv.triton_epilogue import ACTIVATIONS, FROM_ARGUMENT, Epilogue, reverse
from image2point.voxels.errors import VoxelError
from image2point.voxels.plan import NeighbourTable


def convolve_norm_activate(
    features: Tensor,
    weight: Tensor,
    table: NeighbourTable,
    scale: Tensor,
    shift: Tensor,
    activation: str = "identity",
    residual: Tensor | None = None,
    groups: int = 1,
) -> Tensor:
    """activation(scale · convolution + shift + residual), differentiable once in features, weight and residual.

    Args:
        features: [N, C_in].
        weight: [C_out, C_in / groups, kx, ky, kz], of size 1 along the axes where all taps share one weight. One that
            asks for no gradient costs none, and nothing of the input is kept for it.
        scale, shift: [C_out], constants: of a norm with running mean m, variance v, weight γ and bias β, scale is
            γ / √(v + ε) and shift β − m · scale.
        activation: identity, relu, relu6, silu or hardswish.
        residual: [M, C_out].

    Raises:
        VoxelError: where Triton cannot run it here, the activation is unknown, or scale or shift asks for a gradient.
    """
    reason = triton_engine.unavailable(features.device)
    reason = reason or triton_engine.unsupported(features, weight, table, groups)
    if reason is not None:
        raise VoxelError(f"a fused convolution needs the engine triton: {reason}")
    if activation not in ACTIVATIONS:
        raise VoxelError(f"activation: expected one of {', '.join(ACTIVATIONS)}, found {activation!r}")
    if scale.requires_grad or shift.requires_grad:
        raise VoxelError("scale and shift: expected constants, found tensors that ask for a gradient")
    rows = (table.targets, weight.shape[0])
    if residual is not None and (residual.shape != rows or residual.dtype != features.dtype):
        raise VoxelError(
            f"residual: expected {features.dtype} {list(rows)}, found {residual.dtype} {list(residual.shape)}"
        )
    return _Fused.apply(features, weight, residual, table, scale, shift, activation, groups)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        residual: Tensor | None,
        table: NeighbourTable,
        scale: Tensor,
        shift: Tensor,
        activation: str,
        groups: int,
    ) -> Tensor:
        argument = None
        if activation in FROM_ARGUMENT and any(ctx.needs_input_grad):
            argument = features.new_empty(table.targets, weight.shape[0])
        steps = Epilogue(
            scale.contiguous(),
            shift.contiguous(),
            None if residual is None else residual.contiguous(),
            activation,
            argument,
        )
        y = triton_engine.multiply(features, weight, table, groups, epilogue=steps)
        z = None if activation == "identity" else y if argument is None else argument
        ctx.save_for_backward(features if ctx.needs_input_grad[1] else None, weight, scale, z)
        ctx.options = table, activation, groups
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, scale, z = ctx.saved_tensors
        table, activation, groups = ctx.options
        product, residual = reverse(gradients[0], z, scale.contiguous(), activation, ctx.needs_input_grad[2])
        data = kernel = None
        if ctx.needs_input_grad[0]:
            data = triton_engine.multiply(product, transpose(weight, groups), table, groups, backward=True)
        if ctx.needs_input_grad[1]:
            kernel = triton_engine.weight_gradient(features, product, table, tuple(weight.shape[2:]), groups)
        return data, kernel, residual, None, None, None, None, None
