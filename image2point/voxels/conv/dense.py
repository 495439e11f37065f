"""Convolution of dense grids, with the same outputs per axis as the sparse one: ceil(n / stride)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv3d_input

from image2point.voxels.plan import Window


def frame(
    grid: Tensor,
    window: Window,
    fill: float = 0.0,
    replicate: int | None = None,
    only: frozenset[int] = frozenset((0, 1, 2)),
) -> Tensor:
    """Pad (or crop) a grid [B, C, X, Y, Z] so that a window without padding gives ceil(n / stride) outputs.

    Args:
        replicate: axis (0, 1, 2) along which border slices are repeated instead of filled.
        only: axes to treat.
    """
    amounts = []
    for axis in range(3):
        if axis not in only:
            amounts.append((0, 0))
            continue
        size = grid.shape[2 + axis]
        last = (-(-size // window.stride) - 1) * window.stride + (window.kernel[axis] - 1) * window.dilation
        amounts.append((window.padding[axis], last - window.padding[axis] + 1 - size))
    if replicate is not None:
        index = torch.arange(-amounts[replicate][0], grid.shape[2 + replicate] + amounts[replicate][1])
        index = index.clamp_(0, grid.shape[2 + replicate] - 1).to(grid.device)
        grid = grid.index_select(2 + replicate, index)
        amounts[replicate] = (0, 0)
    if any(max(amount) > 0 for amount in amounts):
        grid = F.pad(grid, [max(a, 0) for pair in reversed(amounts) for a in pair], value=fill)
    for axis, (near, far) in enumerate(amounts):
        if near < 0 or far < 0:  # the first window begins after the grid does, or the last one ends before it
            start = max(-near, 0)
            grid = grid.narrow(2 + axis, start, grid.shape[2 + axis] - start + min(far, 0))
    return grid


def convolve(
    grid: Tensor,
    weight: Tensor,
    window: Window,
    groups: int = 1,
    replicate: int | None = None,
    depth: Tensor | None = None,
) -> Tensor:
    """[B, C_in, X, Y, Z] → [B, C_out, ⌈X/s⌉, ⌈Y/s⌉, ⌈Z/s⌉].

    Args:
        weight: [C_out, C_in / groups, kx, ky, kz], of size 1 along the axes where all taps share one weight: along
            those the grid is summed first, and an inflated kernel costs what its 2D kernel does on each slice.
        replicate: axis along which border slices are repeated instead of padded with zeros.
        depth: weights of the slices in the sums along the one axis that is summed first; None: all are 1.
    """
    grid = frame(grid, window, replicate=replicate)
    stride = [window.stride] * 3
    for axis in range(3):
        if weight.shape[2 + axis] < window.kernel[axis]:
            grid, stride[axis] = _box_sum(grid, axis, window, depth), 1
    if torch.is_grad_enabled() and grid.requires_grad and not weight.requires_grad:
        return _FrozenKernel.apply(grid, weight, tuple(stride), window.dilation, groups)
    return F.conv3d(grid, weight, stride=stride, dilation=window.dilation, groups=groups)


def _box_sum(grid: Tensor, axis: int, window: Window, weights: Tensor | None = None) -> Tensor:
    """Sum over the taps along an axis, with a weight for each, at every stride-th place."""
    reach = (window.kernel[axis] - 1) * window.dilation
    length = (grid.shape[2 + axis] - reach - 1) // window.stride * window.stride + 1
    index: list[slice] = [slice(None)] * 5
    total: Tensor | None = None
    for tap in range(window.kernel[axis]):
        start = tap * window.dilation
        index[2 + axis] = slice(start, start + length, window.stride)
        part = grid[tuple(index)] if weights is None else grid[tuple(index)] * weights[tap]
        total = part if total is None else total + part
    assert total is not None
    return total


class _FrozenKernel(torch.autograd.Function):
    """conv3d that keeps no input: torch's own keeps one, even where the kernel asks for no gradient."""

    @staticmethod
    def forward(
        ctx: Any, grid: Tensor, weight: Tensor, stride: tuple[int, int, int], dilation: int, groups: int
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.options = grid.shape, {"stride": stride, "dilation": dilation, "groups": groups}
        return F.conv3d(grid, weight, **ctx.options)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return conv3d_input(ctx.shape, weight, gradients[0], **ctx.options), None, None, None, None
