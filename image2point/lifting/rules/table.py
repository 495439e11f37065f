"""The rules that come with the package: which covers which module, function and method.

What is not listed here, or registered with `image2point.register_rule`, cannot be lifted.
"""

from __future__ import annotations

import operator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from image2point.lifting.rules.attention import efficient_channel_attention, radix_softmax
from image2point.lifting.rules.convolution import (
    Experts,
    conditional_convolution,
    convolution,
    linear,
    plain_convolution,
    standardised,
    whole_map_mlp,
)
from image2point.lifting.rules.elementwise import (
    activation,
    add,
    channel_dropout,
    divide,
    drop_path,
    dropout_function,
    elementwise,
    identity,
    layer_scale,
    matmul,
    multiply,
    power,
    prelu,
    softmax,
    softmax_module,
    stochastic_depth,
    stochastic_depth_module,
    subtract,
)
from image2point.lifting.rules.layout import (
    cat,
    channel_shuffle,
    chunk,
    expand,
    flatten,
    flatten_module,
    item,
    permute,
    read_attribute,
    reshape,
    size,
    size_arithmetic,
    split,
    squeeze,
    stack,
    through,
    transpose,
    unsqueeze,
)
from image2point.lifting.rules.norm import (
    batch_norm,
    evo_norm,
    filter_response_norm,
    group_norm,
    instance_norm,
    layer_norm,
    layer_norm_function,
    response_norm,
    rms_norm,
)
from image2point.lifting.rules.pooling import (
    adaptive_pool,
    adaptive_pool_function,
    avg_pool,
    blur_pool,
    fast_pool,
    interpolate,
    max_pool,
    pad,
    pad_module,
    pool_function,
    reduce,
    select_pool,
    space_to_depth,
    upsample_module,
)
from image2point.lifting.rules.registry import RULES, Rule
from image2point.lifting.rules.transposed import transposed_convolution

_ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.SiLU, nn.GELU, nn.Mish, nn.Hardtanh, nn.Hardswish,
    nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.LogSigmoid, nn.Softsign, nn.Softshrink,
    nn.Hardshrink, nn.Tanhshrink, nn.Dropout,
)  # fmt: skip
_TIMM_ELEMENTWISE = (
    "Swish", "Mish", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "HardMish", "GELU", "GELUTanh", "QuickGELU",
)  # fmt: skip

_norm = partial(Rule, kind="norm")
_pool = partial(Rule, kind="pool", reads_padding=True)
_reduction = partial(Rule, kind="reduction")
_elementwise = partial(Rule, kind="elementwise")
_reader = partial(Rule, reads_padding=True)


def _timm(file: str, *names: str) -> list[str]:
    return [f"timm.layers.{file}.{name}" for name in names]


def _function(make: type[nn.Module]) -> Rule:
    """The rule of an activation that is a function: that of the module."""
    return _elementwise(partial(elementwise, make))


MODULES: tuple[tuple[Rule, list[Any]], ...] = (
    (_elementwise(activation), [*_ELEMENTWISE, *_timm("activations", *_TIMM_ELEMENTWISE)]),
    (_elementwise(prelu), [nn.PReLU, *_timm("activations", "PReLU")]),
    (_elementwise(identity, reads_padding=True), [nn.Identity]),
    # convolutions
    (_reader(convolution), [nn.Conv2d]),
    (_reader(partial(convolution, same=True)), _timm("conv2d_same", "Conv2dSame")),
    (
        _reader(standardised, plain=plain_convolution),
        _timm("std_conv", "StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame"),
    ),
    (
        Rule(conditional_convolution, operands=2, prepare=Experts),
        [Experts, *_timm("cond_conv2d", "CondConv2d")],
    ),
    (Rule(transposed_convolution), [nn.ConvTranspose2d]),
    (Rule(whole_map_mlp), ["timm.models.vgg.ConvMlp"]),
    (Rule(linear), [nn.Linear, *_timm("linear", "Linear")]),
    # norms
    (
        _norm(batch_norm),
        [nn.BatchNorm2d, nn.BatchNorm1d, nn.SyncBatchNorm, *_timm("norm_act", "BatchNormAct2d", "SyncBatchNormAct")],
    ),
    (
        _norm(layer_norm),
        [
            nn.LayerNorm,
            *_timm("norm", "LayerNorm", "LayerNormFp32"),
            *_timm("norm_act", "LayerNormAct", "LayerNormActFp32"),
        ],
    ),
    (
        _norm(partial(layer_norm, last=False)),
        [
            *_timm("norm", "LayerNorm2d", "LayerNorm2dFp32", "LayerNormExp2d"),
            *_timm("norm_act", "LayerNormAct2d", "LayerNormAct2dFp32"),
            "torchvision.models.convnext.LayerNorm2d",
        ],
    ),
    (_norm(rms_norm), [*_timm("norm", "RmsNorm", "RmsNormFp32"), *_timm("norm_act", "RmsNormAct", "RmsNormActFp32")]),
    (
        _norm(partial(rms_norm, last=False)),
        [*_timm("norm", "RmsNorm2d", "RmsNorm2dFp32"), *_timm("norm_act", "RmsNormAct2d", "RmsNormAct2dFp32")],
    ),
    (_norm(partial(rms_norm, centred=True)), _timm("norm", "SimpleNorm", "SimpleNormFp32")),
    (_norm(partial(rms_norm, last=False, centred=True)), _timm("norm", "SimpleNorm2d", "SimpleNorm2dFp32")),
    (
        _norm(group_norm),
        [nn.GroupNorm, *_timm("norm", "GroupNorm", "GroupNorm1"), *_timm("norm_act", "GroupNormAct", "GroupNorm1Act")],
    ),
    (_norm(instance_norm), [nn.InstanceNorm2d]),
    (_norm(response_norm), _timm("grn", "GlobalResponseNorm")),
    (_norm(evo_norm), _timm("evo_norm", "EvoNorm2dS0")),
    (_norm(partial(evo_norm, always_divides=True)), _timm("evo_norm", "EvoNorm2dS0a")),
    (_norm(filter_response_norm), _timm("filter_response_norm", "FilterResponseNormTlu2d")),
    # pooling
    (_pool(max_pool), [nn.MaxPool2d]),
    (_pool(partial(max_pool, same=True)), _timm("pool2d_same", "MaxPool2dSame")),
    (_pool(avg_pool), [nn.AvgPool2d]),
    (_pool(partial(avg_pool, same=True)), _timm("pool2d_same", "AvgPool2dSame")),
    (_pool(blur_pool, reads_padding=False), _timm("blur_pool", "BlurPool2d")),
    (_reduction(partial(adaptive_pool, "avg")), [nn.AdaptiveAvgPool2d]),
    (_reduction(partial(adaptive_pool, "max")), [nn.AdaptiveMaxPool2d]),
    (_reduction(partial(adaptive_pool, "avgmax")), _timm("adaptive_avgmax_pool", "AdaptiveAvgMaxPool2d")),
    (_reduction(partial(adaptive_pool, "catavgmax")), _timm("adaptive_avgmax_pool", "AdaptiveCatAvgMaxPool2d")),
    (_reduction(select_pool), _timm("adaptive_avgmax_pool", "SelectAdaptivePool2d")),
    (_reduction(partial(fast_pool, "avg")), _timm("adaptive_avgmax_pool", "FastAdaptiveAvgPool")),
    (_reduction(partial(fast_pool, "max")), _timm("adaptive_avgmax_pool", "FastAdaptiveMaxPool")),
    (Rule(upsample_module), [nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d]),
    (Rule(space_to_depth, kind="blocks"), _timm("space_to_depth", "SpaceToDepth")),
    (_reader(pad_module), [nn.ZeroPad2d, nn.ConstantPad2d]),
    # gates, dropping, layout
    (Rule(efficient_channel_attention), _timm("eca", "EcaModule", "CecaModule")),
    (Rule(radix_softmax), _timm("split_attn", "RadixSoftmax")),
    (Rule(softmax_module), [nn.Softmax]),
    (Rule(partial(layer_scale, last=True)), _timm("layer_scale", "LayerScale")),
    (Rule(partial(layer_scale, last=False)), _timm("layer_scale", "LayerScale2d")),
    (Rule(channel_dropout), [nn.Dropout2d]),
    (Rule(drop_path), _timm("drop", "DropPath")),
    (Rule(stochastic_depth_module), ["torchvision.ops.stochastic_depth.StochasticDepth"]),
    (Rule(flatten_module), [nn.Flatten]),
    (Rule(channel_shuffle), [nn.ChannelShuffle]),
)

FUNCTIONS: tuple[tuple[Rule, list[Any]], ...] = (
    (Rule(add), [operator.add, operator.iadd, torch.add, "add", "add_"]),
    (Rule(multiply), [operator.mul, operator.imul, torch.mul, "mul", "mul_"]),
    (Rule(subtract), [operator.sub, operator.isub, torch.sub, "sub", "sub_"]),
    (Rule(divide), [operator.truediv, operator.itruediv, torch.div, "div", "div_"]),
    (Rule(power), [operator.pow, torch.pow, "pow"]),
    (Rule(partial(power, exponent=2)), [torch.square, "square"]),
    (Rule(matmul), [operator.matmul, torch.matmul, "matmul"]),
    (Rule(softmax), [torch.softmax, F.softmax, "softmax"]),
    (Rule(dropout_function), [F.dropout, torch.dropout]),
    (Rule(stochastic_depth), ["torchvision.ops.stochastic_depth.stochastic_depth"]),
    (Rule(layer_norm_function), [F.layer_norm, torch.layer_norm]),
    # activations
    (_function(nn.ReLU), [F.relu, torch.relu, "relu", "relu_", torch.relu_]),
    (_function(nn.ReLU6), [F.relu6]),
    (_function(nn.LeakyReLU), [F.leaky_relu]),
    (_function(nn.ELU), [F.elu]),
    (_function(nn.CELU), [F.celu]),
    (_function(nn.SELU), [F.selu]),
    (_function(nn.Hardtanh), [F.hardtanh]),
    (_function(nn.SiLU), [F.silu]),
    (_function(nn.GELU), [F.gelu]),
    (_function(nn.Mish), [F.mish]),
    (_function(nn.Hardswish), [F.hardswish]),
    (_function(nn.Hardsigmoid), [F.hardsigmoid]),
    (_function(nn.Softplus), [F.softplus]),
    (_function(nn.LogSigmoid), [F.logsigmoid]),
    (_function(nn.Sigmoid), [torch.sigmoid, F.sigmoid, "sigmoid", "sigmoid_"]),
    (_function(nn.Tanh), [torch.tanh, F.tanh, "tanh"]),
    # pooling, upsampling
    (_reduction(partial(reduce, "avg")), [torch.mean, "mean"]),
    (_reduction(partial(reduce, "max")), [torch.amax, "amax"]),
    (_reduction(partial(reduce, "sum")), [torch.sum, "sum"]),
    (_reduction(partial(adaptive_pool_function, "avg")), [F.adaptive_avg_pool2d]),
    (_reduction(partial(adaptive_pool_function, "max")), [F.adaptive_max_pool2d]),
    (_pool(partial(pool_function, max_pool, nn.MaxPool2d)), [F.max_pool2d, torch.max_pool2d]),
    (_pool(partial(pool_function, avg_pool, nn.AvgPool2d)), [F.avg_pool2d]),
    (Rule(interpolate), [F.interpolate]),
    (_reader(pad), [F.pad]),
    # layout
    (Rule(cat), [torch.cat, torch.concat]),
    (Rule(stack), [torch.stack]),
    (Rule(split), [torch.split, "split"]),
    (Rule(chunk), [torch.chunk, "chunk"]),
    (_elementwise(permute), [torch.permute, "permute"]),
    (Rule(transpose), [torch.transpose, "transpose"]),
    (Rule(flatten), [torch.flatten, "flatten"]),
    (Rule(reshape), ["view", "reshape", torch.reshape]),
    (Rule(squeeze), ["squeeze", torch.squeeze]),
    (Rule(unsqueeze), ["unsqueeze", torch.unsqueeze]),
    (Rule(expand), ["expand", "expand_as"]),
    (Rule(through), ["contiguous", "clone", "detach"]),
    (_reader(size), ["size"]),
    (_reader(read_attribute), [getattr]),
    (Rule(item), [operator.getitem]),
    (Rule(size_arithmetic), [operator.floordiv]),
)

for _rule, _operations in (*MODULES, *FUNCTIONS):
    RULES.update(dict.fromkeys(_operations, _rule))
