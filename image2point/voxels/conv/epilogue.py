"""What may follow a convolution at once: y = activation(scale · conv + shift + residual).

A norm with fixed statistics is a scale and a shift per channel, so that the tail of a block needs no passes of its own.
Triton takes these steps in the convolution's kernel (`triton_epilogue`); elsewhere they are one pass, here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from image2point.voxels import relu

CEILINGS = {"relu": inf, "relu6": 6.0}
"""The activations of two or three straight pieces, of which a bit per element is enough for the gradient."""

_OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda y: y,
    "silu": partial(F.silu, inplace=True),
    "hardswish": partial(F.hardswish, inplace=True),
}
_NAMES = {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.SiLU: "silu", nn.Hardswish: "hardswish"}
ACTIVATIONS = (*CEILINGS, *_OTHERS)


@dataclass(frozen=True, eq=False)
class Epilogue:
    """The steps to take; None leaves one out.

    Attributes:
        scale, shift: [C_out].
        residual: [M, C_out], added before the activation.
        activation: one of `ACTIVATIONS`.
    """

    scale: Tensor | None = None
    shift: Tensor | None = None
    residual: Tensor | None = None
    activation: str = "identity"


def name_of(activation: nn.Module | None) -> str | None:
    """Which of `ACTIVATIONS` a module is, or None."""
    return "identity" if activation is None else _NAMES.get(type(activation))


def finish(y: Tensor, steps: Epilogue, keep: bool) -> tuple[Tensor, Tensor | None]:
    """Take the steps, which have a scale and a shift, on a convolution's result [M, C_out], in its own memory.

    Returns:
        y, and if a gradient is to be kept what `kept` says of it.
    """
    scale, shift, residual, activation = steps.scale, steps.shift, steps.residual, steps.activation
    assert scale is not None and shift is not None
    mask = None
    if relu.is_compiled(y):
        mask = relu.finish_in_one_pass(y, scale, shift, residual, CEILINGS.get(activation), keep)
    else:
        torch.addcmul(shift, y, scale, out=y)
        if residual is not None:
            y += residual
        if activation in CEILINGS:
            y.clamp_(0, CEILINGS[activation])
            mask = kept(y, activation) if keep else None
    return (y if activation in CEILINGS else _OTHERS[activation](y)), mask


def kept(y: Tensor, activation: str) -> Tensor | None:
    """Where the gradient passes a ReLU, read off its result [M, C_out] as `relu.masked` takes it; None: everywhere."""
    return relu.passing(y, CEILINGS[activation]) if activation in CEILINGS else None
