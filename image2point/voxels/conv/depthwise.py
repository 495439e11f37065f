"""The compiled depthwise convolution of the `cpu` engine, row by row, over depthwise.cpp.

A kernel with one number per channel and tap shares no product of matrices between rows. So a row's sum stays in
registers while all that it reads comes by, and is written once. Taps that share a weight spare little here: a kernel
that fills its depth by numbers is multiplied out, and only for their derivatives are its slices kept apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from image2point.voxels.compiled import NAMES, call
from image2point.voxels.conv.blocks import column_taps
from image2point.voxels.conv.pack import kept
from image2point.voxels.plan import NeighbourTable
from image2point.voxels.remember import Forms

_SUMS = 64
"""Most parts whose sums are added up at the end: enough for as many threads, few enough to hold."""
_HEIGHT = 256
"""Rows of a block, as in depthwise.cpp."""

Shape = tuple[int, int, int]


def multiply(
    features: Tensor,
    weight: Tensor,
    table: NeighbourTable,
    backward: bool,
    forms: Forms | None = None,
    depth: Tensor | None = None,
) -> Tensor:
    """As `native.multiply`, of a kernel [C, 1, kx, ky, kz]: [N, C] → [M, C]; depth: [D] or [C, D]."""
    reversed_ = backward and table.submanifold  # the same table, with the opposite taps
    rows = _rows(table, _shape(weight), backward and not reversed_)
    features, name = features.detach().contiguous(), NAMES[features.dtype]
    output = features.new_empty(rows.size, features.shape[1])
    lines = kept(forms, weight, "lines", lambda: _lines(weight))
    if depth is not None:
        lines = (lines.unsqueeze(1) * _by_place(depth, features)).flatten(0, 1)
    given = rows.arguments(_line_of_tap(table.kernel, _shape(weight), reversed_, depth is not None))
    call(f"depthwise_{name}", *given, features, lines, output, features.shape[1])
    return output


def weight_gradient(features: Tensor, gradient: Tensor, table: NeighbourTable, shape: Shape, backward: bool) -> Tensor:
    """As `cpu.weight_gradient`: features [N, C] and the gradient of the result [M, C] → [C, 1, *shape]."""
    rows = _rows(table, shape, backward)
    features, gradient = features.detach().contiguous(), gradient.detach().contiguous()
    channels, name = features.shape[1], NAMES[features.dtype]
    parts = features.new_empty(rows.sums, shape[0] * shape[1] * shape[2], channels)
    given = rows.arguments(_line_of_tap(table.kernel, shape, False))
    call(f"depthwise_kernel_{name}", *given, features, gradient, parts, *parts.shape)
    return parts.sum(0).T.contiguous().view(channels, 1, *shape)


def depth_gradients(
    features: Tensor,
    gradient: Tensor,
    weight: Tensor,
    depth: Tensor,
    table: NeighbourTable,
    forms: Forms | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of the features [N, C] and of the weights along the depth, in one pass.

    Args:
        features: [N, C]; gradient: that of the result, [M, C].
        weight: [C, 1, kx, ky, kz], of size 1 along the depth; depth: [D] or [C, D].
    """
    shape, reversed_ = _shape(weight), table.submanifold
    rows = _rows(table, shape, not reversed_)
    features, gradient = features.detach().contiguous(), gradient.detach().contiguous()
    channels, name = features.shape[1], NAMES[features.dtype]
    weights = _by_place(depth, features)
    weights = weights.flip(0) if reversed_ else weights
    data, parts = torch.empty_like(features), features.new_empty(rows.sums, rows.places, channels)
    given = rows.arguments(_line_of_tap(table.kernel, shape, reversed_))
    lines = kept(forms, weight, "lines", lambda: _lines(weight))
    call(f"depthwise_depth_{name}", *given, features, gradient, lines, weights, data, parts, rows.sums, channels)
    found = parts.sum(0).flip(0) if reversed_ else parts.sum(0)
    return data, found.t() if depth.ndim == 2 else found.sum(1)


def _shape(weight: Tensor) -> Shape:
    return weight.shape[2], weight.shape[3], weight.shape[4]


def _lines(weight: Tensor) -> Tensor:
    """[C, 1, kx, ky, kz] → [kx · ky · kz, C]"""
    return weight.detach().flatten(1).T.clone(memory_format=torch.contiguous_format)


def _by_place(depth: Tensor, features: Tensor) -> Tensor:
    """[D] or [C, D] → [D, C]"""
    return depth.detach().to(features.dtype).expand(features.shape[1], -1).t().contiguous()


@dataclass(frozen=True, eq=False)
class _Rows:
    """A neighbour table row by row, and within a row place by place along the tied axes.

    Attributes:
        offsets: int32 [size · places + 1], the first entry of each place of each row.
        members: int32 [P], the rows that are read; taps: int32 [P], through which taps.
        size, places: rows, and taps that share a weight (1 where none do).
    """

    offsets: Tensor
    members: Tensor
    taps: Tensor
    size: int
    places: int

    @property
    def sums(self) -> int:
        """Parts into which a sum over all rows is divided, whatever the number of threads."""
        return min(-(-self.size // _HEIGHT), _SUMS)

    def arguments(self, lines: Tensor) -> tuple[Tensor | int, ...]:
        """As the library takes them, with the line of the kernel for each tap."""
        return self.offsets, self.members, self.taps, lines, self.size, self.places


@cache
def _line_of_tap(kernel: Shape, shape: Shape, reversed_: bool, filled: bool = False) -> Tensor:
    """The line of a kernel for each tap, int32 [taps]: its column; filled: of columns times places, multiplied out.
    reversed: the lines of the opposite taps."""
    taps = column_taps(kernel, shape)
    numbers = torch.arange(taps.numel() if filled else len(taps), dtype=torch.int32)
    lines = torch.empty(taps.numel(), dtype=torch.int32)
    lines[taps.flatten()] = numbers if filled else numbers.repeat_interleave(taps.shape[1])
    return lines.flip(0) if reversed_ else lines


def _rows(table: NeighbourTable, shape: Shape, backward: bool) -> _Rows:
    """The table's rows, built once and kept with it."""
    return table.form(("rows", shape, backward), lambda: _build(table, shape, backward))


def _build(table: NeighbourTable, shape: Shape, backward: bool) -> _Rows:
    entries = table.entries(backward).contiguous()
    order, size = column_taps(table.kernel, shape), entries.shape[1]
    columns, places = order.shape
    by_place = order.T.to(torch.int32).contiguous()
    offsets = torch.empty(size * places + 1, dtype=torch.int32)
    call("count_rows", entries, by_place, size, places, columns, offsets)
    members, taps = (torch.empty(int(offsets[-1]), dtype=torch.int32) for _ in range(2))
    call("fill_rows", entries, by_place, size, places, columns, offsets, members, taps)
    return _Rows(offsets, members, taps, size, places)
