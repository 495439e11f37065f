"""Neighbour tables in the form that the Triton kernels read: tile by tile, rows of like neighbourhoods side by side.

A tile of rows has to visit every column that any of its rows has. Rows are therefore sorted so that neighbours in
the order have nearly the same columns: by their rank in a Gray code whose most significant bits are the columns far
from the middle of the window, which few rows have. On surfaces this leaves a tile little more to multiply than its
rows need on average. A table costs two kernels and one sort, since it is made anew for every batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from image2point.voxels.conv.blocks import by_column, column_taps
from image2point.voxels.conv.triton_tune import ceil_div
from image2point.voxels.plan import NeighbourTable

_KEY_COLUMNS = 62  # as many columns as a sort key has room for


@triton.jit(do_not_specialize=["M"])
def _rank(reads_ptr, taps_ptr, bits_ptr, key_ptr, M, G, DEPTH, ROWS: tl.constexpr):
    """Rank of each row's columns in the Gray code. bits: the bit of each column, −1 for one that does not count."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = row < M
    key = tl.zeros((ROWS,), dtype=tl.int64)
    for g in range(G):
        bit = tl.load(bits_ptr + g).to(tl.int64)
        present = tl.zeros((ROWS,), dtype=tl.int64)
        for d in range(DEPTH):
            tap = tl.load(taps_ptr + g * DEPTH + d).to(tl.int64)
            present |= (tl.load(reads_ptr + tap * M + row, mask=valid, other=-1) >= 0).to(tl.int64)
        key |= tl.where(bit >= 0, present << tl.maximum(bit, 0), 0)
    for step in tl.static_range(6):  # the rank of a word of a Gray code is the running xor of its bits
        key ^= key >> (1 << step)
    tl.store(key_ptr + row, key.to(key_ptr.dtype.element_ty), mask=valid)


@triton.jit(do_not_specialize=["M"])
def _cut(reads_ptr, taps_ptr, order_ptr, rows_ptr, count_ptr, columns_ptr, index_ptr, M, G, DEPTH, ROWS: tl.constexpr):
    """One tile: its rows, and what they read through the columns that any of them has."""
    tile = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, ROWS)
    place = tile * ROWS + lane
    valid = place < M
    row = tl.load(order_ptr + place, mask=valid, other=-1).to(tl.int64)
    tl.store(rows_ptr + place, row.to(tl.int32))
    count = 0
    for g in range(G):
        found = tl.zeros((ROWS,), dtype=tl.int32)
        for d in range(DEPTH):
            tap = tl.load(taps_ptr + g * DEPTH + d).to(tl.int64)
            member = tl.load(reads_ptr + tap * M + row, mask=valid, other=-1)
            # A column that no row has is overwritten by the next, or lies past the count.
            tl.store(index_ptr + ((tile * G + count) * DEPTH + d) * ROWS + lane, member)
            found |= (member >= 0).to(tl.int32)
        tl.store(columns_ptr + tile * G + count, g)
        count += tl.max(found, 0)
    tl.store(count_ptr + tile, count)


@dataclass(frozen=True, eq=False)
class Tiles:
    """Tiles of R rows and the columns that any of their rows has, by and large the fullest tile first.

    Attributes:
        rows: int32 [T, R], −1 past the last row.
        count: int32 [T], columns to visit.
        columns: int32 [T, G], those columns in increasing order; what follows them means nothing.
        index: int32 [T, G, D, R], the row read through the d-th tap of a tile's p-th column, −1 where there is none.
    """

    rows: Tensor
    count: Tensor
    columns: Tensor
    index: Tensor


@dataclass(frozen=True, eq=False)
class SortedTable:
    """What every row reads through every column, and the order in which like rows stand together.

    Attributes:
        reads: int32 [taps, M], row read by each row through each tap, −1 where there is none.
        taps: int32 [G, D], the taps of each column.
        order: int [M], a permutation of the rows.
        mirrored: whether column g is to be multiplied by the weight of column G − 1 − g.
    """

    reads: Tensor
    taps: Tensor
    order: Tensor
    mirrored: bool = False
    _tiles: dict[int, Tiles] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.reads.shape[1]

    @property
    def depth(self) -> int:
        """Taps of a column."""
        return self.taps.shape[1]

    def tiles(self, size: int) -> Tiles:
        """The tiles of `size` rows, a power of two, made when first asked for."""
        if size not in self._tiles:
            self._tiles[size] = self._cut(size)
        return self._tiles[size]

    def _cut(self, size: int) -> Tiles:
        (columns, depth), count = self.taps.shape, -(-self.size // size)
        tiles = Tiles(
            *(
                torch.empty(shape, dtype=torch.int32, device=self.reads.device)
                for shape in ((count, size), (count,), (count, columns), (count, columns, depth, size))
            )
        )
        if count:
            _cut[(count,)](
                self.reads, self.taps, self.order, tiles.rows, tiles.count, tiles.columns, tiles.index,
                self.size, columns, depth, ROWS=size,
            )  # fmt: skip
        return tiles


@dataclass(frozen=True, eq=False)
class ColumnRows:
    """The rows that have each column, column after column, as the weight gradient needs them.

    Attributes:
        rows: int32 [P].
        members: int32 [D, P], what each reads through that column's taps, −1 where there is none.
        starts: int32 [G + 1], where each column begins.
    """

    rows: Tensor
    members: Tensor
    starts: Tensor


def sorted_table(table: NeighbourTable, shape: tuple[int, ...], backward: bool) -> SortedTable:
    """The table for kernels of `shape` (size 1 along tied axes), made when first asked for and kept with it."""
    if backward and table.submanifold:  # what reads this row through a tap is what it reads through the mirrored one
        return replace(sorted_table(table, shape, False), mirrored=True)

    def build() -> SortedTable:
        reads = table.entries(backward).contiguous()
        taps, bits = _columns(table.kernel, shape, reads.device)
        return SortedTable(reads, taps, _like_rows_together(reads, taps, bits))

    return table.form(("triton sorted", shape, backward), build)


def column_rows(table: NeighbourTable, shape: tuple[int, ...], backward: bool) -> ColumnRows:
    """The rows of each column for kernels of `shape`, made when first asked for and kept with the table."""

    def build() -> ColumnRows:
        columns = by_column(table, shape, backward)
        if table.padded:
            return _with_room_for_all(columns)
        column, row = (columns >= 0).any(1).nonzero(as_tuple=True)
        edges = torch.arange(len(columns) + 1, device=column.device)
        starts = torch.searchsorted(column, edges, out_int32=True)
        return ColumnRows(row.to(torch.int32), columns[column, :, row].T.contiguous(), starts)

    return table.form(("triton rows", shape, backward), build)


def _with_room_for_all(columns: Tensor) -> ColumnRows:
    """Of columns int32 [G, D, M], in shapes that do not depend on what they hold; `starts` says how much counts."""
    count, depth, size = columns.shape
    present = (columns >= 0).any(1)
    place = present.flatten().cumsum(0)
    behind = torch.where(present.flatten(), place - 1, count * size)  # those that do not have one: past the last
    row = torch.arange(size, dtype=torch.int32, device=columns.device).repeat(count)
    rows = row.new_zeros(count * size + 1).scatter_(0, behind, row)
    members = row.new_full((depth, count * size + 1), -1)
    members.scatter_(1, behind.expand(depth, -1), columns.transpose(0, 1).flatten(1))
    return ColumnRows(rows, members, F.pad(place[size - 1 :: size], (1, 0)).to(torch.int32))


@cache
def _columns(kernel: tuple[int, int, int], shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The taps of each column, int32 [G, D]; and the bit of each column in the sort key, int32 [G]."""
    taps = column_taps(kernel, shape).contiguous()
    place = torch.stack(torch.unravel_index(taps[:, 0], kernel))
    middle = torch.tensor([[(k - 1) / 2 if k == s else 0.0] for k, s in zip(kernel, shape, strict=True)])
    distance = (place - middle).square().sum(0)
    nearest_first = torch.sort(distance, stable=True).indices
    bits = torch.empty_like(nearest_first)
    bits[nearest_first] = torch.arange(len(bits)) - max(0, len(bits) - _KEY_COLUMNS)
    return taps.to(device, torch.int32), bits.clamp_(min=-1).to(device, torch.int32)


def _like_rows_together(reads: Tensor, taps: Tensor, bits: Tensor) -> Tensor:
    """Order of the rows in which consecutive rows are alike, those with rare columns first, int64 [M]."""
    columns, depth = taps.shape
    # The narrower the key, the quicker the sort.
    dtype = torch.int16 if columns < 16 else torch.int32 if columns < 32 else torch.int64
    key = torch.empty(reads.shape[1], dtype=dtype, device=reads.device)
    if len(key):
        _rank[(ceil_div(len(key), 256),)](reads, taps, bits, key, len(key), columns, depth, ROWS=256)
    return torch.sort(key, stable=True, descending=True).indices
