"""Batch normalisation over occupied sites, and over the sites of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from image2point.voxels.errors import VoxelError
from image2point.voxels.functional import on_rows, pointwise
from image2point.voxels.tensor import Voxels, VoxelTensor


class BatchNorm(_BatchNorm):
    """`torch.nn.BatchNorm2d` for voxels: same parameters, buffers and names in the state dict.

    Statistics count occupied sites only. In training they are taken over the sites of all processes, from
    counts, sums and centred squares, so that n processes equal one at the same global batch. In evaluation it
    is a scale and a shift, which keeps no input where its parameters are frozen.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of rows is right: there is no layout to check."""

    def forward(self, x: Voxels) -> Voxels:  # type: ignore[override]
        if self.training or self.running_mean is None:
            if isinstance(x, VoxelTensor) and x.sites.real is not None:
                return x.replace(self._normalise_by_sums(x.features, self._begin(), x.sites.real))
            return on_rows(self._normalise, x)
        return pointwise(self._by_running_statistics, x)

    def _normalise(self, rows: Tensor) -> Tensor:
        """[N, C] → [N, C], by the statistics of the rows themselves"""
        momentum = self._begin()
        if self.training and _many_processes():
            return self._normalise_by_sums(rows, momentum)
        return torch.nn.functional.batch_norm(
            _at_least_two(rows, self.training),
            self.running_mean if self.training else None,
            self.running_var if self.training else None,
            self.weight,
            self.bias,
            True,
            0.0 if momentum is None else momentum,
            self.eps,
        )

    def _begin(self) -> float | None:
        """Count a batch; how far it moves the running statistics."""
        if not self.training or self.num_batches_tracked is None:
            return self.momentum
        self.num_batches_tracked.add_(1)
        return 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum  # None: their mean

    def scale_and_shift(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The norm by its running statistics: x · scale + shift, [C] each."""
        assert self.running_var is not None and self.running_mean is not None
        scale = torch.rsqrt(self.running_var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        if self.bias is None:
            shift = -self.running_mean * scale
        else:
            shift = torch.addcmul(self.bias, self.running_mean, scale, value=-1)
        return scale.to(dtype), shift.to(dtype)

    def _by_running_statistics(self, features: Tensor) -> Tensor:
        """[N, C] → [N, C], or [B, C, X, Y, Z] → [B, C, X, Y, Z]"""
        scale, shift = self.scale_and_shift(features.dtype)
        shape = (-1,) + (1,) * (features.ndim - 2)
        return torch.addcmul(shift.view(shape), features, scale.view(shape))

    def _normalise_by_sums(self, rows: Tensor, momentum: float | None, real: Tensor | None = None) -> Tensor:
        """As `_normalise`, over the rows of all processes; of padded rows the first `real` count."""
        wide = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
        add_up = _SumOverProcesses.apply if self.training and _many_processes() else Tensor.clone
        if real is None:
            count = wide.new_tensor([len(wide)])
        else:
            count, padding = real.to(wide.dtype).view(1), torch.arange(len(wide), device=wide.device) >= real
            wide = wide.masked_fill(padding.unsqueeze(1), 0)
        total = add_up(torch.cat([wide.sum(0), count]))
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = wide - mean
        if real is not None:
            centred = centred.masked_fill(padding.unsqueeze(1), 0)
        variance = add_up(centred.square().sum(0)) / count
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                rate = 0.0 if momentum is None else momentum
                unbiased = variance * (count / (count - 1))
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate)
        normal = centred * torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            normal = normal * self.weight
        if self.bias is not None:
            normal = normal + self.bias
        return normal.to(rows.dtype)


def norm_gradients(gradient: Tensor, rows: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the rows [N, C], of weight and of bias [C] of a norm by the statistics of the rows, from that of its
    result [N, C]; of operations that can be differentiated."""
    half = rows.dtype in (torch.float16, torch.bfloat16)
    wide, x = (gradient.float(), rows.float()) if half else (gradient, rows)
    variance, mean = torch.var_mean(x, 0, correction=0)
    rate = torch.rsqrt(variance + eps)
    normed = (x - mean) * rate
    product = wide * normed
    data = rate * weight * (wide - wide.mean(0) - normed * product.mean(0))
    return data.to(rows.dtype), product.sum(0), wide.sum(0)


class _SumOverProcesses(torch.autograd.Function):
    """The sum over all processes, of values and, on the way back, of gradients.

    Written out because `torch.distributed.nn` is deprecated and what replaces it is private to torch.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def _many_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _at_least_two(rows: Tensor, training: bool) -> Tensor:
    if training and len(rows) < 2:
        raise VoxelError(
            "batch norm in training needs at least two voxels to take a variance, found one; "
            "use larger batches, a smaller voxel size, or freeze the norms"
        )
    return rows
