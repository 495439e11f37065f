"""A norm by batch statistics, a sum and a ReLU as one operation on a CPU, over norm.cpp: two passes over memory
forward, and two backward.

Which gradients pass a ReLU is read off the norm's own input, which is kept for its gradient anyway, so that nothing
else is. Where something was added before the ReLU, a bit per element is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from image2point.voxels import relu
from image2point.voxels.compiled import NAMES, call
from image2point.voxels.conv.epilogue import CEILINGS
from image2point.voxels.norm import BatchNorm, norm_gradients
from image2point.voxels.norm_activate import may_be_one

_PASSES = {"identity": 0, "relu": 1, "relu6": 2}


def takes(norm: BatchNorm, rows: Tensor, residual: Tensor | None, activation: str | None) -> bool:
    """Whether `norm_activate` can run: on a CPU with a compiler, on tensors of one type. Where it cannot, the modules
    run one by one, to the same result up to rounding."""
    if not may_be_one(norm, rows, residual, activation) or not relu.is_compiled(rows):
        return False
    return norm.running_mean is not None and rows.dtype == norm.weight.dtype == norm.running_mean.dtype


def norm_activate(rows: Tensor, norm: BatchNorm, residual: Tensor | None, activation: str) -> Tensor:
    """activation(norm(rows) + residual) for what `takes` accepts; the running statistics move.

    Differentiable in rows, residual, weight and bias; the gradient can be differentiated again, in plain torch.

    Args:
        rows, residual: [N, C].
        activation: identity, relu or relu6.
    """
    running = norm.running_mean, norm.running_var, norm.num_batches_tracked
    fixed = running, norm.momentum, norm.eps, activation, torch.is_grad_enabled()
    return _NormActivate.apply(rows, norm.weight, norm.bias, residual, *fixed)


class _NormActivate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        running: tuple[Tensor, Tensor, Tensor],
        momentum: float,
        eps: float,
        activation: str,
        keep: bool,
    ) -> Tensor:
        x, added = rows.detach().contiguous(), None if residual is None else residual.detach().contiguous()
        size, channels = x.shape
        mean, variance = torch.empty(2, channels, dtype=torch.float64)
        call(f"moments_{NAMES[x.dtype]}", x, size, channels, mean, variance)
        running[0].lerp_(mean.to(x.dtype), momentum)
        running[1].lerp_((variance * (size / (size - 1))).to(x.dtype), momentum)
        running[2].add_(1)
        rate = torch.rsqrt(variance + eps)
        scale = rate * weight.detach()
        numbers = torch.stack([mean, rate, scale, bias.detach() - mean * scale]).to(x.dtype)
        y, bits = torch.empty_like(x), None
        if added is None:
            call(f"normalise_{NAMES[x.dtype]}", x, *numbers[2:], y, _PASSES[activation], size, channels)
        else:
            bits = relu.finish_in_one_pass(x, numbers[2], numbers[3], added, CEILINGS.get(activation), keep, y)
        ctx.save_for_backward(rows, weight, numbers, bits)
        ctx.eps, ctx.activation = eps, activation
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, numbers, bits = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3]
        if torch.is_grad_enabled():  # to be differentiated again
            passed = _passed(gradients[0], rows, numbers, bits, ctx.activation)
            data, of_weight, of_bias = norm_gradients(passed, rows, weight, ctx.eps)
            return data, of_weight, of_bias, passed if wanted else None, *(None,) * 5
        gradient, x = gradients[0].contiguous(), rows.detach().contiguous()
        added = torch.empty_like(x) if wanted and bits is not None else None
        data, sums = torch.empty_like(x), torch.empty(2, x.shape[1], dtype=torch.float64)
        given = (0 if bits is None else bits), numbers, data, (0 if added is None else added)
        passes = _PASSES[ctx.activation] if bits is None else 0
        call(f"norm_gradient_{NAMES[x.dtype]}", gradient, x, *given, *sums, passes, *x.shape)
        of_weight, of_bias = sums.to(weight.dtype)
        passed = gradient if added is None else added
        return data, of_weight, of_bias, passed if wanted else None, *(None,) * 5


def _passed(gradient: Tensor, rows: Tensor, numbers: Tensor, bits: Tensor | None, activation: str) -> Tensor:
    """What the activation passes of a gradient [N, C]; differentiable."""
    if bits is not None:
        return relu.masked(gradient, bits)
    if activation == "identity":
        return gradient
    y = torch.addcmul(numbers[3], rows.detach(), numbers[2])
    return relu.masked(gradient, (y <= 0) | (y >= CEILINGS[activation]))
