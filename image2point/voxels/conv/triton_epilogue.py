"""What may follow a convolution in the same kernel: y = activation(scale · conv + shift + residual).

scale and shift are a norm with fixed statistics, or a bias. Arithmetic is in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from image2point.voxels.conv.triton_tune import ceil_div, power_of_two

# Those whose derivative can be read off their output, and those that need their argument.
FROM_OUTPUT = ("identity", "relu", "relu6")
FROM_ARGUMENT = ("silu", "hardswish")
ACTIVATIONS = FROM_OUTPUT + FROM_ARGUMENT


@dataclass(frozen=True, eq=False)
class Epilogue:
    """The steps to take; None leaves one out.

    Attributes:
        scale, shift: [C_out].
        residual: [M, C_out], added before the activation.
        activation: one of `ACTIVATIONS`.
        argument: [M, C_out], receives what the activation is applied to.
    """

    scale: Tensor | None = None
    shift: Tensor | None = None
    residual: Tensor | None = None
    activation: str = "identity"
    argument: Tensor | None = None


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
def slope(z, ACTIVATION: tl.constexpr):
    """Derivative of the activation: of its output for the first three, of its argument for the others."""
    if ACTIVATION == "relu":
        return tl.where(z > 0.0, 1.0, 0.0)
    elif ACTIVATION == "relu6":
        return tl.where((z > 0.0) & (z < 6.0), 1.0, 0.0)
    elif ACTIVATION == "silu":
        s = tl.sigmoid(z)
        return s * (1.0 + z * (1.0 - s))
    elif ACTIVATION == "hardswish":
        return tl.where(z <= -3.0, 0.0, tl.where(z >= 3.0, 1.0, (2.0 * z + 3.0) / 6.0))


@triton.jit
def finish(
    z, y_ptr, offsets, channel, valid, scale_ptr, shift_ptr, residual_ptr, argument_ptr, C, ACTIVATION: tl.constexpr
):
    """Take the steps on a tile z [rows, channels] in float32 and store it.

    offsets: of the tile's elements in y, residual and argument, which are laid out alike. channel: of its columns.
    """
    inside = channel < C
    if scale_ptr is not None:
        z = z * tl.load(scale_ptr + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    if shift_ptr is not None:
        z += tl.load(shift_ptr + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    if residual_ptr is not None:
        z += tl.load(residual_ptr + offsets, mask=valid, other=0.0).to(tl.float32)
    if argument_ptr is not None:
        tl.store(argument_ptr + offsets, z.to(argument_ptr.dtype.element_ty), mask=valid)
    tl.store(y_ptr + offsets, activate(z, ACTIVATION).to(y_ptr.dtype.element_ty), mask=valid)


@triton.jit(do_not_specialize=["M"])
def _sum_parts(
    partial_ptr,
    y_ptr,
    scale_ptr,
    shift_ptr,
    residual_ptr,
    argument_ptr,
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
    finish(z, y_ptr, offsets, channel, valid, scale_ptr, shift_ptr, residual_ptr, argument_ptr, C, ACTIVATION)


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
        epilogue.argument,
        rows,
        channels,
        PARTS=parts,
        ACTIVATION=epilogue.activation,
        ROWS=block_rows,
        CHANNELS=block_channels,
    )


@triton.jit
def _reverse(
    gradient_ptr, z_ptr, scale_ptr, sum_ptr, product_ptr, size, C, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = place < size
    gradient = tl.load(gradient_ptr + place, mask=valid, other=0.0).to(tl.float32)
    if ACTIVATION != "identity":
        gradient *= slope(tl.load(z_ptr + place, mask=valid, other=0.0).to(tl.float32), ACTIVATION)
    if sum_ptr is not None:
        tl.store(sum_ptr + place, gradient.to(sum_ptr.dtype.element_ty), mask=valid)
    if scale_ptr is not None:
        gradient *= tl.load(scale_ptr + place % C, mask=valid, other=0.0).to(tl.float32)
    tl.store(product_ptr + place, gradient.to(product_ptr.dtype.element_ty), mask=valid)


def reverse(
    gradient: Tensor, z: Tensor | None, scale: Tensor | None, activation: str, with_residual: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the convolution's result and of the residual, in one pass.

    Args:
        gradient: of y, [M, C].
        z: y where `activation` is in `FROM_OUTPUT`, the activation's argument where it is not; None for identity.
    """
    gradient = gradient.contiguous()
    product = torch.empty_like(gradient)
    residual = torch.empty_like(gradient) if with_residual else None
    size, block = gradient.numel(), 1024
    if size:
        _reverse[(ceil_div(size, block),)](
            gradient, z, scale, residual, product, size, gradient.shape[1], ACTIVATION=activation, BLOCK=block
        )
    return product, residual
