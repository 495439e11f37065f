"""The `cpu` engine: gather and sum, multiply, sum, in blocks that stay in the cache. Plain torch, so it runs anywhere.

What native.py takes is done there, in one pass.

A kernel that is constant along an axis multiplies every neighbour along that axis by the same weight, so the
neighbours are summed first and multiplied once: y(p) = Σ_ij W2[i, j] · (Σ_k x(p + (i, j, k))). A 3×3×3 kernel inflated
from 3×3 costs 9 products instead of 27, and a 2×2×2 kernel of one repeated entry costs one.

Each of the three steps is one pass over a block of rows: neighbours are summed as they are gathered, each column is
one matrix product (of a depthwise kernel: one scaling), and the products of a row are summed as they are gathered back.
Nothing is scattered, so the result does not depend on the order in which threads come.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from image2point.voxels.conv import native
from image2point.voxels.conv.blocks import Blocks, blocks
from image2point.voxels.conv.pack import pack
from image2point.voxels.plan import NeighbourTable
from image2point.voxels.remember import Forms

_BLOCK_BYTES = {"cpu": 4 << 20}
_GPU_BLOCK_BYTES = 256 << 20
"""Size of what lies between two steps: about the cache that a core has, or enough to fill a GPU."""


def unavailable(device: torch.device) -> str | None:
    """None: this engine runs on every device."""
    return None


def unsupported(features: Tensor, weight: Tensor, table: NeighbourTable, groups: int) -> str | None:
    """None: this engine runs every convolution."""
    return None


def multiply(
    features: Tensor,
    weight: Tensor,
    table: NeighbourTable,
    groups: int = 1,
    backward: bool = False,
    forms: Forms | None = None,
) -> Tensor:
    """As `engines.Engine.multiply`."""
    if native.takes(features, weight, weight.shape[0], groups):
        return native.multiply(features, weight, table, groups, backward, forms)
    features = features.detach()  # what takes no gradient is spared the bookkeeping for one
    matrices = pack(weight, groups, forms).unbind()
    if backward and table.submanifold:  # the same table, with the opposite taps
        matrices, backward = matrices[::-1], False
    plan = _plan(features, weight.shape[0], table, tuple(weight.shape[2:]), backward)
    output = features.new_empty(plan.size, weight.shape[0])
    for block in plan:
        products = _multiply(_sum(features, block.members, block.offsets), matrices, block.columns)
        if len(products) == block.rows.stop - block.rows.start and len(matrices) == 1:
            output[block.rows] = products  # one bag per row, in order
        else:
            output[block.rows] = _sum(products, block.order, block.starts)
    return output


def weight_gradient(
    features: Tensor,
    gradient: Tensor,
    table: NeighbourTable,
    shape: tuple[int, int, int],
    groups: int = 1,
    backward: bool = False,
) -> Tensor:
    """As `engines.Engine.weight_gradient`."""
    if native.takes(features, gradient, gradient.shape[1], groups):
        return native.weight_gradient(features, gradient, table, shape, groups, backward)
    features, gradient = features.detach(), gradient.detach()
    inputs, outputs = features.shape[1] // groups, gradient.shape[1] // groups
    wide = torch.promote_types(features.dtype, torch.float32)
    kernel = torch.zeros(prod(shape), groups, inputs, outputs, dtype=wide, device=features.device)
    for block in _plan(features, gradient.shape[1], table, shape, backward):
        x = _sum(features, block.members, block.offsets).unflatten(1, (groups, inputs))
        dy = gradient.index_select(0, block.rows_of_bags()).unflatten(1, (groups, outputs))
        for column, (start, stop) in enumerate(pairwise(block.columns)):
            if stop == start:
                continue
            if inputs == outputs == 1:
                kernel[column] += (x[start:stop] * dy[start:stop]).sum(0, dtype=wide).unsqueeze(2)
            else:
                kernel[column] += x[start:stop].permute(1, 2, 0) @ dy[start:stop].transpose(0, 1)
    return kernel.permute(1, 3, 2, 0).flatten(0, 1).unflatten(2, shape).to(features.dtype).contiguous()


def sum_neighbours(features: Tensor, table: NeighbourTable, backward: bool = False) -> Tensor:
    """Sum of what each row reads through all taps, [N, C] → [M, C]; no autograd."""
    features = features.detach()
    if table.padded:  # blocks have sizes that depend on what the table holds
        extended = F.pad(features, (0, 0, 0, 1))  # what is read where there is nothing, by −1
        first, *others = table.entries(backward)
        output = extended[first]
        for reads in others:
            output += extended[reads]
        return output
    plan = _plan(features, features.shape[1], table, (1, 1, 1), backward)
    output = features.new_empty(plan.size, features.shape[1])
    for block in plan:
        output[block.rows] = _sum(_sum(features, block.members, block.offsets), block.order, block.starts)
    return output


def _plan(features: Tensor, out_channels: int, table: NeighbourTable, shape: tuple[int, ...], backward: bool) -> Blocks:
    """Blocks as high as their sums fit into the cache, if half of the bags are filled."""
    row = max(prod(shape) / 2, 1) * max(features.shape[1], out_channels) * features.element_size()
    height = _BLOCK_BYTES.get(features.device.type, _GPU_BLOCK_BYTES) / row
    return blocks(table, shape, backward, 1 << max(int(height).bit_length() - 1, 6))


def _sum(features: Tensor, members: Tensor, offsets: Tensor | None) -> Tensor:
    """Sum of the features of each bag's members, [B, C]; without offsets every bag has a single member."""
    if offsets is None:
        return features.index_select(0, members)
    return torch.embedding_bag(features, members, offsets, include_last_offset=True)[0]


def _multiply(sums: Tensor, matrices: Sequence[Tensor], columns: list[int]) -> Tensor:
    """Each column's bags [B, C_in] times its [groups, C_in / groups, C_out / groups] → [B, C_out]."""
    groups, inputs, outputs = matrices[0].shape
    if inputs == outputs == 1:
        for column, (start, stop) in enumerate(pairwise(columns)):
            sums[start:stop].mul_(matrices[column].view(1, groups))
        return sums
    products = sums.new_empty(len(sums), groups * outputs)
    for column, (start, stop) in enumerate(pairwise(columns)):
        if groups == 1:
            torch.mm(sums[start:stop], matrices[column][0], out=products[start:stop])
        else:
            by_group = sums[start:stop].unflatten(1, (groups, inputs)).transpose(0, 1) @ matrices[column]
            products[start:stop] = by_group.transpose(0, 1).flatten(1)
    return products
