"""A norm by batch statistics, a sum and a ReLU as one operation, where the Triton kernels can run it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from image2point.voxels import relu
from image2point.voxels.conv.engines import unavailable
from image2point.voxels.conv.epilogue import CEILINGS
from image2point.voxels.errors import VoxelError
from image2point.voxels.norm import BatchNorm, norm_gradients

_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def may_be_one(norm: BatchNorm, rows: Tensor, residual: Tensor | None, activation: str | None) -> bool:
    """Whether a norm, a sum and an activation are what one operation can do: in training, in one process, with a norm
    that has all that norms have."""
    if not norm.training or norm.momentum is None or not norm.affine or norm.running_mean is None:
        return False
    if activation not in ("identity", *CEILINGS) or len(rows) < 2 or torch.compiler.is_compiling():
        return False
    if residual is not None and (residual.shape != rows.shape or residual.dtype != rows.dtype):
        return False
    return not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)


def takes(norm: BatchNorm, rows: Tensor, residual: Tensor | None, activation: str | None, engine: str) -> bool:
    """Whether `norm_activate` can run.

    Where it cannot, the modules run one by one, to the same result up to rounding.
    """
    if engine != "triton" and not (engine == "auto" and rows.is_cuda):
        return False
    if not may_be_one(norm, rows, residual, activation) or rows.dtype not in _TYPES:
        return False
    if norm.weight.dtype not in _TYPES or norm.running_mean is None or norm.running_mean.dtype != torch.float32:
        return False
    return unavailable("triton", rows.device) is None


def norm_activate(
    rows: Tensor, norm: BatchNorm, residual: Tensor | None, activation: str, real: Tensor | None = None
) -> Tensor:
    """activation(norm(rows) + residual) for what `takes` accepts; the running statistics move.

    Differentiable in rows, residual, weight and bias; the gradient can be differentiated again (in plain torch), where
    no rows are padding.

    Args:
        rows, residual: [N, C].
        activation: identity, relu or relu6.
        real: int64 [], how many rows count, at least two; the others are padding. None: all.
    """
    wants = torch.is_grad_enabled()
    running = norm.running_mean, norm.running_var, norm.num_batches_tracked
    return _NormActivate.apply(
        rows, norm.weight, norm.bias, residual, real, running, norm.momentum, norm.eps, activation, wants
    )


class _NormActivate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        real: Tensor | None,
        running: tuple[Tensor, Tensor, Tensor],
        momentum: float,
        eps: float,
        activation: str,
        keep: bool,
    ) -> Tensor:
        from image2point.voxels import triton_norm

        x, added = rows.detach().contiguous(), None if residual is None else residual.detach().contiguous()
        with torch.cuda.device_of(rows):
            found = triton_norm.forward(x, weight, bias, running, momentum, eps, added, activation, keep, real)
        y, mean, rate, outside = found
        ctx.save_for_backward(rows, weight, bias, mean, rate, outside, real)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from image2point.voxels import triton_norm

        rows, weight, bias, mean, rate, outside, real = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3]
        found: tuple[Tensor, Tensor | None, Tensor, Tensor]
        if torch.is_grad_enabled():  # to be differentiated again
            if real is not None:
                raise VoxelError("padded voxels: the gradient of a norm cannot be differentiated again")
            passed = gradients[0] if outside is None else relu.masked(gradients[0], outside.bool())
            data, *of_parameters = norm_gradients(passed, rows, weight, ctx.eps)
            found = data, passed, of_parameters[0], of_parameters[1]
        else:
            with torch.cuda.device_of(rows):
                gradient, x = gradients[0].contiguous(), rows.contiguous()
                found = triton_norm.backward(gradient, x, weight, mean, rate, outside, wanted, real)
        data, added, of_weight, of_bias = found
        of_weight, of_bias = of_weight.to(weight.dtype), of_bias.to(bias.dtype)
        return data, of_weight, of_bias, added if wanted else None, *(None,) * 6
