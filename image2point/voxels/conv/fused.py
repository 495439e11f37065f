"""A frozen convolution, what follows it, and the derivative of both.

The derivative is linear in the gradient, and made of operations that can be differentiated again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from image2point.voxels import relu
from image2point.voxels.conv import triton_engine
from image2point.voxels.conv.autograd import data_gradient
from image2point.voxels.conv.engines import choose
from image2point.voxels.conv.epilogue import ACTIVATIONS, CEILINGS, Epilogue, finish, kept
from image2point.voxels.errors import VoxelError
from image2point.voxels.plan import NeighbourTable
from image2point.voxels.remember import Forms


def convolve_and_finish(
    features: Tensor,
    weight: Tensor,
    table: NeighbourTable | None,
    steps: Epilogue,
    groups: int = 1,
    engine: str = "auto",
    forms: Forms | None = None,
) -> Tensor:
    """activation(scale · convolution + shift + residual), differentiable in features and residual.

    Args:
        features: [N, C_in].
        weight: [C_out, C_in / groups, kx, ky, kz], a constant; of size 1 along the axes where all taps share one
            weight.
        table: None where each row reads itself alone.
        steps: what follows: scale and shift are constants, of a norm with running mean m, variance v, weight γ and
            bias β: γ / √(v + ε) and β − m · scale.
        engine: see `engines`; not `reference`.
        forms: where the engine keeps what it makes of the weight; None: nowhere.

    Returns:
        [M, C_out].

    Raises:
        VoxelError: where weight, scale or shift asks for a gradient, the activation is unknown, its gradient takes more
            than a bit per element (all but identity, relu, relu6), or the residual does not fit.
    """
    scale, shift, residual = steps.scale, steps.shift, steps.residual
    if scale is None or shift is None:
        raise VoxelError("steps: expected a scale and a shift, found none")
    wants = torch.is_grad_enabled() and any(t.requires_grad for t in (features, residual) if t is not None)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (weight, scale, shift)):
        raise VoxelError("weight, scale and shift: expected constants, found a tensor that asks for a gradient")
    if steps.activation not in ACTIVATIONS:
        raise VoxelError(f"activation: expected one of {', '.join(ACTIVATIONS)}, found {steps.activation!r}")
    if wants and steps.activation not in ("identity", *CEILINGS):
        raise VoxelError(f"{steps.activation}: has no gradient here; expected identity, relu or relu6")
    rows = (len(features) if table is None else table.targets, weight.shape[0])
    if residual is not None and (residual.shape != rows or residual.dtype != features.dtype):
        raise VoxelError(
            f"residual: expected {features.dtype} {list(rows)}, found {residual.dtype} {list(residual.shape)}"
        )
    options = table, scale, shift, steps.activation, groups, engine, wants, forms
    return _Fused.apply(features, residual, weight, *options)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        table: NeighbourTable | None,
        scale: Tensor,
        shift: Tensor,
        activation: str,
        groups: int,
        engine: str,
        keep: bool,
        forms: Forms | None,
    ) -> Tensor:
        residual = None if residual is None else residual.detach().contiguous()
        scale, shift = (t.to(features.dtype).contiguous() for t in (scale, shift))
        steps = Epilogue(scale, shift, residual, activation)
        chosen = None if table is None else choose(engine, features, weight, table, groups)
        if table is None or chosen is None:
            y, mask = finish(features @ weight.flatten(1).T, steps, keep)
        elif chosen is triton_engine:
            y = triton_engine.multiply(features, weight, table, groups, forms=forms, epilogue=steps)
            mask = kept(y, activation) if keep else None
        else:
            y, mask = finish(chosen.multiply(features, weight, table, groups, forms=forms), steps, keep)
        ctx.save_for_backward(weight, scale, mask)
        ctx.options = table, groups, engine, forms
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale, mask = ctx.saved_tensors
        table, groups, engine, forms = ctx.options
        (gradient,) = gradients
        if mask is not None:
            gradient = relu.masked(gradient, mask)
        data = None
        if ctx.needs_input_grad[0]:
            # The mask made a tensor that nobody else has, unless the residual gets it or it is part of a graph.
            ours_alone = mask is not None and not ctx.needs_input_grad[1] and not torch.is_grad_enabled()
            product = gradient.mul_(scale) if ours_alone else gradient * scale
            if table is None:
                data = product @ weight.flatten(1)
            else:
                data = data_gradient(product, weight, table, groups, engine, forms)
        return data, gradient if ctx.needs_input_grad[1] else None, *(None,) * 9
