"""The compiled part of the `cpu` engine: gather, sum and multiply in one pass over native.cpp.

Torch's own operators need three passes with two intermediate arrays in memory; here a bag's sum is multiplied while it
is in the cache, and added to its output row. `voxels.compiled` tells when it is there. Where it is not, the `cpu`
engine does the same with torch alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from image2point.voxels.compiled import NAMES, call, library
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
) -> Tensor:
    """As `cpu.multiply`, for what `takes` takes: [N, C_in] → [M, C_out]."""
    reversed_ = backward and table.submanifold  # the same table, with the opposite taps
    shape = (weight.shape[2], weight.shape[3], weight.shape[4])
    found = bags(table, shape, backward and not reversed_)
    features, name = features.detach().contiguous(), NAMES[features.dtype]
    output = features.new_empty(found.size, weight.shape[0])
    if groups == 1:
        width = call(f"width_{name}")
        kernel = kept(forms, weight, ("panels", width), lambda: panels(weight, width))
        sizes = features.shape[1], weight.shape[0]
        call(f"convolve_{name}", *found.arguments(), features, kernel, output, *sizes, int(reversed_))
    else:
        kernel = kept(forms, weight, "scales", lambda: scales(weight))
        call(f"depthwise_{name}", *found.arguments(), features, kernel, output, features.shape[1], int(reversed_))
    return output


def weight_gradient(
    features: Tensor, gradient: Tensor, table: NeighbourTable, shape: tuple[int, int, int], groups: int, backward: bool
) -> Tensor:
    """As `cpu.weight_gradient`, for what `takes` takes: [N, C_in] and [M, C_out] → [C_out, C_in / groups, *shape]."""
    found = bags(table, shape, backward)
    features, gradient = features.detach().contiguous(), gradient.detach().contiguous()
    inputs, outputs, name = features.shape[1], gradient.shape[1], NAMES[features.dtype]
    kernel = features.new_zeros(found.columns, inputs // groups, outputs)
    if groups == 1:
        call(f"gradient_{name}", *found.arguments(), features, gradient, kernel, inputs, outputs)
    else:
        call(f"depthwise_gradient_{name}", *found.arguments(), features, gradient, kernel, outputs)
    return kernel.permute(2, 1, 0).unflatten(2, shape).contiguous()


def panels(weight: Tensor, width: int) -> Tensor:
    """[C_out, C_in, kx, ky, kz] → [kx · ky · kz, ⌈C_out / width⌉, C_in, width], filled up with zeros."""
    matrices = weight.detach().flatten(2).permute(2, 1, 0)
    matrices = F.pad(matrices, (0, -weight.shape[0] % width))
    return matrices.unflatten(2, (-1, width)).transpose(1, 2).clone(memory_format=torch.contiguous_format)


def scales(weight: Tensor) -> Tensor:
    """[C, 1, kx, ky, kz] → [kx · ky · kz, C]"""
    return weight.detach().flatten(1).T.clone(memory_format=torch.contiguous_format)


@dataclass(frozen=True, eq=False)
class Bags:
    """A neighbour table, block by block, and within a block column by column.

    Attributes:
        members: int32 [P], input rows, bag after bag; offsets: int32 [B + 1], start of each bag in it.
        rows: int32 [B], each bag's output row within its block.
        edges: int32 [blocks · G + 1], first bag of each column of each block.
        size, height: output rows, and those of a block; columns: G.
    """

    members: Tensor
    offsets: Tensor
    rows: Tensor
    edges: Tensor
    size: int
    height: int
    columns: int

    def arguments(self) -> tuple[Tensor | int, ...]:
        return self.members, self.offsets, self.rows, self.edges, self.size, self.height, self.columns


def bags(table: NeighbourTable, shape: tuple[int, int, int], backward: bool) -> Bags:
    """The table's bags, built once and kept with it; arguments as of `blocks.blocks`."""
    return table.form(("bags", shape, backward), lambda: _build(table, shape, backward))


def _build(table: NeighbourTable, shape: tuple[int, int, int], backward: bool) -> Bags:
    entries, taps = table.entries(backward).contiguous(), column_taps(table.kernel, shape)
    size, (columns, depth) = entries.shape[1], taps.shape
    height = max(min(HEIGHT, size), 1)
    blocks = -(-size // height)
    edges = torch.empty(blocks * columns + 1, dtype=torch.int32)
    firsts = torch.empty(blocks + 1, dtype=torch.int64)  # first member of each block
    given = entries, taps.to(torch.int32).contiguous(), size, columns, depth, height
    call("count_bags", *given, edges, firsts)
    counts = int(firsts[-1]), int(edges[-1])
    members, rows = (torch.empty(count, dtype=torch.int32) for count in counts)
    offsets = torch.empty(counts[1] + 1, dtype=torch.int32)
    call("fill_bags", *given, edges, firsts, members, offsets, rows)
    return Bags(members, offsets, rows, edges, size, height, columns)
