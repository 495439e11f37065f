"""A neighbour table in the order in which the `cpu` engine executes it: blocks of output rows, column by column.

The taps that share a weight form a column, and what one row reads through one column is a bag: its members are summed
before they are multiplied. Within a block the bags of a column stand together, so that a column is one matrix
product; the bags of a row are found again through `order`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from image2point.voxels.plan import NeighbourTable


@dataclass(frozen=True, eq=False)
class Block:
    """One block of output rows.

    Attributes:
        rows: the rows.
        members: int32 [P], input rows, bag after bag.
        offsets: int32 [B + 1], start of each bag in `members`; None where every bag has a single member.
        columns: start of each column's bags, length G + 1.
        order: int32 [B], the bags of the first row, then those of the second, ...
        starts: int32 [rows + 1], start of each row's bags in `order`.
    """

    rows: slice
    members: Tensor
    offsets: Tensor | None
    columns: list[int]
    order: Tensor
    starts: Tensor

    def rows_of_bags(self) -> Tensor:
        """The output row of each bag, int64 [B]."""
        row = torch.repeat_interleave(self.starts.diff()) + self.rows.start
        return torch.empty_like(row).index_copy_(0, self.order.long(), row)


@dataclass(frozen=True, eq=False)
class Blocks:
    """All blocks of a table for one direction and one set of tied axes: whole-table tensors, cut when iterated.

    Attributes:
        size: number of output rows; `height` of them make a block.
        members, offsets, order, starts: as in `Block`, for the whole table; the values in `order` count from the first
            bag of a block.
        columns: first bag of each column of each block, [blocks][G + 1].
        firsts: first member of each block.
    """

    size: int
    height: int
    members: Tensor
    offsets: Tensor | None
    order: Tensor
    starts: Tensor
    columns: list[list[int]]
    firsts: list[int]

    def __iter__(self) -> Iterator[Block]:
        for number, columns in enumerate(self.columns):
            rows = slice(number * self.height, min((number + 1) * self.height, self.size))
            bags, first = slice(columns[0], columns[-1]), self.firsts[number]
            yield Block(
                rows,
                self.members[first : self.firsts[number + 1]],
                None if self.offsets is None else self.offsets[bags.start : bags.stop + 1] - first,
                [column - bags.start for column in columns],
                self.order[bags],
                self.starts[rows.start : rows.stop + 1] - bags.start,
            )


def blocks(table: NeighbourTable, shape: tuple[int, ...], backward: bool, height: int) -> Blocks:
    """The table in blocks, built once and kept with it.

    Args:
        shape: kx, ky, kz of the kernel; 1 along the axes where all taps share a weight.
        backward: read the table from target to source.
        height: rows per block.
    """
    return table.form(("blocks", shape, backward, height), lambda: _build(table, shape, backward, height))


def _build(table: NeighbourTable, shape: tuple[int, ...], backward: bool, height: int) -> Blocks:
    # Everything follows from the order of the dimensions (block, column, row, tap within column): nothing is sorted.
    entries = by_column(table, shape, backward)
    size = entries.shape[2]
    height = min(height, size)
    entries = F.pad(entries, (0, -size % height), value=-1).unflatten(2, (-1, height)).permute(2, 0, 3, 1).contiguous()
    present = entries >= 0
    lengths = present.sum(3, dtype=torch.int32)  # [blocks, G, height]: members of each bag
    members, filled = entries.masked_select(present), lengths > 0
    bags = filled.flatten(1).cumsum(1, dtype=torch.int32).view_as(filled) - 1  # number of each bag in its block
    by_row = filled.transpose(1, 2).contiguous()
    order = bags.transpose(1, 2).contiguous().masked_select(by_row)
    starts = starts_of(by_row.sum(2).flatten()[:size])
    columns = starts_of(filled.sum(2).flatten())
    offsets, count = starts_of(lengths.masked_select(filled)), filled.shape[1]
    edges = columns.tolist()
    return Blocks(
        size,
        height,
        members,
        None if len(members) == len(offsets) - 1 else offsets,
        order,
        starts,
        [edges[start : start + count + 1] for start in range(0, len(edges) - 1, count)],
        offsets[columns[::count].long()].tolist(),
    )


def by_column(table: NeighbourTable, shape: tuple[int, ...], backward: bool) -> Tensor:
    """What each row reads through each column and each of its taps, int32 [G, K, rows], −1 where there is nothing."""
    return _group_taps(table.entries(backward), table.kernel, shape)


def column_taps(kernel: tuple[int, int, int], shape: tuple[int, ...]) -> Tensor:
    """The taps of each column, int64 [G, K]."""
    return _group_taps(torch.arange(prod(kernel)).unsqueeze(1), kernel, shape).squeeze(2)


def _group_taps(entries: Tensor, kernel: tuple[int, int, int], shape: tuple[int, ...]) -> Tensor:
    """[taps, n] → [G, K, n]"""
    tied = [axis for axis in range(3) if shape[axis] != kernel[axis]]
    free = [axis for axis in range(3) if axis not in tied]
    return entries.unflatten(0, kernel).permute(*free, *tied, 3).reshape(prod(shape), prod(kernel) // prod(shape), -1)


def starts_of(lengths: Tensor) -> Tensor:
    """Where each of consecutive parts begins, and the last one ends: int32 [n] → int32 [n + 1]."""
    return F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
