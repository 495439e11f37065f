"""Neighbour tables in the form that the Triton kernels read: by column, rows of like neighbourhoods side by side.

A tile of rows has to visit every column that any of its rows has. Rows are therefore sorted so that neighbours in
the order have nearly the same columns: by their rank in a Gray code whose most significant bits are the rarest
columns. On surfaces this leaves a tile little more to multiply than its rows need on average.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from image2point.voxels.conv.blocks import by_column
from image2point.voxels.plan import NeighbourTable

_KEY_COLUMNS = 62  # as many columns as a sort key has room for
_KEY_BLOCK = 1 << 20  # rows per block while keys are made: bounds the int64 temporaries


@dataclass(frozen=True, eq=False)
class Tiles:
    """Tiles of R rows and the columns that any of their rows has, the fullest tile first.

    Attributes:
        rows: int32 [T, R], −1 past the last row.
        count: int32 [T], columns to visit.
        columns: int32 [T, G], those columns in increasing order, then the others.
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
        columns: int32 [M, G, D], row read by each row through column g and its d-th tap, −1 where there is none.
        order: int32 [M], a permutation of the rows.
        mirrored: whether column g is to be multiplied by the weight of column G − 1 − g.
    """

    columns: Tensor
    order: Tensor
    mirrored: bool = False
    _tiles: dict[int, Tiles] = field(default_factory=dict, repr=False)

    def tiles(self, size: int) -> Tiles:
        """The tiles of `size` rows, made when first asked for."""
        if size not in self._tiles:
            self._tiles[size] = self._cut(size)
        return self._tiles[size]

    def _cut(self, size: int) -> Tiles:
        rows = F.pad(self.order, (0, -len(self.order) % size), value=-1).view(-1, size)
        index = torch.where(rows[..., None, None] >= 0, self.columns[rows], -1)
        present = (index >= 0).any(3).any(1)
        count = present.sum(1)
        tile = torch.sort(count, descending=True, stable=True).indices
        absent = (~present[tile]).to(torch.int8)  # torch sorts no bool on a GPU
        columns = torch.sort(absent, dim=1, stable=True).indices
        index = index.permute(0, 2, 3, 1)[tile[:, None], columns]
        return Tiles(rows[tile], count[tile].to(torch.int32), columns.to(torch.int32), index.contiguous())


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
        columns = by_column(table, shape, backward).permute(2, 0, 1).contiguous()
        order = _like_rows_together((columns >= 0).any(2))
        return SortedTable(columns, order.to(torch.int32))

    return table.form(("triton sorted", shape, backward), build)


def column_rows(table: NeighbourTable, shape: tuple[int, ...], backward: bool) -> ColumnRows:
    """The rows of each column for kernels of `shape`, made when first asked for and kept with the table."""

    def build() -> ColumnRows:
        columns = by_column(table, shape, backward)
        column, row = (columns >= 0).any(1).nonzero(as_tuple=True)
        edges = torch.arange(len(columns) + 1, device=column.device)
        starts = torch.searchsorted(column, edges, out_int32=True)
        return ColumnRows(row.to(torch.int32), columns[column, :, row].T.contiguous(), starts)

    return table.form(("triton rows", shape, backward), build)


def _like_rows_together(present: Tensor) -> Tensor:
    """Order of the rows of bool [rows, G] in which consecutive rows are alike, int64 [rows]."""
    rarest_first = torch.sort(present.sum(0), stable=True).indices[-_KEY_COLUMNS:]
    weight = 1 << torch.arange(len(rarest_first) - 1, -1, -1, device=present.device)
    key = torch.cat([(block[:, rarest_first] * weight).sum(1) for block in present.split(_KEY_BLOCK)])
    for shift in (1, 2, 4, 8, 16, 32):  # the rank of a Gray code word is the running xor of its bits
        key = key ^ (key >> shift)
    return torch.sort(key, stable=True).indices
