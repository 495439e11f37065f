"""Pooling over windows, over whole clouds and over channels; blur; upsampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from image2point.lifting import kernels
from image2point.lifting.records import Options
from image2point.lifting.rules.sizes import both, equal, near_padding, size_one
from image2point.lifting.rules.values import Call, Chain, FinerSites, Lifted, Value, need, need_dense, on
from image2point.voxels import (
    AdaptivePool,
    AvgPool,
    BlurPool,
    GlobalPool,
    MaxPool,
    SpaceToDepth,
    Window,
    functional,
    upsample,
    upsample_aligned,
    upsample_linear,
)


def max_pool(pool: nn.MaxPool2d, x: Value, options: Options, same: bool = False) -> Chain:
    """Maximum over the occupied sites of a window."""
    need(x.kind == "voxels" and x.axes == "BCHW", "max pooling of pooled features")
    need(not pool.return_indices, "max pooling that returns indices")
    window, flat = _window(pool, x, options, equal(pool.dilation, "dilation"), same)
    counts = frozenset(flat) if x.padded else frozenset[int]()
    return on(x, MaxPool(window, counts), stride=window.stride)


def avg_pool(pool: Any, x: Value, options: Options, same: bool = False) -> Chain:
    """Mean over the occupied sites of a window; on a plain grid padded cells count where they do in 2D."""
    need(x.kind == "voxels" and x.axes == "BCHW", "average pooling of pooled features")
    need(pool.divisor_override is None, "average pooling with a divisor of its own (divisor_override)")
    window, flat = _window(pool, x, options, 1, same)
    counted = same or x.padded or (pool.count_include_pad and any(window.padding))
    counts = frozenset(flat) if counted else frozenset[int]()
    return on(x, AvgPool(window, counts), stride=window.stride)


def blur_pool(pool: Any, x: Value, options: Options) -> Chain:
    """Anti-aliasing: a binomial blur along all three axes."""
    need(x.kind == "voxels" and x.axes == "BCHW", "blurring of pooled features")
    need(pool.pad_mode in ("reflect", "constant"), f"padding mode {pool.pad_mode!r}")
    size = pool.filt_size
    window = _cube(options, (size, size), pool.stride, list(both(pool.padding[:2])))
    border = "reflect" if pool.pad_mode == "reflect" else "zeros"
    return on(x, BlurPool(window, border, kernels.AXES.index(options.axis)), stride=pool.stride)  # type: ignore[arg-type]


def space_to_depth(module: Any, x: Value, options: Options) -> Chain:
    """Blocks of pixels moved into the channels: of a block of voxels, the means of its columns are."""
    need(x.kind == "voxels" and x.axes == "BCHW", "blocks of pooled features moved into the channels")
    axis = kernels.AXES.index(options.axis)
    return on(x, SpaceToDepth(module.bs, axis, first=options.rule == "center"), stride=module.bs)


def global_pool(kind: str, x: Value, keep: bool) -> Lifted:
    """Pooling over the whole cloud, to one vector; `keep` keeps the image axes, of size one, in the 2D layout."""
    axes = x.vector_axes if keep else "BC"
    if x.kind == "vector":
        return replace(x, axes=axes)
    need(x.kind == "voxels" and x.axes in ("BCHW", "BHWC", "BCN", "BNC"), f"global pooling of {x.axes or x.kind}")
    need(kind in ("avg", "max", "avgmax", "catavgmax"), f"global pooling of type {kind!r}")
    return Chain(x, (("", GlobalPool(kind)),), Value("vector", axes=axes))  # type: ignore[arg-type]


def adaptive_pool(kind: str, pool: Any, x: Value, options: Options) -> Lifted:
    """Adaptive pooling: to one cell, which is global pooling; or of a grid, to as many cells as in 2D."""
    need(not getattr(pool, "return_indices", False), "max pooling that returns indices")
    return adaptive_pool_function(kind, options, x, pool.output_size)


def fast_pool(kind: str, pool: Any, x: Value, options: Options) -> Lifted:
    """timm's FastAdaptive pools."""
    dims = getattr(pool, "dim", getattr(pool, "dim_reduce", None))
    need(dims is not None and x.kind == "voxels" and {x.dim(d) for d in dims} == {"H", "W"}, f"pooling over {dims}")
    return global_pool(kind, x, keep=not pool.flatten)


def select_pool(pool: Any, x: Value, options: Options) -> Lifted:
    """timm's SelectAdaptivePool2d."""
    if not pool.pool_type:
        return x
    size = getattr(pool.pool, "output_size", 1)
    need(size_one(size), f"adaptive pooling to size {size}")
    dims = getattr(pool.pool, "dim", getattr(pool.pool, "dim_reduce", (2, 3)))
    need(x.kind == "vector" or {x.dim(d) for d in dims} == {"H", "W"}, f"pooling of features laid out as {x.axes}")
    flat = isinstance(pool.flatten, nn.Flatten) or getattr(pool.pool, "flatten", False)
    return global_pool(pool.pool_type.lower().removeprefix("fast") or "avg", x, keep=not flat)


def pad_module(module: Any, x: Value, options: Options) -> Lifted:
    need(getattr(module, "value", 0) == 0, f"padding with {getattr(module, 'value', 0)}")
    return pad(options, x, module.padding)


def upsample_module(module: nn.Upsample, x: Value, options: Options) -> Lifted:
    return interpolate(options, x, module.size, module.scale_factor, module.mode, module.align_corners)


# ----------------------------------------------------------------------------------------------- function rules


def reduce(
    kind: str,
    options: Options,
    input: Value,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    keepdims: bool = False,
) -> Lifted:
    """Mean or maximum over both image axes, or over channels; sum over parts of the channels."""
    keepdim = keepdim or keepdims
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    letters = "".join(sorted(input.dim(d) for d in dims)) if input.axes else ""
    if input.kind == "voxels" and letters in ("HW", "N") and kind != "sum":
        return global_pool(kind, input, keepdim)
    if input.kind == "voxels" and letters == "C" and input.axes == "BCHW" and keepdim and kind != "sum":
        one = functional.channel_mean if kind == "avg" else functional.channel_max
        return Call(one, (input.node,), replace(input, node=None))
    if input.kind in ("voxels", "vector") and letters == "R" and kind == "sum" and input.axes.startswith("BRC"):
        axes = input.axes.replace("R", "")
        if input.kind == "vector":
            return Call(vector_sum_parts, (input.node, input.radix), replace(input, node=None, axes=axes, radix=1))
        return Call(functional.sum_parts, (input.node, input.radix), replace(input, node=None, axes=axes, radix=1))
    if input.kind == "vector" and letters and set(letters) == {"1"}:
        return input if keepdim else input.with_axes(input.axes.replace("1", ""))
    need(False, f"a reduction ({kind}) over dimensions {dim} of features laid out as {input.axes or input.kind}")
    return input


def vector_sum_parts(x: Any, parts: int) -> Any:
    """Sum of the parts that lie one after another in a vector per cloud: [B, R · C] → [B, C]."""
    return x.unflatten(1, (parts, -1)).sum(1)


def adaptive_pool_function(kind: str, options: Options, input: Value, output_size: Any) -> Lifted:
    if size_one(output_size):
        return global_pool(kind, input, keep=True)
    need(kind == "avg", f"adaptive pooling ({kind}) to size {output_size}")
    need(input.kind == "voxels" and input.axes == "BCHW", "adaptive pooling of pooled features")
    size = both(output_size)
    need(all(isinstance(n, int) for n in size), f"adaptive pooling to size {output_size}")
    need_dense(options, f"adaptive pooling to {size[0]}×{size[1]} cells")
    cells = list(size)
    cells.insert(kernels.AXES.index(options.axis), min(size))
    chain = on(input, AdaptivePool((cells[0], cells[1], cells[2])), stride=1)
    return replace(chain, result=replace(chain.result, extent=size))


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


def pad(
    options: Options, input: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Value:
    """Zeros before both image axes become near-side padding of the window that follows.

    Zeros after them need no number: windows reach the last site anyway.
    """
    need(input.kind == "voxels" and input.axes == "BCHW" and mode == "constant", f"padding ({mode}) of a {input.kind}")
    pad = [0 if _is_zero(n) else n for n in pad]
    need(not value and len(pad) == 4 and all(isinstance(n, int) for n in pad), f"padding by {pad} with {value}")
    near = (input.padding[0] + pad[2], input.padding[1] + pad[0])
    return replace(input, padding=near, padded=input.padded or any(pad))


def interpolate(
    options: Options,
    input: Value,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
    recompute_scale_factor: Any = None,
    antialias: bool = False,
) -> Lifted:
    """Upsampling by a whole number, nearest or linear, onto the sites of an earlier map of that scale.

    Of pooled features, to the size of an earlier map: every site gets those of its cloud.
    """
    if input.kind == "vector" and input.axes == "BC11" and (like := _map_of(size)) is not None:
        return Call(functional.spread, (input.node, like.node), replace(like, node=None, extent=()))
    need(input.kind == "voxels" and input.axes == "BCHW", "interpolation of pooled features")
    need(mode in ("nearest", "bilinear") and not antialias, f"{mode} interpolation (antialias={antialias})")
    if (like := _map_of(size)) is not None:
        scale = input.stride / like.stride
        finer: Any = like.node
    else:
        need(scale_factor is not None, f"interpolation to the size {size}")
        scale = float(equal(scale_factor, "scale factor"))
        finer = FinerSites(int(input.stride // scale)) if scale else None
    if scale == 1:
        return input
    need(scale > 1 and scale == int(scale), f"interpolation by {scale:g}")
    need(
        input.stride % scale == 0,
        f"interpolation by {scale:g} at stride {input.stride}: it would be finer than the voxels",
    )
    result = replace(input, node=None, stride=int(input.stride // scale), extent=())
    if mode == "nearest":
        return Call(upsample, (input.node, finer, int(scale)), result)
    if align_corners:
        need_dense(options, "bilinear interpolation with align_corners, which asks for the corners of a grid,")
        need(options.rule != "center", "bilinear interpolation with align_corners under the rule center")
        return Call(upsample_aligned, (input.node, finer), result)
    flat = kernels.AXES.index(options.axis) if options.rule == "center" else None
    return Call(upsample_linear, (input.node, finer, int(scale), flat), result)


# ------------------------------------------------------------------------------------------------------ helpers


def _map_of(size: Any) -> Value | None:
    """The map of which `size` is the size along both image axes, if it is that of one."""
    if isinstance(size, tuple | list) and all(isinstance(s, Value) and s.of is not None for s in size):
        size = replace(size[0], axes="".join(s.axes for s in size))
    if isinstance(size, Value) and size.of is not None and size.of.kind == "voxels" and size.axes == "HW":
        return size.of
    return None


def _is_zero(size: Any) -> bool:
    """Whether a number is the difference of two equal sizes."""
    return isinstance(size, Value) and size.kind == "size" and size.axes == "0"


def _window(pool: Any, x: Value, options: Options, dilation: int, same: bool) -> tuple[Window, list[int]]:
    """The lifted window, and the two axes on which the 2D one lies."""
    size = both(pool.kernel_size)
    stride = equal(pool.stride if pool.stride is not None else pool.kernel_size, "stride")
    if same:
        padding = [kernels.same_padding(k, stride, dilation) for k in size]
    else:
        padding = near_padding(pool.padding, size, dilation, x.padding)
    flat = [axis for axis in range(3) if kernels.AXES[axis] != options.axis]
    return _cube(options, size, stride, padding, dilation), flat


def _cube(options: Options, size: tuple[int, int], stride: int, padding: list[int], dilation: int = 1) -> Window:
    """A window as deep as it is wide; under `center` one voxel deep, as each depth slice is a 2D network of its own."""
    depth = kernels.AXES.index(options.axis)
    narrow = 0 if size[0] <= size[1] else 1
    kernel, near = list(size), list(padding)
    kernel.insert(depth, 1 if options.rule == "center" else size[narrow])
    # Negative padding shifts an image; there is nothing to shift along the depth.
    near.insert(depth, 0 if options.rule == "center" else max(padding[narrow], 0))
    return Window((kernel[0], kernel[1], kernel[2]), stride, (near[0], near[1], near[2]), dilation)
