"""The compiled part of the `cpu` engine: gather, sum and multiply in one pass over native.cpp.

Torch's own operators need three passes with two intermediate arrays in memory; here a bag's sum is multiplied while it
is in the cache, and added to its output row. Kernels with one group per channel go to depthwise.py. `voxels.compiled`
tells when it is there. Where it is not, the `cpu` engine does the same with torch alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from image2point.voxels.compiled import NAMES, call, library
from image2point.voxels.conv import depthwise
from image2point.voxels.conv.blocks import column_taps
from image2point.voxels.conv.pack import kept
from image2point.voxels.plan import NeighbourTable
from image2point.voxels.remember import Forms

HEIGHT = 256
"""Rows of a block: enough that a column's bags repay the loading of its matrix, few enough to share among threads."""


def takes(features: Tensor, other: Tensor, outputs: int, groups: int) -> bool:
    """Whether a convolution of features [N, C_in] to `outputs` channels runs here: on a CPU, in float32 or float64, one
    group or one per channel. `other` is the kernel, or the gradient of the result."""
    return (
        features.device.type == "cpu"
        and features.dtype == other.dtype
        and features.dtype in NAMES
        and (groups == 1 or outputs == features.shape[1] == groups)
        and library() is not None
    )


def multiply(
    features: Tensor,
    weight: Tensor,
    table: NeighbourTable,
    groups: int,
    backward: bool,
    forms: Forms | None = None,
    depth: Tensor | None = None,
) -> Tensor:
    """As `cpu.multiply`, for what `takes` takes: [N, C_in] → [M, C_out].

    depth: a weight for each tap of a column, [D], or for each channel and tap, [C_in, D]; None: all are 1.
    """
    if groups > 1:
        return depthwise.multiply(features, weight, table, backward, forms, depth)
    reversed_ = backward and table.submanifold  # the same table, with the opposite taps
    shape = (weight.shape[2], weight.shape[3], weight.shape[4])
    found = bags(table, shape, backward and not reversed_, placed=depth is not None)
    weights = _weights(features, depth, reversed_)
    features, name = features.detach().contiguous(), NAMES[features.dtype]
    output = features.new_empty(found.size, weight.shape[0])
    width = call(f"width_{name}")
    kernel = kept(forms, weight, ("panels", width), lambda: panels(weight, width))
    sizes = features.shape[1], weight.shape[0]
    call(f"convolve_{name}", *found.arguments(weights), features, kernel, output, *sizes, int(reversed_))
    return output


def weight_gradient(
    features: Tensor, gradient: Tensor, table: NeighbourTable, shape: tuple[int, int, int], groups: int, backward: bool
) -> Tensor:
    """As `cpu.weight_gradient`, for what `takes` takes: [N, C_in] and [M, C_out] → [C_out, C_in / groups, *shape]."""
    if groups > 1:
        return depthwise.weight_gradient(features, gradient, table, shape, backward)
    found = bags(table, shape, backward)
    features, gradient = features.detach().contiguous(), gradient.detach().contiguous()
    inputs, outputs, name = features.shape[1], gradient.shape[1], NAMES[features.dtype]
    weights = _weights(features)
    matrices = features.new_empty(found.columns, inputs, outputs)
    call(f"gradient_{name}", *found.arguments(weights), features, gradient, matrices, inputs, outputs)
    kernel = features.new_empty(outputs, inputs, *shape)
    call(f"unpack_{name}", matrices, kernel, found.columns, inputs, outputs)
    return kernel


def depth_gradients(
    features: Tensor,
    gradient: Tensor,
    weight: Tensor,
    depth: Tensor,
    table: NeighbourTable,
    groups: int,
    forms: Forms | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of the features [N, C_in] and of the weights along the depth of a convolution, in one pass.

    Args:
        features: [N, C_in]; gradient: that of the result, [M, C_out]. `takes` takes them.
        weight: [C_out, C_in / groups, kx, ky, kz], of size 1 along the depth; depth: [D] or [C_in, D].
    """
    if groups > 1:
        return depthwise.depth_gradients(features, gradient, weight, depth, table, forms)
    shape = (weight.shape[2], weight.shape[3], weight.shape[4])
    features, gradient = features.detach().contiguous(), gradient.detach().contiguous()
    inputs, outputs, name = features.shape[1], gradient.shape[1], NAMES[features.dtype]
    data, by_channel, places = torch.empty_like(features), depth.ndim == 2, depth.shape[-1]
    found = table.form(("spread", shape), lambda: _spread(table, shape))
    width, turned = call(f"width_{name}"), weight.transpose(0, 1)
    kernel = kept(forms, turned, ("panels", width), lambda: panels(turned, width))
    shape_of_parts = (found.blocks, places, inputs) if by_channel else (found.blocks, -(-inputs // width), places)
    parts, weights = features.new_empty(shape_of_parts), _weights(features, depth)
    call(f"depth_{name}", *found.arguments(weights), features, gradient, kernel, data, parts, places, inputs, outputs)
    return data, parts.sum(0).t() if by_channel else parts.flatten(0, 1).sum(0)


def _weights(features: Tensor, depth: Tensor | None = None, reversed_: bool = False) -> Tensor:
    """The weights of the places of a column, [D] or [D, C_in]; empty where all are 1."""
    if depth is None:
        return features.new_empty(0)
    depth = depth.detach().to(features.dtype).t()
    return (depth.flip(0) if reversed_ else depth).contiguous()


def panels(weight: Tensor, width: int) -> Tensor:
    """[C_out, C_in, kx, ky, kz] → [kx · ky · kz, ⌈C_out / width⌉, C_in, width], filled up with zeros."""
    kernel = weight.detach().flatten(2)
    if kernel.stride(2) != 1:
        kernel = kernel.contiguous()
    outputs, inputs, taps = kernel.shape
    packed = kernel.new_empty(taps, -(-outputs // width), inputs, width)
    strides = kernel.stride(1), kernel.stride(0)  # those of a transposed kernel are the other way round
    call(f"pack_{NAMES[weight.dtype]}", kernel[0, 0], packed, taps, inputs, outputs, *strides)
    return packed


@dataclass(frozen=True, eq=False)
class Bags:
    """A neighbour table, block by block, and within a block column by column.

    Attributes:
        members: int32 [P], input rows, bag after bag; offsets: int32 [B + 1], start of each bag in it.
        places: int32 [P], the place of each member in its column; empty where nobody asked for it.
        rows: int32 [B], each bag's output row within its block.
        edges: int32 [blocks · G + 1], first bag of each column of each block.
        size, height: output rows, and those of a block; columns: G.
    """

    members: Tensor
    offsets: Tensor
    places: Tensor
    rows: Tensor
    edges: Tensor
    size: int
    height: int
    columns: int

    @property
    def blocks(self) -> int:
        return -(-self.size // self.height)

    def arguments(self, weights: Tensor) -> tuple[Tensor | int, ...]:
        """As the library takes them, with a weight for each place (and channel); no weights: all are 1."""
        tensors = self.members, self.offsets, self.rows, self.edges, self.places, weights
        return *tensors, int(weights.ndim == 2), self.size, self.height, self.columns


def bags(table: NeighbourTable, shape: tuple[int, int, int], backward: bool, placed: bool = False) -> Bags:
    """The table's bags, built once and kept with it; arguments as of `blocks.blocks`. placed: with `places`."""
    return table.form(("bags", shape, backward, placed), lambda: _build(table, shape, backward, placed))


def _build(table: NeighbourTable, shape: tuple[int, int, int], backward: bool, placed: bool) -> Bags:
    entries, taps = table.entries(backward).contiguous(), column_taps(table.kernel, shape)
    return _fill(entries, taps, placed, "bags")


def _spread(table: NeighbourTable, shape: tuple[int, int, int]) -> Bags:
    """Blocks of source rows: a bag is a target (`rows`, in the whole table) that reads some rows of the block through
    one column (`members`). So a bag whose members lie in two blocks is in both.
    """
    entries, taps = table.entries(backward=True).contiguous(), column_taps(table.kernel, shape)
    return _fill(entries, taps, True, "spread", table.targets)


def _fill(entries: Tensor, taps: Tensor, placed: bool, kind: str, *targets: int) -> Bags:
    size, (columns, depth) = entries.shape[1], taps.shape
    height = max(min(HEIGHT, size), 1)
    blocks = -(-size // height)
    edges = torch.empty(blocks * columns + 1, dtype=torch.int32)
    firsts = torch.empty(blocks + 1, dtype=torch.int64)  # first member of each block
    sizes: tuple[int, ...] = (size, *targets, columns, depth, height)
    given: tuple[Tensor | int, ...] = (entries, taps.to(torch.int32).contiguous(), *sizes)
    call(f"count_{kind}", *given, edges, firsts)
    counts = int(firsts[-1]), int(edges[-1])
    members, rows = (torch.empty(count, dtype=torch.int32) for count in counts)
    places = torch.empty(counts[0] if placed else 0, dtype=torch.int32)
    offsets = torch.empty(counts[1] + 1, dtype=torch.int32)
    call(f"fill_{kind}", *given, edges, firsts, members, places, offsets, rows)
    return Bags(members, offsets, places, rows, edges, size, height, columns)
