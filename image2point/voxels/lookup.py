"""Which input voxel an output voxel reads through each tap of a window.

Where the box around a batch is small, a table with a cell for every place in it answers at once. Where it is not, the
voxels are found by binary search among those of the right column (batch, x, y), however far apart they lie.
"""

from __future__ import annotations

import torch
from torch import Tensor

from image2point.voxels.sites import Sites, check_box
from image2point.voxels.window import Window

_DIRECT_CELLS = 1 << 24
"""Largest direct table (64 MiB)."""


def look_up(sites: Sites, targets: Sites, window: Window) -> Tensor:
    """Row of `sites` that each target reads through each tap, −1 where there is none: int32 [taps, targets].

    Taps are numbered (kx · Ky + ky) · Kz + kz.

    Raises:
        VoxelError: where the box that the window reaches has more cells than a 64-bit key can number.
    """
    # Every place that any target may read lies in this box, so that none needs to be tested.
    lower, upper = sites.bounds
    near = [max(p + window.stride - 1, 0) for p in window.padding]
    far = [max((k - 1) * window.dilation - p, 0) for k, p in zip(window.kernel, window.padding, strict=True)]
    origin = [low - reach for low, reach in zip(lower, near, strict=True)]
    extent = [high + reach - low + 1 for high, reach, low in zip(upper, far, origin, strict=True)]
    find = _direct if sites.batch_size * extent[0] * extent[1] * extent[2] <= _DIRECT_CELLS else _search
    return find(sites, targets, window, origin, extent)


def _direct(sites: Sites, targets: Sites, window: Window, origin: list[int], extent: list[int]) -> Tensor:
    def cell(batch: Tensor, position: Tensor) -> Tensor:
        x, y, z = (position[:, axis] - origin[axis] for axis in range(3))
        return ((batch * extent[0] + x) * extent[1] + y) * extent[2] + z

    size = sites.batch_size * extent[0] * extent[1] * extent[2]
    rows = torch.full((size,), -1, dtype=torch.int32, device=sites.device)
    rows[cell(sites.batch, sites.coordinates[:, 1:])] = torch.arange(len(sites), dtype=torch.int32, device=sites.device)
    first = cell(targets.coordinates[:, 0], targets.coordinates[:, 1:] * window.stride - _tensor(window.padding, sites))
    steps = [torch.arange(k, device=sites.device) * window.dilation for k in window.kernel]
    offsets = ((steps[0][:, None, None] * extent[1] + steps[1][:, None]) * extent[2] + steps[2]).flatten()
    reads = torch.empty(window.taps, len(targets), dtype=torch.int32, device=sites.device)
    for tap, offset in enumerate(offsets.to(torch.int32).unbind()):
        torch.index_select(rows, 0, first + offset, out=reads[tap])
    return reads


def _search(sites: Sites, targets: Sites, window: Window, origin: list[int], extent: list[int]) -> Tensor:
    check_box(sites.batch_size, extent[0], extent[1])
    check_box(len(sites), extent[2])

    def column(batch: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return (batch * extent[0] + (x - origin[0])) * extent[1] + (y - origin[1])

    columns, row_column = torch.unique_consecutive(
        column(*sites.coordinates[:, :3].long().unbind(1)), return_inverse=True
    )
    keys = row_column * extent[2] + (sites.coordinates[:, 3].long() - origin[2])
    # Rows of one target column read the same columns: look these up once, not once a row.
    heads, row_head = torch.unique_consecutive(targets.coordinates[:, :3], dim=0, return_inverse=True)
    batch, x, y = heads.long().unbind(1)
    bottom = targets.coordinates[:, 3].long() * window.stride - window.padding[2] - origin[2]
    reads = torch.empty(window.taps, len(targets), dtype=torch.int32, device=sites.device)
    for pillar in range(window.kernel[0] * window.kernel[1]):
        i, j = divmod(pillar, window.kernel[1])
        wanted = column(
            batch,
            x * window.stride - window.padding[0] + i * window.dilation,
            y * window.stride - window.padding[1] + j * window.dilation,
        )
        number = _find(columns, wanted)[row_head]
        for k in range(window.kernel[2]):
            key = number * extent[2] + bottom + k * window.dilation
            row = _find(keys, torch.where(number < 0, -1, key))
            reads[pillar * window.kernel[2] + k] = row
    return reads


def _find(ordered: Tensor, wanted: Tensor) -> Tensor:
    """Place of each wanted value in an increasing tensor, −1 where it is not: int64, as long as `wanted`."""
    place = torch.searchsorted(ordered, wanted).clamp_(max=len(ordered) - 1)
    return torch.where(ordered[place] == wanted, place, -1)


def _tensor(values: tuple[int, ...], sites: Sites) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=sites.device)
