"""The tables: which rule covers which module, function and method. What is not listed cannot be lifted."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from image2point.lifting.records import Options
from image2point.lifting.rules.attention import efficient_channel_attention, radix_softmax
from image2point.lifting.rules.convolution import (
    Experts,
    conditional_convolution,
    convolution,
    linear,
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
    subtract,
)
from image2point.lifting.rules.layout import (
    cat,
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
    layer_norm,
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
from image2point.lifting.rules.values import Lifted, Unsupported, Value
from image2point.networks.timm_import import load_timm

Rule = Callable[..., Lifted]

_ELEMENTWISE: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.SiLU, nn.GELU, nn.Mish, nn.Hardtanh, nn.Hardswish,
    nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.LogSigmoid, nn.Dropout,
)  # fmt: skip
_TIMM_ELEMENTWISE = (
    "Swish", "Mish", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "HardMish", "GELU", "GELUTanh", "QuickGELU",
)  # fmt: skip
_SET_UP = {"__init__", "reset_parameters", "extra_repr", "init_weights"}
NORMS: tuple[Rule, ...] = (
    batch_norm, layer_norm, rms_norm, group_norm, response_norm, evo_norm, filter_response_norm,
)  # fmt: skip
POOLS: tuple[Rule, ...] = (max_pool, avg_pool, blur_pool)
READ_PADDING: tuple[Rule, ...] = (
    convolution, standardised, max_pool, avg_pool, pad, pad_module, identity, size, read_attribute,
)  # fmt: skip
TWO_OPERANDS: tuple[Rule, ...] = (conditional_convolution,)
REDUCTIONS: tuple[Rule, ...] = (adaptive_pool, adaptive_pool_function, fast_pool, select_pool, reduce)


@cache
def module_rules() -> dict[type[nn.Module], Rule]:
    """Rule of each module class."""
    load_timm()
    from timm import layers
    from timm.layers import (
        adaptive_avgmax_pool,
        eca,
        grn,
        norm,
        norm_act,
        pool2d_same,
        split_attn,
        std_conv,
    )
    from timm.layers import (
        evo_norm as evo,
    )
    from timm.layers import (
        filter_response_norm as frn,
    )
    from timm.layers import (
        linear as timm_linear,
    )
    from timm.models import vgg

    timm_elementwise = [getattr(layers, name) for name in _TIMM_ELEMENTWISE if hasattr(layers, name)]
    first = partial(layer_norm, last=False)
    return {
        **dict.fromkeys((*_ELEMENTWISE, *timm_elementwise), activation),
        **dict.fromkeys((nn.PReLU, layers.PReLU), prelu),
        # convolutions
        nn.Conv2d: convolution,
        layers.Conv2dSame: partial(convolution, same=True),
        **dict.fromkeys(
            (std_conv.StdConv2d, std_conv.StdConv2dSame, std_conv.ScaledStdConv2d, std_conv.ScaledStdConv2dSame),
            standardised,
        ),
        **dict.fromkeys((layers.CondConv2d, Experts), conditional_convolution),
        vgg.ConvMlp: whole_map_mlp,
        **dict.fromkeys((nn.Linear, timm_linear.Linear), linear),
        # norms
        **dict.fromkeys((nn.BatchNorm2d, nn.BatchNorm1d, nn.SyncBatchNorm), batch_norm),
        **dict.fromkeys((layers.BatchNormAct2d, norm_act.SyncBatchNormAct), batch_norm),
        **dict.fromkeys((nn.LayerNorm, norm.LayerNorm, norm.LayerNormFp32), layer_norm),
        **dict.fromkeys((norm_act.LayerNormAct, norm_act.LayerNormActFp32), layer_norm),
        **dict.fromkeys((norm.LayerNorm2d, norm.LayerNorm2dFp32, norm.LayerNormExp2d), first),
        **dict.fromkeys((norm_act.LayerNormAct2d, norm_act.LayerNormAct2dFp32), first),
        **dict.fromkeys((norm.RmsNorm, norm.RmsNormFp32, norm_act.RmsNormAct, norm_act.RmsNormActFp32), rms_norm),
        **dict.fromkeys((norm.RmsNorm2d, norm.RmsNorm2dFp32), partial(rms_norm, last=False)),
        **dict.fromkeys((norm_act.RmsNormAct2d, norm_act.RmsNormAct2dFp32), partial(rms_norm, last=False)),
        **dict.fromkeys((norm.SimpleNorm, norm.SimpleNormFp32), partial(rms_norm, centred=True)),
        **dict.fromkeys((norm.SimpleNorm2d, norm.SimpleNorm2dFp32), partial(rms_norm, last=False, centred=True)),
        **dict.fromkeys((nn.GroupNorm, norm.GroupNorm, norm.GroupNorm1), group_norm),
        **dict.fromkeys((norm_act.GroupNormAct, norm_act.GroupNorm1Act), group_norm),
        grn.GlobalResponseNorm: response_norm,
        evo.EvoNorm2dS0: evo_norm,
        evo.EvoNorm2dS0a: partial(evo_norm, always_divides=True),
        frn.FilterResponseNormTlu2d: filter_response_norm,
        # pooling
        nn.MaxPool2d: max_pool,
        pool2d_same.MaxPool2dSame: partial(max_pool, same=True),
        nn.AvgPool2d: avg_pool,
        pool2d_same.AvgPool2dSame: partial(avg_pool, same=True),
        layers.BlurPool2d: blur_pool,
        nn.AdaptiveAvgPool2d: partial(adaptive_pool, "avg"),
        nn.AdaptiveMaxPool2d: partial(adaptive_pool, "max"),
        layers.SelectAdaptivePool2d: select_pool,
        layers.AdaptiveAvgMaxPool2d: partial(adaptive_pool, "avgmax"),
        adaptive_avgmax_pool.AdaptiveCatAvgMaxPool2d: partial(adaptive_pool, "catavgmax"),
        adaptive_avgmax_pool.FastAdaptiveAvgPool: partial(fast_pool, "avg"),
        adaptive_avgmax_pool.FastAdaptiveMaxPool: partial(fast_pool, "max"),
        nn.Upsample: upsample_module,
        layers.SpaceToDepth: space_to_depth,
        **dict.fromkeys((nn.ZeroPad2d, nn.ConstantPad2d), pad_module),
        # gates, dropping
        **dict.fromkeys((eca.EcaModule, eca.CecaModule), efficient_channel_attention),
        split_attn.RadixSoftmax: radix_softmax,
        layers.LayerScale: partial(layer_scale, last=True),
        layers.LayerScale2d: partial(layer_scale, last=False),
        nn.Dropout2d: channel_dropout,
        layers.DropPath: drop_path,
        nn.Identity: identity,
        nn.Flatten: flatten_module,
    }


FUNCTION_RULES: dict[Any, Rule] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), add),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), multiply),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, "sub", "sub_"), subtract),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div, "div", "div_"), divide),
    **dict.fromkeys((operator.pow, torch.pow, "pow"), power),
    **dict.fromkeys((torch.square, "square"), partial(power, exponent=2)),
    **dict.fromkeys((torch.cat, torch.concat), cat),
    torch.stack: stack,
    **dict.fromkeys((torch.split, "split"), split),
    **dict.fromkeys((torch.chunk, "chunk"), chunk),
    **dict.fromkeys((torch.permute, "permute"), permute),
    **dict.fromkeys((torch.transpose, "transpose"), transpose),
    **dict.fromkeys((torch.mean, "mean"), partial(reduce, "avg")),
    **dict.fromkeys((torch.amax, "amax"), partial(reduce, "max")),
    **dict.fromkeys((torch.sum, "sum"), partial(reduce, "sum")),
    F.adaptive_avg_pool2d: partial(adaptive_pool_function, "avg"),
    F.adaptive_max_pool2d: partial(adaptive_pool_function, "max"),
    F.max_pool2d: partial(pool_function, max_pool, nn.MaxPool2d),
    F.avg_pool2d: partial(pool_function, avg_pool, nn.AvgPool2d),
    torch.max_pool2d: partial(pool_function, max_pool, nn.MaxPool2d),
    F.interpolate: interpolate,
    F.pad: pad,
    **dict.fromkeys((torch.flatten, "flatten"), flatten),
    **dict.fromkeys(("view", "reshape", torch.reshape), reshape),
    **dict.fromkeys(("squeeze", torch.squeeze), squeeze),
    **dict.fromkeys(("unsqueeze", torch.unsqueeze), unsqueeze),
    **dict.fromkeys(("expand", "expand_as"), expand),
    **dict.fromkeys(("contiguous", "clone", "detach"), through),
    "size": size,
    getattr: read_attribute,
    operator.getitem: item,
    operator.floordiv: size_arithmetic,
    **dict.fromkeys((torch.softmax, F.softmax, "softmax"), softmax),
    **dict.fromkeys((operator.matmul, torch.matmul, "matmul"), matmul),
    **dict.fromkeys((F.dropout, torch.dropout), dropout_function),
    **dict.fromkeys((F.relu, torch.relu, "relu", "relu_", torch.relu_, F.relu_), partial(elementwise, nn.ReLU)),
    F.relu6: partial(elementwise, nn.ReLU6),
    F.leaky_relu: partial(elementwise, nn.LeakyReLU),
    F.silu: partial(elementwise, nn.SiLU),
    F.gelu: partial(elementwise, nn.GELU),
    F.mish: partial(elementwise, nn.Mish),
    F.hardswish: partial(elementwise, nn.Hardswish),
    F.hardsigmoid: partial(elementwise, nn.Hardsigmoid),
    F.softplus: partial(elementwise, nn.Softplus),
    **dict.fromkeys((torch.sigmoid, F.sigmoid, "sigmoid", "sigmoid_"), partial(elementwise, nn.Sigmoid)),
    **dict.fromkeys((torch.tanh, F.tanh, "tanh"), partial(elementwise, nn.Tanh)),
}


def class_rule(kind: type[nn.Module]) -> Rule | None:
    """Rule of a module class. A subclass inherits it only if it changes nothing but how it is set up."""
    own: set[str] = set()
    for base in kind.__mro__:
        if base in module_rules():
            return module_rules()[base] if own <= _SET_UP else None
        own |= {name for name, value in vars(base).items() if callable(value) or isinstance(value, property)}
    return None


def lift_module(module: nn.Module, x: Value, options: Options, *others: Value) -> Lifted:
    """Lift one module of the 2D network, which is called on x, and on others where it takes more than one operand.

    Raises:
        Unsupported: where no rule covers it.
    """
    rule = class_rule(type(module))
    name = type(module).__name__
    if rule is None:
        raise Unsupported(f"no rule for the module class {name}")
    if len(others) != (rule in TWO_OPERANDS):
        raise Unsupported(f"no rule for {name} of {1 + len(others)} operands")
    return rule(module, x, options, *others)


def lift_function(target: Any, arguments: tuple[Any, ...], named: dict[str, Any], options: Options) -> Lifted:
    """Lift one function or method call, its operands given as `Value`s.

    Raises:
        Unsupported: where no rule covers it.
    """
    rule = FUNCTION_RULES.get(target)
    name = target if isinstance(target, str) else getattr(target, "__name__", repr(target))
    if rule is None:
        raise Unsupported(f"no rule for the operation {name}")
    try:
        return rule(options, *arguments, **named)
    except TypeError as error:
        raise Unsupported(f"no rule for {name} with these arguments ({error})") from None


def rule_of(module: nn.Module | None, target: Any) -> Any:
    """The rule, without the arguments that the table binds to it."""
    rule = FUNCTION_RULES.get(target) if module is None else class_rule(type(module))
    while isinstance(rule, partial):
        rule = rule.args[0] if rule.args and callable(rule.args[0]) and rule.func is pool_function else rule.func
    return rule


def is_norm(module: nn.Module | None) -> bool:
    return module is not None and rule_of(module, None) in NORMS
