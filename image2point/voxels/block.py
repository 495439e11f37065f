"""Convolution, norm, sum and activation, of which a frozen stretch of a network consists, as one operation."""

from __future__ import annotations

import torch
from torch import nn

from image2point.voxels.conv.epilogue import CEILINGS, Epilogue, name_of
from image2point.voxels.functional import add
from image2point.voxels.modules import Pointwise, VoxelConv, autocast_type
from image2point.voxels.norm import BatchNorm
from image2point.voxels.tensor import Voxels, VoxelTensor


def convolve_norm_activate(
    conv: VoxelConv, norm: BatchNorm, activation: Pointwise | None, x: Voxels, residual: Voxels | None = None
) -> Voxels:
    """activation(norm(conv(x)) + residual).

    On sparse voxels, with a frozen convolution and a frozen norm in eval mode, these are one operation
    (`conv.fused`): the same up to rounding, in fewer passes over memory and fewer launches on a GPU. Otherwise the
    modules run one by one.
    """
    if isinstance(x, VoxelTensor) and (steps := _steps(conv, norm, activation, x, residual)) is not None:
        return conv.finished(x, steps)
    y = norm(conv(x))
    if residual is not None:
        y = add(y, residual)
    return y if activation is None else activation(y)


def _steps(
    conv: VoxelConv, norm: BatchNorm, activation: Pointwise | None, x: VoxelTensor, residual: Voxels | None
) -> Epilogue | None:
    """What follows the convolution, if all of it can be done in one."""
    if norm.training or norm.running_mean is None or conv.engine == "reference" or conv.depth_padding != "zeros":
        return None
    parts: list[nn.Module] = [conv, norm]
    if activation is not None:
        parts += [activation, activation.module]
    if torch.compiler.is_compiling() or any(map(_is_watched, parts)):
        return None
    takes_gradients = torch.is_grad_enabled()
    if takes_gradients and any(p.requires_grad for part in (conv, norm) for p in part.parameters()):
        return None
    name = name_of(None if activation is None else activation.module)
    if name is None or (takes_gradients and name not in ("identity", *CEILINGS)):
        return None
    dtype = autocast_type(x) or x.features.dtype
    if dtype != conv.weight.dtype and autocast_type(x) is None:
        return None  # the convolution says what is wrong
    added = None
    if residual is not None:
        if not isinstance(residual, VoxelTensor) or not x.sites.coarsen(conv.window.stride).same(residual.sites):
            return None  # `add` says what is wrong
        added = residual.features
        if added.dtype != dtype:
            return None
    scale, shift = norm.scale_and_shift(dtype)
    if conv.bias is not None:
        shift = shift + scale * conv.bias.detach().to(dtype)
    return Epilogue(scale, shift, added, name)


def _is_watched(module: nn.Module) -> bool:
    """Whether someone wants to see what goes through a module."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
