"""ReLU and ReLU6 on rows, of which one bit per element is kept for the gradient; on a GPU, one byte.

Torch keeps the whole output, since the layer after it usually keeps that too, for the gradient of its weight. Where
kernels are frozen nobody else does, and the outputs of the activations are nearly half of what a network holds. Where
a kernel is trained, the bits come on top of the output that it keeps: 1/32 more. On a CPU with a compiler, relu.cpp
does all in one pass each way, and what stands between a convolution and a ReLU along with it. In torch, packing takes
several passes, which a CPU's cache makes bearable. A GPU would wait for each to be started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from image2point.voxels.compiled import NAMES, call, library

_BLOCK = 1 << 18
"""Elements that are packed or unpacked at once, a multiple of 8: what the cache holds."""
_GATHER = 0x0102040810204080
"""Times a word of eight bytes 0 or 1: byte i becomes bit i of the highest byte. No two terms meet, and none carries."""
_REPEAT = 0x0101010101010101
"""Times a byte: the byte in all eight places."""
_BIT_OF_BYTE = 0x8040201008040201 - (1 << 64)
"""Bit i of byte i, as a signed number."""


def ceiling(activation: nn.Module) -> float | None:
    """Where a ReLU stops to rise: infinity, or 6; None for any other activation."""
    return {nn.ReLU: inf, nn.ReLU6: 6.0}.get(type(activation))


def relu(rows: Tensor, activation: Callable[[Tensor], Tensor], top: float) -> Tensor:
    """What `activation`, a ReLU that stops at `top`, gives; [N, C] → [N, C].

    Its gradient is torch's, 0 on both bounds, and can be differentiated again. NaN lets it pass.
    """
    return _Relu.apply(rows, activation, top)


class _Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, activation: Callable[[Tensor], Tensor], top: float) -> Tensor:
        if is_compiled(rows):
            output, kept = _in_one_pass(rows, top)
        else:
            output = activation(rows)
            kept = passing(output, top)
        ctx.save_for_backward(kept)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return masked(gradients[0], *ctx.saved_tensors), None, None


class _Where(torch.autograd.Function):
    """The gradient where it passes, 0 elsewhere; linear, and its own transpose."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, kept: Tensor) -> Tensor:
        ctx.save_for_backward(kept)
        return gradient.masked_fill(kept, 0) if kept.dtype == torch.bool else where(gradient, kept)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _Where.apply(gradients[0], *ctx.saved_tensors), None


def masked(gradient: Tensor, kept: Tensor) -> Tensor:
    """The gradient [N, C] of a ReLU's argument, by what `passing` found; differentiable."""
    return _Where.apply(gradient, kept)


def passing(output: Tensor, top: float) -> Tensor:
    """Which gradients pass a ReLU that gave `output` [N, C]: on a CPU a bit that says so (`rising`), elsewhere a byte
    that says that one does not (`outside`)."""
    return rising(output, top) if output.device.type == "cpu" else outside(output, top)


def is_compiled(rows: Tensor) -> bool:
    return rows.device.type == "cpu" and rows.dtype in NAMES and library() is not None


def _in_one_pass(rows: Tensor, top: float) -> tuple[Tensor, Tensor]:
    """The output of a ReLU [N, C], and the bits that `rising` reads off it."""
    rows = rows.detach().contiguous()
    output, bits = torch.empty_like(rows), torch.empty(-(-rows.numel() // 8), dtype=torch.uint8)
    call(f"rising_{NAMES[rows.dtype]}", rows, rows.numel(), int(top < inf), output, bits)
    return output, bits


def finish_in_one_pass(
    rows: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    top: float | None,
    keep: bool,
    output: Tensor | None = None,
) -> Tensor | None:
    """rows · scale + shift + residual and a ReLU that stops at `top` (None: no ReLU), in the memory of the rows.

    Args:
        rows, residual: [N, C]; scale, shift: [C]; all contiguous and of one type.
        output: [N, C], where the result goes instead.

    Returns:
        What `passing` finds of the result, if it is to be kept and there is a ReLU.
    """
    bits = torch.empty(-(-rows.numel() // 8), dtype=torch.uint8) if keep and top is not None else None
    kind = 0 if top is None else 2 if top < inf else 1
    given = 0 if residual is None else residual, kind, 0 if bits is None else bits
    call(f"finish_{NAMES[rows.dtype]}", rows, rows if output is None else output, *rows.shape, scale, shift, *given)
    return bits


def outside(output: Tensor, top: float) -> Tensor:
    """Where a ReLU's output [N, C] lies on one of its bounds, a byte per element: bool [N, C]."""
    found = output == 0
    return found.logical_or_(output == top) if top < inf else found


def rising(output: Tensor, top: float) -> Tensor:
    """Where a ReLU's output [N, C] lies between its bounds, element 8 k + i in bit i of byte k: uint8 [⌈N C / 8⌉]."""
    flat = output.detach().contiguous().flatten()
    bits = torch.empty(-(-len(flat) // 8), dtype=torch.uint8, device=flat.device)
    for elements, places in _blocks(flat):
        inside = flat[elements].to(torch.bool)  # several times as fast as a comparison
        if top < inf:
            inside &= (flat[elements] - top).to(torch.bool)
        if missing := -len(inside) % 8:
            inside = torch.nn.functional.pad(inside, (0, missing))
        bits[places] = inside.view(torch.int64) * _GATHER >> 56
    return bits


def where(gradient: Tensor, bits: Tensor) -> Tensor:
    """The gradient [N, C] where `rising` set the bit, 0 elsewhere."""
    flat = gradient.detach().contiguous().flatten()  # that of a sum is one number, read with stride 0
    result = torch.empty_like(flat)
    if is_compiled(flat):
        call(f"where_{NAMES[flat.dtype]}", flat, len(flat), bits, result)
        return result.view(gradient.shape)
    for elements, places in _blocks(flat):
        words = bits[places].to(torch.int64).mul_(_REPEAT).bitwise_and_(_BIT_OF_BYTE)
        inside = words.view(torch.uint8)[: len(flat[elements])].to(flat.dtype)
        # Several times as fast on a CPU as torch.where.
        torch.ops.aten.threshold_backward.grad_input(flat[elements], inside, 0, grad_input=result[elements])
    return result.view(gradient.shape)


def _blocks(flat: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of the elements, and of their bytes of bits."""
    for start in range(0, len(flat), _BLOCK):
        stop = min(start + _BLOCK, len(flat))
        yield slice(start, stop), slice(start // 8, -(-stop // 8))
