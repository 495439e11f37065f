"""Norms, with the activation that timm's may carry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image2point.lifting.layers import VectorBatchNorm, VectorRmsNorm
from image2point.lifting.records import Options
from image2point.lifting.rules.registry import lift_module
from image2point.lifting.rules.values import Call, Chain, Lifted, Value, need
from image2point.voxels import (
    BatchNorm,
    EvoNorm,
    FilterResponseNorm,
    GlobalResponseNorm,
    GroupNorm,
    LayerNorm,
    RmsNorm,
    Voxels,
)
from image2point.voxels.functional import on_sites


def batch_norm(norm: Any, x: Value, options: Options) -> Chain:
    """Batch norm: the same parameters and running statistics; batch statistics are those of the occupied sites."""
    layer = BatchNorm if x.kind == "voxels" else VectorBatchNorm
    need(x.kind in ("voxels", "vector") and (x.axes[1] == "C" or x.axes == "BC"), f"batch norm over {x.axes}")
    settings = (norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    return _finish(norm, x, options, lambda: layer(*settings))


def layer_norm(norm: Any, x: Value, options: Options, last: bool = True) -> Chain:
    """Layer norm over channels, site by site."""
    _need_channels(x, last)
    shape, affine = tuple(norm.normalized_shape), norm.elementwise_affine
    need(len(shape) == 1, f"layer norm over a shape {shape}")
    layer = LayerNorm if x.kind == "voxels" else nn.LayerNorm
    return _finish(norm, x, options, lambda: layer(shape, norm.eps, affine, bias=norm.bias is not None))


def rms_norm(norm: Any, x: Value, options: Options, last: bool = True, centred: bool = False) -> Chain:
    """Division by the root mean square over channels, site by site."""
    _need_channels(x, last)
    (size,) = norm.normalized_shape
    layer = RmsNorm if x.kind == "voxels" else VectorRmsNorm
    return _finish(norm, x, options, lambda: layer(size, norm.eps, norm.elementwise_affine, centred))


def group_norm(norm: Any, x: Value, options: Options) -> Chain:
    """Group norm, with statistics of each cloud."""
    need(x.kind in ("voxels", "vector") and x.axes[1] == "C", f"group norm over {x.axes}")
    layer = GroupNorm if x.kind == "voxels" else nn.GroupNorm
    return _finish(norm, x, options, lambda: layer(norm.num_groups, norm.num_channels, norm.eps, norm.affine))


def instance_norm(norm: nn.InstanceNorm2d, x: Value, options: Options) -> Chain:
    """Instance norm: each channel by its own mean and variance over the sites of each cloud."""
    need(x.kind == "voxels" and x.axes == "BCHW", f"instance norm over {x.axes or x.kind}")
    need(not norm.track_running_stats, "instance norm with running statistics")
    return _finish(norm, x, options, lambda: GroupNorm(norm.num_features, norm.num_features, norm.eps, norm.affine))


def layer_norm_function(
    options: Options,
    input: Value,
    normalized_shape: Any,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    *unused: Any,
) -> Lifted:
    """F.layer_norm over channels that come last, with parameters that no layer holds."""
    _need_channels(input, last=True)
    shape = [normalized_shape] if isinstance(normalized_shape, int | Value) else list(normalized_shape)
    need(len(shape) == 1, f"layer norm over a shape {shape}")
    affine = [value for value in (weight, bias) if value is not None]
    need(all(isinstance(value, Value) and value.kind == "parameter" for value in affine), "layer norm by features")
    nodes = [None if value is None else value.node for value in (weight, bias)]
    return Call(normalise_sites, (input.node, *nodes, eps), replace(input, node=None))


def normalise_sites(x: Voxels, weight: Tensor | None, bias: Tensor | None, eps: float) -> Voxels:
    """Layer norm over the channels of each site, or of a vector per cloud [B, C]; weight and bias [C]."""

    def normalise(features: Tensor) -> Tensor:
        return F.layer_norm(features, features.shape[-1:], weight, bias, eps)

    return normalise(x) if isinstance(x, Tensor) and x.ndim == 2 else on_sites(normalise, x)


def response_norm(norm: Any, x: Value, options: Options) -> Chain:
    """Global response norm, over the sites of each cloud."""
    need(x.kind == "voxels", "global response norm of pooled features")
    return _finish(norm, x, options, lambda: GlobalResponseNorm(len(norm.weight), norm.eps))


def evo_norm(norm: Any, x: Value, options: Options, always_divides: bool = False) -> Chain:
    """EvoNorm-S0, with statistics of each cloud."""
    need(x.kind == "voxels" and x.axes == "BCHW", "EvoNorm of pooled features")
    gate = norm.v is not None
    divide = gate or always_divides  # timm's S0 does without both where it has no activation
    return _finish(norm, x, options, lambda: EvoNorm(len(norm.weight), norm.groups, norm.eps, gate, divide))


def filter_response_norm(norm: Any, x: Value, options: Options) -> Chain:
    """Filter response norm with threshold, over the sites of each cloud."""
    need(x.kind == "voxels" and x.axes == "BCHW", "filter response norm of pooled features")
    return _finish(norm, x, options, lambda: FilterResponseNorm(len(norm.weight), norm.eps, norm.tau is not None))


def _need_channels(x: Value, last: bool) -> None:
    fits = x.axes.endswith("C") if last else x.axes[1:2] == "C" and len(x.axes) == 4
    need(x.kind in ("voxels", "vector") and fits, f"a norm over the channels of features laid out as {x.axes}")


def _finish(norm: nn.Module, x: Value, options: Options, make: Callable[[], nn.Module]) -> Chain:
    """The lifted norm with the tensors of the 2D norm, and what the 2D norm has inside: dropping, an activation."""
    with torch.device("meta"):
        lifted = make()
    if getattr(norm, "bias", lifted) is None:
        lifted.register_parameter("bias", None)
    state = norm.state_dict()
    lifted.load_state_dict({name: state[name].clone() for name in lifted.state_dict()}, assign=True)
    chain: list[tuple[str, nn.Module]] = [("", lifted.train(norm.training))]
    for name, child in norm.named_children():
        following = lift_module(child, replace(x, node=None), options)
        if isinstance(following, Chain):
            chain += [(name, module) for _, module in following.modules]
    return Chain(x, tuple(chain), replace(x, node=None))
