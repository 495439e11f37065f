"""Convolutions and linear layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image2point.lifting import kernels
from image2point.lifting.layers import ExpertMixture, SiteLinear, VectorConv
from image2point.lifting.records import Options
from image2point.lifting.rules.registry import lift_module
from image2point.lifting.rules.sizes import both, equal, near_padding
from image2point.lifting.rules.values import Chain, Value, need, need_dense, on
from image2point.lifting.variance import factor
from image2point.networks.timm_import import load_timm
from image2point.voxels import MapConv, MapLinear, Stretch, TiedConv, TiedMapConv, TiedMapLinear, VoxelConv

Layers: TypeAlias = tuple[type[VoxelConv], type[TiedConv]]
LAYERS: Layers = (VoxelConv, TiedConv)


def convolution(conv: nn.Conv2d, x: Value, options: Options, same: bool = False, layers: Layers = LAYERS) -> Chain:
    """Convolution: kernel, stride, dilation and groups keep their meaning on all three axes.

    Args:
        same: padding after TensorFlow's rule.
        layers: the class it becomes, where its parameter is the 3D kernel, and where it is the 2D one (rule `tied`).
    """
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
    return _lifted(conv.weight.detach(), conv, x, stride, padding, dilation, options, layers)


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


class Experts(nn.Conv2d):
    """The kernels of all experts of a CondConv side by side: E for each group, [g · E · C_out / g, C_in / g, K1, K2].

    Args:
        module: timm's CondConv2d, whose weight is [E, C_out · C_in / g · K1 · K2].
    """

    def __init__(self, module: Any) -> None:
        experts, groups = module.num_experts, module.groups
        with torch.device("meta"):
            super().__init__(
                module.in_channels, experts * module.out_channels, module.kernel_size, module.stride, module.padding,
                module.dilation, groups, bias=module.bias is not None,
            )  # fmt: skip
        self.experts, self.same_pad = experts, bool(module.dynamic_padding)
        kernel = module.weight.detach().view(experts, groups, -1, *self.weight.shape[1:])
        self.weight = nn.Parameter(kernel.transpose(0, 1).flatten(0, 2))
        if module.bias is not None:
            self.bias = nn.Parameter(module.bias.detach().view(experts, groups, -1).transpose(0, 1).flatten())


def conditional_convolution(conv: Any, x: Value, options: Options, routing: Value) -> Chain:
    """CondConv (Yang et al., 2019): each cloud has a kernel of its own, a mixture of the kernels of E experts.

    A convolution is linear in its kernel, so the same mixture of what the experts give is the result.
    """
    need(x.kind == "voxels" and routing.kind == "vector" and routing.axes == "BC", "a CondConv of pooled features")
    experts = conv if isinstance(conv, Experts) else Experts(conv)
    chain = convolution(experts, x, options, same=experts.same_pad)
    mixture = ("mixture", ExpertMixture(experts.experts, experts.groups))
    return replace(chain, modules=(*chain.modules, mixture), others=(routing,))


def whole_map_mlp(module: Any, x: Value, options: Options) -> Chain:
    """The hidden layers of timm's VGG classifier: a convolution over the whole feature map, and a 1×1 one.

    A smaller map is stretched to the size of the kernel first. Sparse voxels have no extent that a kernel could fill.
    """
    need(x.kind == "voxels" and x.axes == "BCHW", "a convolution over the whole of pooled features")
    need_dense(options, f"a convolution over a whole feature map (kernel {both(module.fc1.kernel_size)})")
    need(module.input_kernel_size == module.fc1.kernel_size[0], "a kernel of another size than its map")
    ((_, first),) = convolution(module.fc1, x, options, layers=(MapConv, TiedMapConv)).modules
    assert isinstance(first, VoxelConv)
    steps: list[tuple[str, nn.Module]] = [("stretch", Stretch(first.window.kernel)), ("fc1", first)]
    for name in ("act1", "drop", "fc2", "act2"):
        steps += [(name, lifted) for _, lifted in _lift(getattr(module, name), x, options).modules]
    return replace(on(x), modules=tuple(steps))


def _lift(module: nn.Module, x: Value, options: Options) -> Chain:
    lifted = lift_module(module, x, options)
    assert isinstance(lifted, Chain)
    return lifted


def _lifted(
    kernel: Tensor,
    conv: nn.Conv2d,
    x: Value,
    stride: int,
    padding: Sequence[int],
    dilation: int,
    options: Options,
    layers: Layers,
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
        paddings.insert(depth, max(padding[0] if size[0] <= size[1] else padding[1], 0))
        if options.rule == "center" and lifted.shape[2 + depth] % 2:
            # The one slice that is not zero reads the depth at which the output lies, whatever the 2D padding.
            paddings[depth] = dilation * (lifted.shape[2 + depth] - 1) // 2
    scale = factor(kernel, lifted, copies, options.variance)
    shared = kernel * scale if options.rule == "tied" else None
    if scale != 1:
        lifted = lifted * scale
    result = voxel_conv(lifted, conv.bias, stride, tuple(paddings), dilation, conv.groups, options, shared, layers)
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
    layers: Layers = LAYERS,
) -> VoxelConv:
    """A `VoxelConv` that holds `kernel` [C_out, C_in / groups, Kx, Ky, Kz] and a copy of `bias`.

    With `shared`, the 2D kernel that it is the repetition of, a `TiedConv` that holds that one.
    """
    layer = layers[0] if shared is None else layers[1]
    with torch.device("meta"):  # draws no values, which would be replaced at once
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
    """A linear layer: on one vector per cloud, on each site where channels come last, or on a whole feature map."""
    if x.axes == "BM":
        return _whole_map_linear(module, x, options)
    need(x.kind in ("voxels", "vector") and x.axes.endswith("C"), f"a linear layer on features laid out as {x.axes}")
    if x.kind == "vector":
        return on(x, copy.deepcopy(module))
    with torch.device("meta"):
        lifted = SiteLinear(module.in_features, module.out_features, module.bias is not None)
    return on(x, _with_state(lifted, module))


def _whole_map_linear(module: nn.Linear, x: Value, options: Options) -> Chain:
    """A linear layer on all cells of a feature map: a convolution whose kernel is as large as the map."""
    with torch.device("meta"):
        conv = nn.Conv2d(module.in_features // prod(x.extent), module.out_features, both(x.extent))
    conv.weight, conv.bias = nn.Parameter(module.weight.detach().view(conv.weight.shape)), module.bias
    chain = convolution(conv, x.with_axes("BCHW"), options, layers=(MapLinear, TiedMapLinear))
    return replace(chain, result=Value("vector", axes="BC"))


def _with_state(lifted: nn.Module, module: nn.Module) -> nn.Module:
    lifted.load_state_dict({name: tensor.clone() for name, tensor in module.state_dict().items()}, assign=True)
    return lifted
