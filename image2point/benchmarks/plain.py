"""The plain engine to measure against: a product for every tap, gather, multiply, scatter.

What sparse convolution libraries do on a CPU, written as well as that goes: the identity tap of a submanifold
convolution is one product over all rows without gather or scatter, and buffers are used again from tap to tap. It knows
nothing of inflated kernels: every tap is multiplied.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from image2point.voxels.conv.pack import pack
from image2point.voxels.plan import NeighbourTable
from image2point.voxels.remember import Forms


def unavailable(device: torch.device) -> str | None:
    return None


def unsupported(features: Tensor, weight: Tensor, table: NeighbourTable, groups: int) -> str | None:
    return None


def multiply(
    features: Tensor,
    weight: Tensor,
    table: NeighbourTable,
    groups: int = 1,
    backward: bool = False,
    forms: Forms | None = None,
) -> Tensor:
    """See `image2point.voxels.conv.engines.Engine`."""
    features = features.detach()
    matrices = _matrices(weight, table, groups, forms)
    size = table.sources if backward else table.targets
    channels = weight.shape[0]
    identity = len(matrices) // 2 if table.submanifold else -1
    output = _product(features, matrices[identity]) if identity >= 0 else features.new_zeros(size, channels)
    for tap, (start, stop) in enumerate(pairwise(table.pairs.starts)):
        if tap == identity or start == stop:
            continue
        read, written = table.pairs.source[start:stop], table.pairs.target[start:stop]
        if backward:
            read, written = written, read
        output.index_add_(0, written, _product(features.index_select(0, read), matrices[tap]))
    return output


def weight_gradient(
    features: Tensor,
    gradient: Tensor,
    table: NeighbourTable,
    shape: tuple[int, int, int],
    groups: int = 1,
    backward: bool = False,
) -> Tensor:
    """See `image2point.voxels.conv.engines.Engine`."""
    features, gradient = features.detach(), gradient.detach()
    if prod(shape) != prod(table.kernel):
        raise NotImplementedError("the plain engine has a gradient for every tap or none")
    inputs, outputs = features.shape[1] // groups, gradient.shape[1] // groups
    kernel = features.new_zeros(prod(shape), groups, inputs, outputs)
    for tap, (start, stop) in enumerate(pairwise(table.pairs.starts)):
        read, written = table.pairs.source[start:stop], table.pairs.target[start:stop]
        if backward:
            read, written = written, read
        x, dy = features.index_select(0, read), gradient.index_select(0, written)
        if inputs == outputs == 1:
            kernel[tap] = (x * dy).sum(0).view(groups, 1, 1)
        elif groups == 1:
            torch.mm(x.T, dy, out=kernel[tap, 0])
        else:
            torch.bmm(
                x.unflatten(1, (groups, -1)).permute(1, 2, 0), dy.unflatten(1, (groups, -1)).transpose(0, 1),
                out=kernel[tap],
            )  # fmt: skip
    return kernel.permute(1, 3, 2, 0).flatten(0, 1).unflatten(2, shape).contiguous()


def _matrices(weight: Tensor, table: NeighbourTable, groups: int, forms: Forms | None) -> Tensor:
    """A matrix per tap, [taps, groups, C_in / groups, C_out / groups]; a tied kernel is repeated."""
    matrices = pack(weight, groups, forms)
    if weight.shape[2:] == table.kernel:
        return matrices
    spread = matrices.unflatten(0, tuple(weight.shape[2:])).expand(*table.kernel, *matrices.shape[1:])
    return spread.flatten(0, 2)


def _product(rows: Tensor, matrix: Tensor) -> Tensor:
    """[R, C_in] times [groups, C_in / groups, C_out / groups] → [R, C_out]"""
    groups, inputs, outputs = matrix.shape
    if groups == 1:
        return rows @ matrix[0]
    if inputs == outputs == 1:
        return rows * matrix.view(1, groups)
    return (rows.unflatten(1, (groups, -1)).transpose(0, 1) @ matrix).transpose(0, 1).flatten(1)
