"""Activations, dropping, arithmetic, layer scale."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from image2point.lifting.drop import ChannelDropout, DropPath
from image2point.lifting.layers import ChannelScale, SitePReLU
from image2point.lifting.records import Options
from image2point.lifting.rules.values import Call, Chain, Lifted, Value, need, on
from image2point.voxels import Pointwise, functional


def activation(module: nn.Module, x: Value, options: Options) -> Chain:
    """An elementwise module, never in place: the rewriter has already made every reader see the new value."""
    need(x.kind in ("voxels", "vector"), f"{type(module).__name__} of a {x.kind}")
    lifted = copy.deepcopy(module)
    if hasattr(lifted, "inplace"):
        setattr(lifted, "inplace", False)  # noqa: B010  (not declared by nn.Module)
    return on(x, Pointwise(lifted) if x.kind == "voxels" else lifted)


def prelu(module: nn.PReLU, x: Value, options: Options) -> Chain:
    """PReLU: one slope per channel, or one for all."""
    need(x.kind in ("voxels", "vector") and (module.num_parameters == 1 or x.axes[1] == "C"), f"PReLU over {x.axes}")
    if x.kind == "vector":
        return on(x, copy.deepcopy(module))
    lifted = SitePReLU(module.num_parameters)
    lifted.weight = nn.Parameter(module.weight.detach().clone())
    return on(x, lifted)


def channel_dropout(module: nn.Dropout2d, x: Value, options: Options) -> Chain:
    need(x.kind == "voxels", "Dropout2d of pooled features")
    return on(x, ChannelDropout(module.p))


def drop_path(module: Any, x: Value, options: Options) -> Chain:
    """Stochastic depth: one draw per cloud."""
    need(x.kind == "voxels", "drop path of pooled features")
    return on(x, DropPath(float(module.drop_prob or 0.0), module.scale_by_keep))


def stochastic_depth_module(module: Any, x: Value, options: Options) -> Chain:
    """torchvision's StochasticDepth."""
    return stochastic_depth(options, x, module.p, module.mode)


def softmax_module(module: nn.Softmax, x: Value, options: Options) -> Lifted:
    return softmax(options, x, module.dim)


def identity(module: nn.Module, x: Value, options: Options) -> Value:
    return x


def layer_scale(module: Any, x: Value, options: Options, last: bool) -> Chain:
    """timm's LayerScale and LayerScale2d."""
    fits = x.axes.endswith("C") if last else x.axes == "BCHW"
    need(x.kind == "voxels" and fits, f"layer scale of features laid out as {x.axes}")
    return on(x, ChannelScale(module.gamma.detach().clone()))


# ----------------------------------------------------------------------------------------------- function rules


def add(options: Options, input: Any, other: Any, *, alpha: float = 1) -> Lifted:
    need(alpha == 1, f"addition with a factor (alpha={alpha})")
    if not isinstance(input, Value):  # a number plus features
        input, other = other, input
    return _pair("add", functional.add, operator.add, input, other)


def multiply(options: Options, input: Any, other: Any) -> Lifted:
    if not isinstance(input, Value):
        input, other = other, input
    return _pair("mul", functional.multiply, operator.mul, input, other)


def subtract(options: Options, input: Any, other: Any) -> Lifted:
    if isinstance(input, Value) and isinstance(other, Value):
        if _same_size(input, other):
            return Value("size", axes="0")
        if input.kind == other.kind == "size" and other.axes == "0":
            return input
    need(isinstance(input, Value), "a number minus features")
    return _pair("sub", functional.subtract, operator.sub, input, other)


def divide(options: Options, input: Any, other: Any) -> Lifted:
    both_voxels = isinstance(other, Value) and other.kind == "voxels"
    need(isinstance(input, Value) and not both_voxels, "division by voxels, which are zero where empty")
    return _pair("truediv", functional.divide, operator.truediv, input, other)


def power(options: Options, input: Value, exponent: Any) -> Lifted:
    need(input.kind in ("voxels", "vector") and isinstance(exponent, int | float), f"a power of a {input.kind}")
    need(exponent > 0, f"the power {exponent}, which has no value where voxels are empty")
    function = functional.power if input.kind == "voxels" else torch.pow
    return Call(function, (input.node, exponent), replace(input, node=None))


def _pair(name: str, on_voxels: Callable[..., Any], on_vectors: Callable[..., Any], x: Value, y: Any) -> Lifted:
    if x.kind == "size" or (isinstance(y, Value) and y.kind == "size"):
        return Value("size", axes="?")
    if isinstance(y, Value) and name in ("add", "mul") and _rank(y) > _rank(x):
        x, y = y, x
    kind = y.kind if isinstance(y, Value) else type(y).__name__
    need(x.kind in ("voxels", "vector"), f"{name} of {x.kind} and {kind}")
    function = on_voxels if x.kind == "voxels" else on_vectors
    result = replace(x, node=None)
    if isinstance(y, int | float):
        return Call(function, (x.node, y), result)
    need(isinstance(y, Value) and y.kind in ("voxels", "vector", "parameter"), f"{name} of {x.kind} and {kind}")
    if y.kind == "parameter":
        need(_fits(y.shape, x.axes), f"{name} of features laid out as {x.axes} and a parameter of shape {y.shape}")
    elif x.kind == y.kind:
        need(x.axes == y.axes and x.radix == y.radix, f"{name} of features laid out as {x.axes} and {y.axes}")
        need(x.stride == y.stride, f"{name} of features at strides {x.stride} and {y.stride}")
    else:
        need(x.kind == "voxels" and x.vector_axes == y.axes, f"{name} of features laid out as {x.axes} and {y.axes}")
        need(x.radix == y.radix, f"{name} of {x.radix} parts and {y.radix}")
    return Call(function, (x.node, y.node), result)


def _same_size(x: Value, y: Value) -> bool:
    """Whether two sizes along an image axis are those of maps of one scale, which a 2D network may have to pad."""
    if x.of is None or y.of is None or not x.of.kind == y.of.kind == "voxels":
        return False
    return x.of.stride == y.of.stride and x.axes == y.axes and x.axes in ("H", "W")


def _rank(x: Value) -> int:
    return ("size", "parameter", "vector", "voxels").index(x.kind) if x.kind != "parts" else -1


def _fits(shape: tuple[int, ...], axes: str) -> bool:
    """Whether a parameter broadcasts along channels and nothing else."""
    if len(shape) > len(axes):
        return False
    letters = axes[len(axes) - len(shape) :]
    return all(size == 1 or letter == "C" for size, letter in zip(shape, letters, strict=True))


def softmax(options: Options, input: Value, dim: int | None = None, **named: Any) -> Lifted:
    """Softmax over the sites of a cloud, over parts of a vector's channels, or over a vector."""
    need(dim is not None and named.get("dtype") is None, "softmax without a dimension")
    assert dim is not None
    letter = input.dim(dim) if input.axes else ""
    if input.kind == "voxels" and letter == "N":
        return Call(functional.softmax_over_sites, (input.node,), replace(input, node=None))
    if input.kind == "vector" and letter == "R" and input.axes.startswith("BRC"):
        return Call(softmax_over_parts, (input.node, input.radix), replace(input, node=None))
    if input.kind == "vector" and letter == "C" and "R" not in input.axes:
        return Call(torch.softmax, (input.node, 1), replace(input, node=None))
    need(False, f"softmax over dimension {dim} of features laid out as {input.axes or input.kind}")
    return input


def softmax_over_parts(x: Tensor, parts: int) -> Tensor:
    """Softmax over the parts that lie one after another in a vector per cloud: [B, R · C] → [B, R · C]."""
    return x.unflatten(1, (parts, -1)).softmax(1).flatten(1)


def matmul(options: Options, input: Value, other: Value) -> Lifted:
    """Features times weights of the sites, as global context has it: a weighted sum over the sites of each cloud."""
    layouts = (input.axes, other.axes) if isinstance(input, Value) and isinstance(other, Value) else ()
    need(layouts == ("B1CN", "BCN1"), f"a matrix product of features laid out as {' and '.join(layouts)}")
    return Call(functional.weighted_sum, (input.node, other.node), Value("vector", axes="B1C1"))


def elementwise(make: Callable[..., nn.Module], options: Options, input: Value, *rest: Any, **named: Any) -> Lifted:
    """A functional activation: the module of the same arguments."""
    return activation(make(*rest, **named), input, options)


def dropout_function(
    options: Options, input: Value, p: float = 0.5, training: Any = True, inplace: bool = False
) -> Lifted:
    """F.dropout; it follows the mode of the lifted network."""
    return activation(nn.Dropout(p), input, options)


def stochastic_depth(options: Options, input: Value, p: float, mode: str, training: Any = True) -> Chain:
    """torchvision's stochastic_depth; it follows the mode of the lifted network."""
    need(input.kind == "voxels", "stochastic depth of pooled features")
    need(mode == "row", f"stochastic depth of a whole batch (mode {mode!r})")
    return on(input, DropPath(p))
