"""Batch norm by the statistics of the batch, a sum and a ReLU, in Triton: two kernels forward and two backward.

The rows are shared among `PARTS` programs, whose means and centred squares (backward: sums) the second kernel puts
together, in the same order in each of its programs. Arithmetic is in float32, and every run gives the same bits.

Of padded rows (`voxels.padding`) the first `real` count, a number that the kernels read on the device. The others get
what follows a normed input of zero, and no gradient.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from image2point.voxels.conv.triton_epilogue import activate
from image2point.voxels.conv.triton_tune import ceil_div, power_of_two

_ROWS = 32


@triton.jit
def _counted(real_ptr, M):
    """How many of the M rows count."""
    counted = M
    if real_ptr is not None:
        counted = tl.load(real_ptr).to(tl.int32)
    return counted


@triton.jit(do_not_specialize=["M"])
def _moments(
    x_ptr, mean_ptr, squares_ptr, real_ptr, M, C, PARTS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Mean and sum of centred squares of each part's rows (Chan et al. 1983, eq. 2.1), float32 [PARTS, C]."""
    part = tl.program_id(0)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < C
    counted = _counted(real_ptr, M)
    share = tl.cdiv(counted, PARTS)
    first = part * share
    last = tl.minimum(first + share, counted)
    mean = tl.zeros((CHANNELS,), dtype=tl.float32)
    squares = tl.zeros((CHANNELS,), dtype=tl.float32)
    for begin in range(first, last, ROWS):
        row = begin + tl.arange(0, ROWS)
        valid = (row < last)[:, None] & inside[None, :]
        x = tl.load(x_ptr + row.to(tl.int64)[:, None] * C + channel[None, :], mask=valid, other=0.0).to(tl.float32)
        new = tl.minimum(last - begin, ROWS).to(tl.float32)
        old = (begin - first).to(tl.float32)
        own = tl.sum(x, 0) / new
        centred = tl.where(valid, x - own[None, :], 0.0)
        apart = own - mean
        squares += tl.sum(centred * centred, 0) + apart * apart * (old * new / (old + new))
        mean += apart * (new / (old + new))
    tl.store(mean_ptr + part * C + channel, mean, mask=inside)
    tl.store(squares_ptr + part * C + channel, squares, mask=inside)


@triton.jit(do_not_specialize=["M"])
def _normalise(
    x_ptr,
    mean_ptr,
    squares_ptr,
    weight_ptr,
    bias_ptr,
    residual_ptr,
    y_ptr,
    outside_ptr,
    centre_ptr,
    rate_ptr,
    running_mean_ptr,
    running_var_ptr,
    tracked_ptr,
    real_ptr,
    M,
    C,
    momentum,
    eps,
    PARTS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The result, and where it lies on a bound of the ReLU; the first programs move the running statistics."""
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < C
    counted = _counted(real_ptr, M)
    share = tl.cdiv(counted, PARTS)
    part = tl.arange(0, PARTS)
    count = tl.maximum(tl.minimum((part + 1) * share, counted) - part * share, 0).to(tl.float32)[:, None]
    place = part[:, None] * C + channel[None, :]
    means = tl.load(mean_ptr + place, mask=inside[None, :], other=0.0)
    squares = tl.load(squares_ptr + place, mask=inside[None, :], other=0.0)
    rows = counted.to(tl.float32)
    mean = tl.sum(count * means, 0) / rows
    apart = means - mean[None, :]
    variance = tl.sum(squares + count * apart * apart, 0) / rows
    rate = 1.0 / tl.sqrt(variance + eps)
    if tl.program_id(0) == 0:
        tl.store(centre_ptr + channel, mean, mask=inside)
        tl.store(rate_ptr + channel, rate, mask=inside)
        held = tl.load(running_mean_ptr + channel, mask=inside, other=0.0)
        tl.store(running_mean_ptr + channel, held + momentum * (mean - held), mask=inside)
        held = tl.load(running_var_ptr + channel, mask=inside, other=0.0)
        unbiased = variance * (rows / (rows - 1.0))
        tl.store(running_var_ptr + channel, held + momentum * (unbiased - held), mask=inside)
        if tl.program_id(1) == 0:
            tl.store(tracked_ptr, tl.load(tracked_ptr) + 1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = (row < M)[:, None] & inside[None, :]
    offsets = row.to(tl.int64)[:, None] * C + channel[None, :]
    x = tl.load(x_ptr + offsets, mask=valid, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    centred = x - mean[None, :]
    if real_ptr is not None:
        centred = tl.where((row < counted)[:, None], centred, 0.0)
    z = centred * (rate * weight)[None, :] + bias[None, :]
    if residual_ptr is not None:
        z += tl.load(residual_ptr + offsets, mask=valid, other=0.0).to(tl.float32)
    y = activate(z, ACTIVATION).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + offsets, y, mask=valid)
    if outside_ptr is not None:
        bound = y == 0.0
        if ACTIVATION == "relu6":
            bound = bound | (y == 6.0)
        tl.store(outside_ptr + offsets, bound.to(tl.uint8), mask=valid)


@triton.jit
def _passed(gradient_ptr, outside_ptr, offsets, valid):
    """The gradient where it passes the ReLU, in float32."""
    gradient = tl.load(gradient_ptr + offsets, mask=valid, other=0.0).to(tl.float32)
    if outside_ptr is not None:
        gradient = tl.where(tl.load(outside_ptr + offsets, mask=valid, other=1) != 0, 0.0, gradient)
    return gradient


@triton.jit(do_not_specialize=["M"])
def _sums(
    x_ptr,
    gradient_ptr,
    outside_ptr,
    centre_ptr,
    rate_ptr,
    sum_ptr,
    product_ptr,
    real_ptr,
    M,
    C,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Sums over each part's rows of the gradient, and of the gradient times the normed input: float32 [PARTS, C]."""
    part = tl.program_id(0)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < C
    centre = tl.load(centre_ptr + channel, mask=inside, other=0.0)
    rate = tl.load(rate_ptr + channel, mask=inside, other=0.0)
    counted = _counted(real_ptr, M)
    share = tl.cdiv(counted, PARTS)
    first = part * share
    last = tl.minimum(first + share, counted)
    total = tl.zeros((CHANNELS,), dtype=tl.float32)
    product = tl.zeros((CHANNELS,), dtype=tl.float32)
    for begin in range(first, last, ROWS):
        row = begin + tl.arange(0, ROWS)
        valid = (row < last)[:, None] & inside[None, :]
        offsets = row.to(tl.int64)[:, None] * C + channel[None, :]
        gradient = _passed(gradient_ptr, outside_ptr, offsets, valid)
        x = tl.load(x_ptr + offsets, mask=valid, other=0.0).to(tl.float32)
        total += tl.sum(gradient, 0)
        product += tl.sum(gradient * (x - centre[None, :]) * rate[None, :], 0)
    tl.store(sum_ptr + part * C + channel, total, mask=inside)
    tl.store(product_ptr + part * C + channel, product, mask=inside)


@triton.jit(do_not_specialize=["M"])
def _gradient(
    x_ptr,
    gradient_ptr,
    outside_ptr,
    centre_ptr,
    rate_ptr,
    weight_ptr,
    sum_ptr,
    product_ptr,
    data_ptr,
    residual_ptr,
    of_weight_ptr,
    of_bias_ptr,
    real_ptr,
    M,
    C,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Gradients of the input, of what was added, and, in the first programs, of weight and bias."""
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < C
    place = tl.arange(0, PARTS)[:, None] * C + channel[None, :]
    total = tl.sum(tl.load(sum_ptr + place, mask=inside[None, :], other=0.0), 0)
    product = tl.sum(tl.load(product_ptr + place, mask=inside[None, :], other=0.0), 0)
    if tl.program_id(0) == 0:
        tl.store(of_weight_ptr + channel, product, mask=inside)
        tl.store(of_bias_ptr + channel, total, mask=inside)
    centre = tl.load(centre_ptr + channel, mask=inside, other=0.0)
    rate = tl.load(rate_ptr + channel, mask=inside, other=0.0)
    weight = tl.load(weight_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = (row < M)[:, None] & inside[None, :]
    offsets = row.to(tl.int64)[:, None] * C + channel[None, :]
    gradient = _passed(gradient_ptr, outside_ptr, offsets, valid)
    x = tl.load(x_ptr + offsets, mask=valid, other=0.0).to(tl.float32)
    counted = _counted(real_ptr, M)
    rows = counted.to(tl.float32)
    normed = (x - centre[None, :]) * rate[None, :]
    data = (rate * weight)[None, :] * (gradient - (total / rows)[None, :] - normed * (product / rows)[None, :])
    if real_ptr is not None:
        data = tl.where((row < counted)[:, None], data, 0.0)
    tl.store(data_ptr + offsets, data.to(data_ptr.dtype.element_ty), mask=valid)
    if residual_ptr is not None:
        tl.store(residual_ptr + offsets, gradient.to(residual_ptr.dtype.element_ty), mask=valid)


def _cut(rows: int, channels: int) -> tuple[int, int, int, dict[str, int]]:
    """Parts, blocks of rows and of channels, and the sizes of a block."""
    parts = min(64, power_of_two(ceil_div(rows, 4 * _ROWS)))
    block = min(64, power_of_two(channels))
    sizes = {"PARTS": parts, "ROWS": _ROWS, "CHANNELS": block}
    return parts, ceil_div(rows, _ROWS), ceil_div(channels, block), sizes


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running: tuple[Tensor, Tensor, Tensor],
    momentum: float,
    eps: float,
    residual: Tensor | None,
    activation: str,
    keep: bool,
    real: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """activation(norm(x) + residual), by the statistics of x; moves the running ones.

    Args:
        x, residual: [M, C], contiguous, M ≥ 2.
        running: mean [C], variance [C] (unbiased) and number of batches, float32 and int64.
        activation: identity, relu or relu6.
        keep: whether a gradient will be asked for.
        real: int64 [], how many rows count, at least two; None: all.

    Returns:
        The result [M, C]; mean and 1 / √(variance + eps), float32 [C]; where the ReLU lets no gradient pass, uint8
        [M, C], if that is to be kept.
    """
    (rows, channels), (parts, high, wide, sizes) = x.shape, _cut(*x.shape)
    moments = x.new_empty(2, parts, channels, dtype=torch.float32)
    found = x.new_empty(2, channels, dtype=torch.float32)
    y = torch.empty_like(x)
    outside = torch.empty_like(x, dtype=torch.uint8) if keep and activation != "identity" else None
    _moments[(parts, wide)](x, moments[0], moments[1], real, rows, channels, **sizes)
    _normalise[(high, wide)](
        x, moments[0], moments[1], weight, bias, residual, y, outside, found[0], found[1], *running, real, rows,
        channels, momentum, eps, ACTIVATION=activation, **sizes,
    )  # fmt: skip
    return y, found[0], found[1], outside


def backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    rate: Tensor,
    outside: Tensor | None,
    residual: bool,
    real: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Gradients of the input and of what was added (if asked for), [M, C], of weight and of bias, float32 [C]."""
    (rows, channels), (parts, high, wide, sizes) = x.shape, _cut(*x.shape)
    sums = x.new_empty(2, parts, channels, dtype=torch.float32)
    found = x.new_empty(2, channels, dtype=torch.float32)
    data = torch.empty_like(x)
    added = torch.empty_like(x) if residual else None
    _sums[(parts, wide)](x, gradient, outside, mean, rate, sums[0], sums[1], real, rows, channels, **sizes)
    _gradient[(high, wide)](
        x, gradient, outside, mean, rate, weight, sums[0], sums[1], data, added, found[0], found[1], real, rows,
        channels, **sizes,
    )  # fmt: skip
    return data, added, found[0], found[1]
