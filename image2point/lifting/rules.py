"""One rule per operation: what each module, function and method of a 2D network becomes on voxels.

A rule gets the 2D operation and its operands and answers with a `Chain` of modules, a `Call` of a function, or
simply the operand that passes through. An operation without a rule is an error, never a guess: the tables at the
end list everything that can be lifted.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from image2point._timm import load_timm
from image2point.lifting import kernels
from image2point.lifting.drop import ChannelDropout, DropPath
from image2point.lifting.records import Options
from image2point.voxels import AvgPool, BatchNorm, GlobalPool, MaxPool, Pointwise, VoxelConv, Window, functional

Kind = Literal["voxels", "vector", "size"]


class Unsupported(Exception):
    """Why an operation cannot be lifted; the caller adds where it is."""


@dataclass(frozen=True)
class Value:
    """A value of the lifted graph: voxels, one vector per cloud [B, C], or a size (which 3D code never needs)."""

    kind: Kind
    node: fx.Node | None


@dataclass(frozen=True)
class Chain:
    """Modules that run one after another on `operand`, each with the suffix of its name."""

    operand: Value
    modules: tuple[tuple[str, nn.Module], ...]
    kind: Kind


@dataclass(frozen=True)
class Call:
    """A function of values."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    kind: Kind


Lifted: TypeAlias = Chain | Call | Value


class VectorBatchNorm(BatchNorm):
    """Batch norm of one vector per cloud, [B, C], over the clouds of all processes."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        rows = super().forward(x[:, :, None, None, None])
        assert isinstance(rows, Tensor)
        return rows.flatten(1)


# ------------------------------------------------------------------------------------------------- module rules


def convolution(conv: nn.Conv2d, x: Value, options: Options, same: bool = False) -> Chain:
    """Convolution: kernel, stride, dilation and groups keep their meaning on all three axes."""
    _need(x.kind == "voxels", "a convolution of pooled features, as squeeze-excite has")
    _need(conv.padding_mode == "zeros", f"padding mode {conv.padding_mode!r}")
    size = _equal(conv.kernel_size, "kernel size")
    stride, dilation = _equal(conv.stride, "stride"), _equal(conv.dilation, "dilation")
    if same:
        padding = kernels.same_padding(size, stride, dilation)
    elif isinstance(conv.padding, str):
        padding = kernels.same_padding(size, 1, dilation) if conv.padding == "same" else 0
    else:
        padding = _near_padding(conv.padding, size, dilation)
    paddings = [padding] * 3
    if size == 1 and stride > 1 and options.downsample == "paper":
        kernel = kernels.spread(conv.weight.detach(), stride)
    else:
        kernel = kernels.inflate(conv.weight.detach(), options.rule, options.axis)
        if options.rule == "center" and size % 2:
            # The one slice that is not zero reads the depth at which the output lies, whatever the 2D padding.
            paddings[kernels.AXES.index(options.axis)] = dilation * (size - 1) // 2
    lifted = voxel_conv(kernel, conv.bias, stride, tuple(paddings), dilation, conv.groups, options)
    return Chain(x, (("", lifted),), "voxels")


def voxel_conv(
    kernel: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: Sequence[int],
    dilation: int,
    groups: int,
    options: Options,
) -> VoxelConv:
    """A `VoxelConv` that holds `kernel` [C_out, C_in / groups, Kx, Ky, Kz] and a copy of `bias`."""
    with torch.device("meta"):  # no time and no random numbers for values that are replaced at once
        conv = VoxelConv(
            kernel.shape[1] * groups,
            kernel.shape[0],
            (kernel.shape[2], kernel.shape[3], kernel.shape[4]),
            stride=stride,
            padding=(padding[0], padding[1], padding[2]),
            dilation=dilation,
            groups=groups,
            bias=bias is not None,
            axis=options.axis,
            depth_padding=options.depth_padding,
            engine=options.engine,
        )
    conv.weight = nn.Parameter(kernel)
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone())
    return conv


def batch_norm(norm: nn.modules.batchnorm._BatchNorm, x: Value, options: Options) -> Chain:
    """Batch norm: the same parameters and statistics, over occupied sites; timm's may carry an activation."""
    layer = BatchNorm if x.kind == "voxels" else VectorBatchNorm
    with torch.device("meta"):
        lifted = layer(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    state = norm.state_dict()
    lifted.load_state_dict({name: state[name].clone() for name in lifted.state_dict()}, assign=True)
    chain: list[tuple[str, nn.Module]] = [("", lifted)]
    for name, child in norm.named_children():
        following = lift_module(child, replace(x, node=None), options)
        if isinstance(following, Chain):
            chain += [(name, module) for _, module in following.modules]
    return Chain(x, tuple(chain), x.kind)


def activation(module: nn.Module, x: Value, options: Options) -> Chain:
    """An elementwise module. Never in place: the graph says who sees what, so nothing needs to be overwritten."""
    lifted = copy.deepcopy(module)
    if hasattr(lifted, "inplace"):
        setattr(lifted, "inplace", False)  # noqa: B010  (not declared by nn.Module)
    return Chain(x, (("", Pointwise(lifted) if x.kind == "voxels" else lifted),), x.kind)


def max_pool(pool: nn.MaxPool2d, x: Value, options: Options, same: bool = False) -> Chain:
    """Maximum over the occupied sites of a window."""
    _need(x.kind == "voxels", "max pooling of pooled features")
    _need(not pool.return_indices, "max pooling that returns indices")
    size, stride = _equal(pool.kernel_size, "kernel size"), _equal(pool.stride, "stride")
    dilation = _equal(pool.dilation, "dilation")
    padding = kernels.same_padding(size, stride, dilation) if same else _near_padding(pool.padding, size, dilation)
    return Chain(x, (("", MaxPool(_pool_window(options, size, stride, padding, dilation))),), "voxels")


def avg_pool(pool: nn.AvgPool2d, x: Value, options: Options) -> Chain:
    """Mean over the occupied sites of a window."""
    _need(x.kind == "voxels", "average pooling of pooled features")
    size, stride = _equal(pool.kernel_size, "kernel size"), _equal(pool.stride, "stride")
    padding = _near_padding(pool.padding, size, 1)
    _need(padding == 0 or not pool.count_include_pad, "average pooling that counts padding (count_include_pad=True)")
    _need(pool.divisor_override is None, "average pooling with a divisor of its own (divisor_override)")
    return Chain(x, (("", AvgPool(_pool_window(options, size, stride, padding))),), "voxels")


def global_pool(kind: str, x: Value) -> Lifted:
    """Pooling over the whole cloud, to one vector."""
    if x.kind == "vector":
        return x
    _need(kind in ("avg", "max", "avgmax", "catavgmax"), f"global pooling of type {kind!r}")
    return Chain(x, (("", GlobalPool(kind)),), "vector")  # type: ignore[arg-type]


def adaptive_pool(kind: str, pool: nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d, x: Value, options: Options) -> Lifted:
    _need(_size_one(pool.output_size), f"adaptive pooling to size {pool.output_size}")
    _need(not getattr(pool, "return_indices", False), "max pooling that returns indices")
    return global_pool(kind, x)


def select_pool(pool: Any, x: Value, options: Options) -> Lifted:
    """timm's SelectAdaptivePool2d."""
    if not pool.pool_type:
        return x
    layout, size = (
        getattr(pool.pool, "dim", getattr(pool.pool, "dim_reduce", (2, 3))),
        getattr(pool.pool, "output_size", 1),
    )
    _need(tuple(layout) == (2, 3), "pooling of channels-last maps")
    _need(_size_one(size), f"adaptive pooling to size {size}")
    return global_pool(pool.pool_type.lower().removeprefix("fast") or "avg", x)


def linear(module: nn.Linear, x: Value, options: Options) -> Chain:
    """A linear layer after global pooling."""
    _need(x.kind == "vector", "a linear layer before global pooling")
    return Chain(x, (("", copy.deepcopy(module)),), "vector")


def dropout(module: nn.Dropout, x: Value, options: Options) -> Chain:
    return activation(module, x, options)


def channel_dropout(module: nn.Dropout2d, x: Value, options: Options) -> Chain:
    _need(x.kind == "voxels", "Dropout2d of pooled features")
    return Chain(x, (("", ChannelDropout(module.p)),), "voxels")


def drop_path(module: Any, x: Value, options: Options) -> Chain:
    """Stochastic depth: one draw per cloud."""
    _need(x.kind == "voxels", "drop path of pooled features")
    return Chain(x, (("", DropPath(float(module.drop_prob or 0.0), module.scale_by_keep)),), "voxels")


def identity(module: nn.Module, x: Value, options: Options) -> Value:
    return x


def flatten_module(module: nn.Flatten, x: Value, options: Options) -> Value:
    return flatten(options, x, module.start_dim, module.end_dim)


# ----------------------------------------------------------------------------------------------- function rules


def add(options: Options, input: Value, other: Value, *, alpha: float = 1) -> Call:
    _need(alpha == 1, f"addition with a factor (alpha={alpha})")
    return _pair(functional.add, operator.add, input, other)


def multiply(options: Options, input: Value, other: Value) -> Call:
    return _pair(functional.multiply, operator.mul, input, other)


def cat(options: Options, tensors: Sequence[Value], dim: int = 0) -> Call:
    """Concatenation of channels."""
    kinds = {value.kind for value in tensors if isinstance(value, Value)}
    _need(len(kinds) == 1 and all(isinstance(value, Value) for value in tensors), "concatenation of different kinds")
    nodes = [value.node for value in tensors]
    if kinds == {"voxels"}:
        _need(dim in (1, -3), f"concatenation along dimension {dim}")
        return Call(functional.cat, (nodes,), "voxels")
    _need(kinds == {"vector"} and dim == 1, f"concatenation of pooled features along dimension {dim}")
    return Call(torch.cat, (nodes, 1), "vector")


def reduce(
    kind: str, options: Options, input: Value, dim: int | Sequence[int] | None = None, keepdim: bool = False
) -> Lifted:
    """Mean or maximum over both image axes."""
    dims = {dim} if isinstance(dim, int) else set(dim or ())
    _need(input.kind == "voxels" and {d % 4 for d in dims} == {2, 3}, f"a reduction over dimensions {dim}")
    return global_pool(kind, input)


def adaptive_pool_function(kind: str, options: Options, input: Value, output_size: Any) -> Lifted:
    _need(_size_one(output_size), f"adaptive pooling to size {output_size}")
    return global_pool(kind, input)


def flatten(options: Options, input: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    """One vector per cloud is flat already."""
    _need(input.kind == "vector", "flattening of a feature map, whose size a cloud does not fix, before global pooling")
    _need(start_dim == 1, f"flatten from dimension {start_dim}")
    return input


def reshape(options: Options, input: Value, *shape: Any) -> Value:
    """`x.view(x.size(0), -1)` after global pooling."""
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    _need(input.kind == "vector" and len(sizes) == 2, "a reshape that is not (batch, -1) after global pooling")
    return input


def squeeze(options: Options, input: Value, dim: int | None = None) -> Value:
    _need(input.kind == "vector" and dim in (2, 3, -1, -2), "squeeze of anything but pooled image axes")
    return input


def size(options: Options, input: Value, *which: Any) -> Value:
    """A size; only a reshape may use it."""
    return Value("size", None)


def read_attribute(options: Options, input: Value, name: str) -> Value:
    _need(name == "shape", f"the attribute {name!r}")
    return Value("size", None)


def item(options: Options, input: Value, index: Any) -> Value:
    _need(input.kind == "size", "indexing of features")
    return input


def through(options: Options, input: Value, *rest: Any) -> Value:
    return input


def elementwise(make: Callable[..., nn.Module], options: Options, input: Value, *rest: Any, **named: Any) -> Chain:
    """A functional activation: the module of the same arguments."""
    return activation(make(*rest, **named), input, options)


def dropout_function(
    options: Options, input: Value, p: float = 0.5, training: Any = True, inplace: bool = False
) -> Chain:
    """F.dropout; it follows the mode of the lifted network."""
    return activation(nn.Dropout(p), input, options)


def pool_function(
    rule: Callable[..., Lifted],
    make: Callable[..., nn.Module],
    options: Options,
    input: Value,
    *rest: Any,
    **named: Any,
) -> Lifted:
    """F.max_pool2d and F.avg_pool2d: the module of the same arguments."""
    return rule(make(*rest, **named), input, options)


# ------------------------------------------------------------------------------------------------------- tables

_ELEMENTWISE: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.SiLU, nn.GELU, nn.Mish, nn.Hardtanh, nn.Hardswish,
    nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.LogSigmoid,
)  # fmt: skip
_TIMM_ELEMENTWISE = (
    "Swish", "Mish", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "HardMish", "GELU", "GELUTanh", "QuickGELU",
)  # fmt: skip


@cache
def module_rules() -> dict[type[nn.Module], Callable[..., Lifted]]:
    """Rule of each module class. Subclasses do not inherit: they may compute something else."""
    load_timm()
    from timm import layers
    from timm.layers.pool2d_same import MaxPool2dSame

    timm_elementwise = [getattr(layers, name) for name in _TIMM_ELEMENTWISE if hasattr(layers, name)]
    return {
        **dict.fromkeys((*_ELEMENTWISE, *timm_elementwise), activation),
        nn.Conv2d: convolution,
        layers.Conv2dSame: partial(convolution, same=True),
        nn.BatchNorm2d: batch_norm,
        nn.BatchNorm1d: batch_norm,
        nn.SyncBatchNorm: batch_norm,
        layers.BatchNormAct2d: batch_norm,
        nn.MaxPool2d: max_pool,
        MaxPool2dSame: partial(max_pool, same=True),
        nn.AvgPool2d: avg_pool,
        nn.AdaptiveAvgPool2d: partial(adaptive_pool, "avg"),
        nn.AdaptiveMaxPool2d: partial(adaptive_pool, "max"),
        layers.SelectAdaptivePool2d: select_pool,
        nn.Linear: linear,
        nn.Dropout: dropout,
        nn.Dropout2d: channel_dropout,
        layers.DropPath: drop_path,
        nn.Identity: identity,
        nn.Flatten: flatten_module,
    }


FUNCTION_RULES: dict[Any, Callable[..., Lifted]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), add),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", "mul_"), multiply),
    **dict.fromkeys((torch.cat, torch.concat), cat),
    **dict.fromkeys((torch.mean, "mean"), partial(reduce, "avg")),
    **dict.fromkeys((torch.amax, "amax"), partial(reduce, "max")),
    F.adaptive_avg_pool2d: partial(adaptive_pool_function, "avg"),
    F.adaptive_max_pool2d: partial(adaptive_pool_function, "max"),
    F.max_pool2d: partial(pool_function, max_pool, nn.MaxPool2d),
    F.avg_pool2d: partial(pool_function, avg_pool, nn.AvgPool2d),
    torch.max_pool2d: partial(pool_function, max_pool, nn.MaxPool2d),
    **dict.fromkeys((torch.flatten, "flatten"), flatten),
    **dict.fromkeys(("view", "reshape", torch.reshape), reshape),
    **dict.fromkeys(("squeeze", torch.squeeze), squeeze),
    **dict.fromkeys(("contiguous", "clone"), through),
    "size": size,
    getattr: read_attribute,
    operator.getitem: item,
    F.dropout: dropout_function,
    **dict.fromkeys((F.relu, torch.relu, "relu", "relu_", torch.relu_, F.relu_), partial(elementwise, nn.ReLU)),
    F.relu6: partial(elementwise, nn.ReLU6),
    F.leaky_relu: partial(elementwise, nn.LeakyReLU),
    F.silu: partial(elementwise, nn.SiLU),
    F.gelu: partial(elementwise, nn.GELU),
    F.hardswish: partial(elementwise, nn.Hardswish),
    F.hardsigmoid: partial(elementwise, nn.Hardsigmoid),
    **dict.fromkeys((torch.sigmoid, F.sigmoid, "sigmoid"), partial(elementwise, nn.Sigmoid)),
    **dict.fromkeys((torch.tanh, F.tanh, "tanh"), partial(elementwise, nn.Tanh)),
}


def lift_module(module: nn.Module, x: Value, options: Options) -> Lifted:
    """Lift one module of the 2D network.

    Raises:
        Unsupported: where no rule covers it.
    """
    rule = module_rules().get(type(module))
    if rule is None:
        raise Unsupported(f"no rule for the module class {type(module).__name__}")
    return rule(module, x, options)


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


# ------------------------------------------------------------------------------------------------------ helpers


def _need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Unsupported(f"no rule for {otherwise}")


def _equal(sizes: int | Sequence[int], what: str) -> int:
    """The one size of both image axes."""
    both = {sizes} if isinstance(sizes, int) else set(sizes)
    _need(len(both) == 1, f"{what} {sizes}, which differs between the image axes")
    return both.pop()


def _near_padding(paddings: int | Sequence[int], size: int, dilation: int) -> int:
    padding = _equal(paddings, "padding")
    _need(2 * padding <= dilation * (size - 1), f"padding {padding} that enlarges the map (kernel size {size})")
    return padding


def _size_one(size: Any) -> bool:
    return size in (1, (1, 1), [1, 1])


def _pair(on_voxels: Callable[..., Any], on_vectors: Callable[..., Any], x: Value, y: Value) -> Call:
    both = [value.kind if isinstance(value, Value) else type(value).__name__ for value in (x, y)]
    _need(both in (["voxels", "voxels"], ["vector", "vector"]), f"{on_vectors.__name__} of {both[0]} and {both[1]}")
    return Call(on_voxels if x.kind == "voxels" else on_vectors, (x.node, y.node), x.kind)


def _pool_window(options: Options, size: int, stride: int, padding: int, dilation: int = 1) -> Window:
    """A cubic window; one deep under `center`, where each depth slice is a 2D network of its own."""
    kernel, near = [size] * 3, [padding] * 3
    if options.rule == "center":
        depth = kernels.AXES.index(options.axis)
        kernel[depth], near[depth] = 1, 0
    return Window((kernel[0], kernel[1], kernel[2]), stride, (near[0], near[1], near[2]), dilation)
