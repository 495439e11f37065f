"""Operations that only rearrange: concatenation, splitting, permutation, reshaping, sizes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from image2point.lifting.records import Options
from image2point.lifting.rules.values import Call, Lifted, Value, need
from image2point.voxels import functional


def cat(options: Options, tensors: Sequence[Value], dim: int = 0) -> Lifted:
    """Concatenation of channels."""
    need(all(isinstance(value, Value) for value in tensors) and len(tensors) > 0, "concatenation of different kinds")
    first = tensors[0]
    same = {(value.kind, value.axes, value.stride, value.radix) for value in tensors}
    need(len(same) == 1 and first.kind in ("voxels", "vector"), "concatenation of different kinds, layouts or strides")
    need(first.dim(dim) == "C" and first.radix == 1, f"concatenation along dimension {dim} of {first.axes}")
    nodes = [value.node for value in tensors]
    if first.kind == "voxels":
        return Call(functional.cat, (nodes,), replace(first, node=None))
    return Call(torch.cat, (nodes, 1), replace(first, node=None))


def stack(options: Options, tensors: Sequence[Value], dim: int = 0) -> Lifted:
    """Maps stacked along a new axis before the channels: parts of the channels."""
    need(all(isinstance(v, Value) and v.axes == "BCHW" for v in tensors) and dim == 1, f"a stack along {dim}")
    joined = cat(options, tensors, 1)
    assert isinstance(joined, Call)
    return replace(joined, result=replace(joined.result, axes="BRCHW", radix=len(tensors)))


def split(options: Options, tensor: Value, split_size_or_sections: Any, dim: int = 0) -> Lifted:
    return _split(tensor, split_size_or_sections, dim, functional.split, torch.split)


def chunk(options: Options, input: Value, chunks: int, dim: int = 0) -> Lifted:
    return _split(input, chunks, dim, functional.chunk, torch.chunk)


def _split(x: Value, how: Any, dim: int, on_voxels: Any, on_vectors: Any) -> Lifted:
    need(x.kind in ("voxels", "vector") and x.dim(dim) == "C" and x.radix == 1, f"a split of {x.axes} along {dim}")
    need(isinstance(how, int) or all(isinstance(n, int) for n in how), f"a split into {how}")
    result = replace(x, kind="parts", node=None, of=x)
    return Call(on_voxels, (x.node, how), result) if x.kind == "voxels" else Call(on_vectors, (x.node, how, 1), result)


def permute(options: Options, input: Value, *dims: Any) -> Lifted:
    """Only the layout changes: 3D features need none."""
    order = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    need(input.kind in ("voxels", "vector") and len(order) == len(input.axes), f"a permutation {order}")
    return input.with_axes("".join(input.dim(d) for d in order))


def transpose(options: Options, input: Value, dim0: int, dim1: int) -> Lifted:
    need(input.kind in ("voxels", "vector"), f"a transposition of a {input.kind}")
    order = list(range(len(input.axes)))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return permute(options, input, order)


def flatten(options: Options, input: Value, start_dim: int = 0, end_dim: int = -1) -> Lifted:
    """Flattening of a vector per cloud, which is flat already; of both image axes; or of a map of known extent."""
    need(input.kind in ("voxels", "vector"), f"flattening of a {input.kind}")
    start, end = start_dim % len(input.axes), end_dim % len(input.axes)
    inner = input.axes[start : end + 1]
    if input.kind == "voxels":
        if inner == "CHW" and start == 1 and input.extent:
            return input.with_axes("BM")
        need(inner == "HW", "flattening of a feature map, whose size a cloud does not fix, before global pooling")
        return input.with_axes(input.axes[:start] + "N" + input.axes[end + 1 :])
    need(start == 1 and input.radix == 1, f"flatten from dimension {start_dim}")
    return input.with_axes(input.axes[:start] + "C" + input.axes[end + 1 :])


def flatten_module(module: nn.Flatten, x: Value, options: Options) -> Lifted:
    return flatten(options, x, module.start_dim, module.end_dim)


def channel_shuffle(module: nn.ChannelShuffle, x: Value, options: Options) -> Lifted:
    need(x.kind == "voxels" and x.axes == "BCHW", f"a channel shuffle of features laid out as {x.axes}")
    return Call(functional.shuffle, (x.node, module.groups), replace(x, node=None))


def reshape(options: Options, input: Value, *shape: Any) -> Lifted:
    """A reshape within each cloud: of vectors, of both image axes, of channels into parts and back, of a whole map."""
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    if input.kind == "parameter":
        return replace(input, shape=_parameter_shape(input.shape, sizes))
    if len(shape) == 1 and isinstance(shape[0], Value) and shape[0].of is not None:  # x.view(y.shape)
        axes = shape[0].axes
        sizes = [Value("size", axes=letter) for letter in axes]
    letters = "".join(_letter(size) for size in sizes)
    if input.kind == "vector":
        need(letters[:1] in ("B", "*", "k"), f"a reshape of pooled features to {letters}")
        if len(letters) == 5 and letters[3:].strip("1HW") == "" and isinstance(sizes[1], int) and input.radix == 1:
            return replace(input, axes="BRC11", radix=sizes[1])
        ones = [i for i, letter in enumerate(letters) if letter in "1HW"]
        need(len(letters) - len(ones) == 2, f"a reshape of pooled features to {letters}")
        return replace(input, axes="".join("1" if i in ones else "BC"[i > 0] for i in range(len(letters))), radix=1)
    need(input.kind == "voxels", f"a reshape of a {input.kind}")
    if input.axes == "BCHW" and input.extent and len(letters) == 2 and letters[0] in "B*k":
        return input.with_axes("BM")
    if input.axes == "BCHW" and len(letters) == 5 and isinstance(sizes[1], int) and letters[3:] == "HW":
        return replace(input, axes="BRCHW", radix=sizes[1])
    if input.axes == "BCRHW" and len(letters) == 4 and letters[2:] == "HW":
        result = replace(input, node=None, axes="BCHW", radix=1)
        return Call(functional.shuffle, (input.node, input.radix), result)
    if input.axes == "BRCHW" and len(letters) == 4 and letters[2:] == "HW":
        return replace(input, axes="BCHW", radix=1)
    if input.axes in ("BCHW", "BCN") and len(letters) == 3 and letters[2] in "*?N":
        return input.with_axes("BCN")
    if input.axes == "BCN" and len(letters) == 4 and letters[2:] == "HW":
        return input.with_axes("BCHW")
    if input.axes == "BNC" and len(letters) == 4 and letters[1:3] == "HW":
        return input.with_axes("BHWC")
    need(False, f"a reshape from {input.axes} to {letters} before global pooling")
    return input


def _letter(size: Any) -> str:
    """What a size in a reshape stands for: an axis, `1`, `*` for −1, `k` for another number, `?` for arithmetic."""
    if isinstance(size, Value):
        return size.axes if len(size.axes) == 1 else "?"
    return "*" if size == -1 else "1" if size == 1 else "k"


def _parameter_shape(shape: tuple[int, ...], sizes: Sequence[Any]) -> tuple[int, ...]:
    need(all(isinstance(size, int) for size in sizes), "a reshape of a parameter to a size of features")
    rest = prod(shape) // max(1, prod(size for size in sizes if size != -1))
    result = tuple(rest if size == -1 else size for size in sizes)
    need(sum(size > 1 for size in result) <= 1, f"a reshape of a parameter to {result}")
    return result


def squeeze(options: Options, input: Value, dim: int | Sequence[int] | None = None) -> Lifted:
    need(input.kind == "vector", "squeeze of anything but pooled image axes")
    dims = range(1, len(input.axes)) if dim is None else (dim,) if isinstance(dim, int) else dim
    chosen = {d % len(input.axes) for d in dims}
    kept = [letter for i, letter in enumerate(input.axes) if i not in chosen or letter != "1"]
    return input.with_axes("".join(kept))


def unsqueeze(options: Options, input: Value, dim: int) -> Lifted:
    if input.kind == "parameter":
        at = dim % (len(input.shape) + 1)
        return replace(input, shape=(*input.shape[:at], 1, *input.shape[at:]))
    need(input.kind in ("voxels", "vector"), f"unsqueeze of a {input.kind}")
    at = dim % (len(input.axes) + 1)
    return input.with_axes(input.axes[:at] + "1" + input.axes[at:])


def expand(options: Options, input: Value, *sizes: Any) -> Lifted:
    """Broadcasting: it happens where the value is used."""
    need(input.kind == "vector", f"expansion of a {input.kind}")
    return input


def size(options: Options, input: Value, *which: Any) -> Lifted:
    """A size; only a reshape or an interpolation may use it."""
    need(input.kind in ("voxels", "vector", "parameter"), f"the size of a {input.kind}")
    whole = Value("size", axes=input.axes, of=input)
    return item(options, whole, which[0]) if which else whole


def read_attribute(options: Options, input: Value, name: str) -> Lifted:
    if name in ("dtype", "device"):
        return Value("size", axes="?")
    need(name == "shape", f"the attribute {name!r}")
    return size(options, input)


def size_arithmetic(options: Options, *operands: Any) -> Lifted:
    if isinstance(operands[0], Value) and operands[0].kind == "size" and operands[0].axes == "0":
        return operands[0]
    need(any(isinstance(value, Value) and value.kind == "size" for value in operands), "integer division of features")
    return Value("size", axes="?")


def item(options: Options, input: Value, index: Any) -> Lifted:
    if input.kind == "size":
        need(isinstance(index, int | slice), f"a size indexed by {index}")
        return replace(input, axes=input.axes[index] if input.axes != "?" else "?")
    if input.kind == "parts" and isinstance(index, int):
        assert input.of is not None
        return Call(operator.getitem, (input.node, index), replace(input.of, node=None))
    indices = index if isinstance(index, tuple) else (index,)
    if input.kind == "parameter":
        return _parameter_item(input, indices)
    if input.kind == "vector" and all(i is None or i == slice(None) for i in indices):
        axes, rest = "", list(input.axes)
        for i in indices:
            axes += "1" if i is None else rest.pop(0)
        return input.with_axes(axes + "".join(rest))
    need(input.kind in ("voxels", "vector") and input.radix == 1, f"indexing of features by {index}")
    if Ellipsis in indices:
        at = indices.index(Ellipsis)
        missing = len(input.axes) - len(indices) + 1
        indices = (*indices[:at], *[slice(None)] * missing, *indices[at + 1 :])
    need(all(isinstance(i, slice) for i in indices), f"indexing of features by {index}")
    chosen = [(letter, i) for letter, i in zip(input.axes, indices, strict=False) if i != slice(None)]
    if not chosen:
        return input
    need(len(chosen) == 1 and chosen[0][0] == "C", f"indexing of features laid out as {input.axes} by {index}")
    part = chosen[0][1]
    need(all(n is None or isinstance(n, int) for n in (part.start, part.stop, part.step)), f"indexing by {index}")
    if input.kind == "voxels":
        return Call(functional.channels, (input.node, part.start, part.stop, part.step), replace(input, node=None))
    return Call(vector_channels, (input.node, part.start, part.stop, part.step), replace(input, node=None))


def vector_channels(x: Tensor, start: int | None, stop: int | None, step: int | None) -> Tensor:
    """The channels start:stop:step of a vector per cloud."""
    return x[:, start:stop:step]


def _parameter_item(x: Value, indices: tuple[Any, ...]) -> Value:
    need(all(i is None or i == slice(None) or i is Ellipsis for i in indices), f"indexing of a parameter by {indices}")
    shape, rest = [], list(x.shape)
    for i in indices:
        if i is Ellipsis:
            keep = len(rest) - sum(j == slice(None) for j in indices[indices.index(Ellipsis) + 1 :])
            shape += rest[:keep]
            rest = rest[keep:]
        else:
            shape.append(1 if i is None else rest.pop(0))
    return replace(x, shape=(*shape, *rest))


def through(options: Options, input: Value, *rest: Any, **named: Any) -> Lifted:
    return input
