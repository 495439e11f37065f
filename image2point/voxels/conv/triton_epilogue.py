"""The steps of an `Epilogue` in the convolution's kernel. Arithmetic is in float32."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from image2point.voxels.conv.epilogue import Epilogue
from image2point.voxels.conv.triton_tune import ceil_div, power_of_two


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    """NaN stays NaN, as in torch."""
    if ACTIVATION == "relu":
        z = tl.where(z < 0.0, 0.0, z)
    elif ACTIVATION == "relu6":
        z = tl.where(z < 0.0, 0.0, tl.where(z > 6.0, 6.0, z))
    elif ACTIVATION == "silu":
        z = z * tl.sigmoid(z)
    elif ACTIVATION == "hardswish":
        z = z * tl.where(z < -3.0, 0.0, tl.where(z > 3.0, 1.0, (z + 3.0) / 6.0))
    return z


@triton.jit
def finish(z, y_ptr, offsets, channel, valid, scale_ptr, shift_ptr, residual_ptr, C, ACTIVATION: tl.constexpr):
    """Take the steps on a tile z [rows, channels] in float32 and store it.

    offsets: of the tile's elements in y and residual, which are laid out alike. channel: of its columns.
    """
    inside = channel < C
    if scale_ptr is not None:
        z = z * tl.load(scale_ptr + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    if shift_ptr is not None:
        z += tl.load(shift_ptr + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    if residual_ptr is not None:
        z += tl.load(residual_ptr + offsets, mask=valid, other=0.0).to(tl.float32)
    tl.store(y_ptr + offsets, activate(z, ACTIVATION).to(y_ptr.dtype.element_ty), mask=valid)


@triton.jit(do_not_specialize=["M"])
def _sum_parts(
    partial_ptr,
    y_ptr,
    scale_ptr,
    shift_ptr,
    residual_ptr,
    M,
    C,
    PARTS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    valid = (row < M)[:, None] & (channel < C)[None, :]
    offsets = row.to(tl.int64)[:, None] * C + channel[None, :]
    z = tl.zeros((ROWS, CHANNELS), dtype=tl.float32)
    for part in range(PARTS):
        z += tl.load(partial_ptr + part * (M.to(tl.int64) * C) + offsets, mask=valid, other=0.0)
    finish(z, y_ptr, offsets, channel, valid, scale_ptr, shift_ptr, residual_ptr, C, ACTIVATION)


def sum_parts(partial: Tensor, y: Tensor, epilogue: Epilogue) -> None:
    """Add partial results float32 [parts, M, C] in their order, take the steps, and store in y [M, C]."""
    parts, rows, channels = partial.shape
    block_rows, block_channels = 32, min(128, power_of_two(channels))
    _sum_parts[(ceil_div(rows, block_rows), ceil_div(channels, block_channels))](
        partial,
        y,
        epilogue.scale,
        epilogue.shift,
        epilogue.residual,
        rows,
        channels,
        PARTS=parts,
        ACTIVATION=epilogue.activation,
        ROWS=block_rows,
        CHANNELS=block_channels,
    )
