"""Convolution, norm, sum and activation, of which a frozen stretch of a network consists, as one operation."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

from image2point.voxels import compiled_norm
from image2point.voxels.conv.epilogue import CEILINGS, Epilogue, name_of
from image2point.voxels.functional import add
from image2point.voxels.modules import Pointwise, TiedConv, VoxelConv, autocast_type
from image2point.voxels.norm import BatchNorm
from image2point.voxels.norm_activate import norm_activate, takes
from image2point.voxels.tensor import Voxels, VoxelTensor


def convolve_norm_activate(
    conv: VoxelConv, norm: BatchNorm, activation: Pointwise | None, x: Voxels, residual: Voxels | None = None
) -> Voxels:
    """activation(norm(conv(x)) + residual).

    On sparse voxels, with a convolution and a norm that are constants here (frozen, or no gradient is taken; the norm
    by its running statistics), these are one operation (`conv.fused`): the same up to rounding, in fewer passes over
    memory. Where a gradient goes through, the activation must be a ReLU, a ReLU6 or none. A norm by the
    statistics of the batch runs together with the sum and the ReLU (on a CPU `compiled_norm`, on a GPU
    `norm_activate`). Otherwise the modules run one by one.
    """
    if isinstance(x, VoxelTensor) and (steps := _steps(conv, norm, activation, x, residual)) is not None:
        return conv.finished(x, steps)
    y = conv(x)
    if isinstance(y, VoxelTensor) and _is_ours(norm, activation):
        added = residual.features if isinstance(residual, VoxelTensor) and y.sites.same(residual.sites) else None
        name = name_of(None if activation is None else activation.module)
        engine, real = getattr(conv, "engine", ""), y.sites.real
        if residual is None or added is not None:
            if engine in ("auto", "cpu") and real is None and compiled_norm.takes(norm, y.features, added, name):
                assert name is not None
                return y.replace(compiled_norm.norm_activate(y.features, norm, added, name))
            if takes(norm, y.features, added, name, engine):
                assert name is not None
                return y.replace(norm_activate(y.features, norm, added, name, real))
    y = norm(y)
    if residual is not None:
        y = add(y, residual)
    return y if activation is None else activation(y)


def _steps(
    conv: VoxelConv, norm: BatchNorm, activation: Pointwise | None, x: VoxelTensor, residual: Voxels | None
) -> Epilogue | None:
    """What follows the convolution, if all of it can run as one operation.

    The modules must be those that this package made: a user may have replaced one since.
    """
    if type(conv) not in (VoxelConv, TiedConv) or type(norm) is not BatchNorm:
        return None
    if activation is not None and type(activation) is not Pointwise:
        return None
    if norm.training or norm.running_mean is None or conv.engine == "reference" or conv.depth_padding != "zeros":
        return None
    if torch.compiler.is_compiling() or _has_any_global_hook() or any(map(_is_watched, (conv, norm, activation))):
        return None
    function = None if activation is None else activation.module
    name, takes_gradients = name_of(function), torch.is_grad_enabled()
    if name is None or _is_watched(function) or (takes_gradients and name not in ("identity", *CEILINGS)):
        return None
    bias = conv.bias
    if takes_gradients and any(parameter.requires_grad for parameter in conv.parameters()):
        return None
    autocast = autocast_type(x)
    dtype = autocast or x.features.dtype
    if dtype != conv.weight.dtype and autocast is None:
        return None  # an error, which the convolution words
    added = None
    if residual is not None:
        if not isinstance(residual, VoxelTensor) or not x.sites.coarsen(conv.window.stride).same(residual.sites):
            return None  # an error, which `add` words
        added = residual.features
        if added.dtype != dtype or added.shape[1] != len(conv.weight):
            return None
    scale, shift = norm.scale_and_shift(dtype)
    if takes_gradients and (scale.requires_grad or shift.requires_grad):
        return None
    if bias is not None:
        shift = shift + scale * bias.to(dtype)
    return Epilogue(scale, shift, added, name)


def _is_ours(norm: BatchNorm, activation: Pointwise | None) -> bool:
    """Whether norm and activation are as this package made them, and nobody sees what goes through."""
    if type(norm) is not BatchNorm or (activation is not None and type(activation) is not Pointwise):
        return False
    function = None if activation is None else activation.module
    return not (_has_any_global_hook() or any(map(_is_watched, (norm, activation, function))))


def _is_watched(module: nn.Module | None) -> bool:
    """Whether someone sees or changes what goes through a module."""
    return module is not None and bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
    )
