"""Neighbour tables: which input voxel each output voxel reads through each tap of a kernel.

A table is immutable and built once per batch, scale and window; every layer with that window executes it.
It is kept as pairs sorted by tap, a form that is the same in both directions: reading it from target to
source gives the data gradient of any convolution, strided and even-sized ones too.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from image2point.voxels.sites import Sites

_BLOCK = 1 << 19  # target rows per block while a table is built: bounds the int64 temporaries


@dataclass(frozen=True)
class Window:
    """What an output site o reads: s·o − padding + k·dilation for k in [0, kernel), per axis.

    `padding` is the padding on the near side. The far side needs no number: there are always ceil(n / s)
    outputs, and what lies outside is empty.
    """

    kernel: tuple[int, int, int]
    stride: int = 1
    padding: tuple[int, int, int] = (0, 0, 0)
    dilation: int = 1

    @property
    def taps(self) -> int:
        return prod(self.kernel)

    def is_pointwise(self) -> bool:
        """Whether each site reads itself and nothing else."""
        return self.taps == 1 and self.stride == 1 and self.padding == (0, 0, 0)


@dataclass(frozen=True, eq=False)
class Column:
    """The neighbours that share one weight, put together in bags: each output row adds weight · (sum of its bag).

    Attributes:
        weight: number of the weight, counted over the taps that remain when tied axes fall together.
        rows: int32 [R], output row of each bag, increasing; None where the bags are all rows in order.
        members: int32 [P], input rows, bag after bag.
        offsets: int32 [R + 1], start of each bag in `members`; None where every bag has a single member.
    """

    weight: int
    rows: Tensor | None
    members: Tensor
    offsets: Tensor | None


@dataclass(frozen=True, eq=False)
class Bags:
    """The columns of a table that have any neighbours, widest first, and the number of output rows."""

    columns: tuple[Column, ...]
    size: int


@dataclass(frozen=True, eq=False)
class Rows:
    """The bags of a table in the order of the output rows: row after row, and by column within a row.

    Attributes:
        members: int32 [P], input rows, bag after bag.
        offsets: int32 [B + 1], start of each bag in `members`; None where every bag has a single member.
        columns: int32 [B], number of each bag's weight.
        bags: int32 [size + 1], start of each row's bags.
        size: number of output rows.
    """

    members: Tensor
    offsets: Tensor | None
    columns: Tensor
    bags: Tensor
    size: int


@dataclass(frozen=True, eq=False)
class NeighbourTable:
    """Pairs (source row, target row), sorted by tap and then by target.

    Attributes:
        source, target: int32 [P].
        starts: start of each tap's pairs, length taps + 1. Taps are numbered (kx · Ky + ky) · Kz + kz.
        sources, targets: number of rows on either side.
    """

    kernel: tuple[int, int, int]
    source: Tensor
    target: Tensor
    starts: list[int]
    sources: int
    targets: int
    _forms: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def form(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """What `build` returns, built when `key` is first asked for and kept with this table."""
        if key not in self._forms:
            self._forms[key] = build()
        return self._forms[key]

    def bags(self, tied: frozenset[int], backward: bool = False) -> Bags:
        """The table for a kernel that is constant along the axes in `tied` (0, 1, 2 for x, y, z).

        `backward` exchanges the roles of source and target, as the data gradient needs.
        """
        return self.form(("bags", tied, backward), lambda: self._group(tied, backward))

    def rows(self, tied: frozenset[int], backward: bool = False) -> Rows:
        """The same bags in the order of the output rows."""
        return self.form(("rows", tied, backward), lambda: self._by_row(tied, backward))

    def _by_row(self, tied: frozenset[int], backward: bool) -> Rows:
        rows, members = (self.source, self.target) if backward else (self.target, self.source)
        size = self.sources if backward else self.targets
        columns = torch.tensor(tied_columns(self.kernel, tied), device=rows.device)
        count = int(columns[-1]) + 1
        lengths = torch.tensor(self.starts, device=rows.device).diff()
        key = rows.long() * count + torch.repeat_interleave(columns, lengths)
        key, order = torch.sort(key, stable=True)
        bag, lengths = torch.unique_consecutive(key, return_counts=True)
        edges = torch.arange(size + 1, device=rows.device) * count
        return Rows(
            members=members[order],
            offsets=None if len(bag) == len(key) else F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32),
            columns=(bag % count).to(torch.int32),
            bags=torch.searchsorted(bag, edges, out_int32=True),
            size=size,
        )

    def _group(self, tied: frozenset[int], backward: bool) -> Bags:
        rows, members = (self.source, self.target) if backward else (self.target, self.source)
        size = self.sources if backward else self.targets
        starts, firsts, offsets = self.starts, self.starts, None
        if any(self.kernel[axis] > 1 for axis in tied):
            column_of_tap = tied_columns(self.kernel, tied)
            taps = torch.tensor(column_of_tap, device=rows.device)
            lengths = torch.tensor(self.starts, device=rows.device).diff()
            key = torch.repeat_interleave(taps, lengths) * size + rows
            key, order = torch.sort(key, stable=True)
            bag, lengths = torch.unique_consecutive(key, return_counts=True)
            rows, members = (bag % size).to(torch.int32), members[order]
            offsets = F.pad(lengths.cumsum(0), (1, 0))
            edges = torch.arange(max(column_of_tap) + 2, device=rows.device) * size
            begin = torch.searchsorted(bag, edges)
            starts, firsts = torch.stack([begin, offsets[begin]]).tolist()
        columns = [
            Column(
                weight=number,
                rows=rows[start:stop],
                members=members[firsts[number] : firsts[number + 1]],
                offsets=None if offsets is None else (offsets[start : stop + 1] - firsts[number]).to(torch.int32),
            )
            for number, (start, stop) in enumerate(pairwise(starts))
            if stop > start
        ]
        columns.sort(key=lambda column: -_width(column))
        if columns and _width(columns[0]) == size:
            columns[0] = replace(columns[0], rows=None)
        return Bags(tuple(columns), size)


def _width(column: Column) -> int:
    return len(column.members) if column.offsets is None else len(column.offsets) - 1


def tied_columns(kernel: tuple[int, int, int], tied: frozenset[int]) -> list[int]:
    """Column of each tap when the taps along the `tied` axes fall together."""
    columns = torch.arange(prod(1 if a in tied else kernel[a] for a in range(3)))
    shape = [1 if axis in tied else kernel[axis] for axis in range(3)]
    return columns.view(shape).expand(kernel).reshape(-1).tolist()


def neighbour_table(sites: Sites, window: Window) -> NeighbourTable:
    """The table of `window` over `sites`, built once and kept with them."""
    return sites.plan(window, lambda: _build(sites, window))


def _build(sites: Sites, window: Window) -> NeighbourTable:
    targets = sites.coarsen(window.stride)
    taps, device = window.taps, sites.device
    index = torch.empty((taps, len(targets)), dtype=torch.int32, device=device)
    for start in range(0, len(targets), _BLOCK):
        index[:, start : start + _BLOCK] = _look_up(sites, targets.coordinates[start : start + _BLOCK], window)
    present = index >= 0
    tap, target = present.nonzero(as_tuple=True)
    edges = torch.arange(taps + 1, device=device)
    return NeighbourTable(
        kernel=window.kernel,
        source=index[present],
        target=target.to(torch.int32),
        starts=torch.searchsorted(tap, edges).tolist(),
        sources=len(sites),
        targets=len(targets),
    )


def _look_up(sites: Sites, targets: Tensor, window: Window) -> Tensor:
    """Source row that each target reads through each tap, −1 where there is none; int32 [taps, targets]."""
    lower, upper = sites.bounds
    radix = sites.radix
    targets = targets.long()
    key = (targets[:, 0] * radix[0]).view(1, 1, 1, -1)
    inside = torch.ones_like(key, dtype=torch.bool)
    for axis in range(3):
        steps = torch.arange(window.kernel[axis], device=targets.device) * window.dilation - window.padding[axis]
        shape = [1, 1, 1, len(targets)]
        shape[axis] = window.kernel[axis]
        position = (targets[:, axis + 1] * window.stride + steps[:, None]).view(shape)
        inside = inside & (position >= lower[axis]) & (position <= upper[axis])
        key = key + (position - lower[axis]) * radix[axis + 1]
    rows = sites.rows_of(torch.where(inside, key, 0))
    return torch.where(inside, rows, -1).view(window.taps, -1)
