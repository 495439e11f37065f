"""Convolutions and linear layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image2point._timm import load_timm
from image2point.lifting import kernels
from image2point.lifting.layers import SiteLinear, VectorConv
from image2point.lifting.records import Options
from image2point.lifting.rules.sizes import both, equal, near_padding
from image2point.lifting.rules.values import Chain, Value, need, on
from image2point.lifting.variance import factor
from image2point.voxels import TiedConv, VoxelConv


def convolution(conv: nn.Conv2d, x: Value, options: Options, same: bool = False) -> Chain:
    """Convolution: kernel, stride, dilation and groups keep their meaning on all three axes."""
    if x.kind == "vector":
        return vector_convolution(conv, x)
    need(x.kind == "voxels" and x.axes == "BCHW", f"a convolution of features laid out as {x.axes}")
    need(conv.padding_mode == "zeros", f"padding mode {conv.padding_mode!r}")
    size = both(conv.kernel_size)
    stride, dilation = equal(conv.stride, "stride"), equal(conv.dilation, "dilation")
    if same:
        padding = [kernels.same_padding(k, stride, dilation) for k in size]
    elif isinstance(conv.padding, str):
        padding = [kernels.same_padding(k, 1, dilation) if conv.padding == "same" else 0 for k in size]
    else:
        padding = near_padding(conv.padding, size, dilation, x.padding)
    return _lifted(conv.weight.detach(), conv, x, stride, padding, dilation, options)


def standardised(conv: Any, x: Value, options: Options) -> Chain:
    """Weight-standardised convolution (Qiao et al., 2019; scaled: Brock et al., NFNets, 2021).

    The 2D kernel is standardised once, here, and inflated then: standardising the 3D kernel instead would undo the
    division of `mean` and count the zeros of `center`. Wherever kernels are frozen (every policy but `all`) the result
    is the same network; under `all` the kernel then trains without the constraint, as after folding a norm.
    """
    return convolution(plain_convolution(conv), x, options, same=bool(getattr(conv, "same_pad", False)))


def plain_convolution(conv: Any) -> nn.Conv2d:
    """The convolution that has the standardised kernel of a weight-standardised one as its weight."""
    weight = conv.weight.detach()
    gain = (conv.gain.detach() * conv.scale).view(-1) if hasattr(conv, "gain") else None
    flat = F.batch_norm(weight.reshape(1, len(weight), -1), None, None, gain, None, True, 0.0, conv.eps)
    kind = load_timm().layers.Conv2dSame if getattr(conv, "same_pad", False) else nn.Conv2d
    with torch.device("meta"):
        plain = kind(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
        )
    plain.weight, plain.bias = nn.Parameter(flat.reshape_as(weight)), conv.bias
    return plain


def _lifted(
    kernel: Tensor, conv: nn.Conv2d, x: Value, stride: int, padding: Sequence[int], dilation: int, options: Options
) -> Chain:
    size = kernel.shape[2:]
    rule = "repeat" if options.rule == "tied" else options.rule
    if size == (1, 1) and stride > 1 and options.downsample == "paper":
        lifted, paddings = kernels.spread(kernel, stride), [0, 0, 0]
        copies = stride**3
    else:
        need(rule != "rotate" or size[0] == size[1], f"kernel size {tuple(size)} under the rule rotate")
        lifted = kernels.inflate(kernel, rule, options.depth_axis)
        copies = min(size) if rule == "repeat" else 1
        depth = kernels.AXES.index(options.axis)
        paddings = list(padding)
        paddings.insert(depth, padding[0] if size[0] <= size[1] else padding[1])
        if options.rule == "center" and lifted.shape[2 + depth] % 2:
            # The one slice that is not zero reads the depth at which the output lies, whatever the 2D padding.
            paddings[depth] = dilation * (lifted.shape[2 + depth] - 1) // 2
    scale = factor(kernel, lifted, copies, options.variance)
    shared = kernel * scale if options.rule == "tied" else None
    result = voxel_conv(lifted * scale, conv.bias, stride, tuple(paddings), dilation, conv.groups, options, shared)
    return on(x, result, stride=stride)


def voxel_conv(
    kernel: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: Sequence[int],
    dilation: int,
    groups: int,
    options: Options,
    shared: Tensor | None = None,
) -> VoxelConv:
    """A `VoxelConv` that holds `kernel` [C_out, C_in / groups, Kx, Ky, Kz] and a copy of `bias`.

    With `shared`, the 2D kernel that it is the repetition of, a `TiedConv` that holds that one.
    """
    layer = VoxelConv if shared is None else TiedConv
    with torch.device("meta"):  # no time and no random numbers for values that are replaced at once
        conv = layer(
            kernel.shape[1] * groups,
            kernel.shape[0],
            (kernel.shape[2], kernel.shape[3], kernel.shape[4]),
            stride=stride,
            padding=(padding[0], padding[1], padding[2]),
            dilation=dilation,
            groups=groups,
            bias=bias is not None,
            axis=options.depth_axis,
            depth_padding=options.depth_padding,
            engine=options.engine,
        )
    conv.weight = nn.Parameter(kernel if shared is None else shared)
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone())
    return conv


def vector_convolution(conv: nn.Conv2d, x: Value) -> Chain:
    """A 1×1 convolution of pooled features, as squeeze-and-excite has it: the 2D layer itself."""
    need(both(conv.kernel_size) == (1, 1), f"a convolution with kernel {conv.kernel_size} of pooled features")
    need(near_padding(conv.padding, (1, 1), 1) == [0, 0] and conv.padding_mode == "zeros", "padding of pooled features")
    need(x.axes == "BC11", f"a convolution of pooled features laid out as {x.axes}")
    with torch.device("meta"):
        lifted = VectorConv(conv.in_channels, conv.out_channels, 1, groups=conv.groups, bias=conv.bias is not None)
    return on(x, _with_state(lifted, conv))


def linear(module: nn.Linear, x: Value, options: Options) -> Chain:
    """A linear layer: on one vector per cloud, or on each site where channels come last."""
    need(x.kind in ("voxels", "vector") and x.axes.endswith("C"), f"a linear layer on features laid out as {x.axes}")
    if x.kind == "vector":
        return on(x, copy.deepcopy(module))
    with torch.device("meta"):
        lifted = SiteLinear(module.in_features, module.out_features, module.bias is not None)
    return on(x, _with_state(lifted, module))


def _with_state(lifted: nn.Module, module: nn.Module) -> nn.Module:
    lifted.load_state_dict({name: tensor.clone() for name, tensor in module.state_dict().items()}, assign=True)
    return lifted
