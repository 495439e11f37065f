"""Which input voxel an output voxel reads through each tap of a window, and which output voxel reads an input voxel.

On a CPU with a compiler, one pass over the sorted voxels finds them (lookup.cpp). Elsewhere, a dense table of all cells
is used if the box around the batch is small, and otherwise binary search among the voxels of the same column
(batch, x, y), however far apart they lie.
"""

from __future__ import annotations

import torch
from torch import Tensor

from image2point.voxels.compiled import call, library
from image2point.voxels.sites import Sites, check_box
from image2point.voxels.window import Window

_DIRECT_CELLS = 1 << 24
"""Largest direct table (64 MiB)."""


def look_up(sites: Sites, targets: Sites, window: Window) -> Tensor:
    """Row of `sites` that each target reads through each tap, −1 where there is none: int32 [taps, targets].

    Taps are numbered (kx · Ky + ky) · Kz + kz.

    Raises:
        VoxelError: where the box that the window reaches has more cells than a 64-bit key can number, which only the
            walk does without.
    """
    if sites.device.type == "cpu" and library() is not None:
        reads = torch.empty(window.taps, len(targets), dtype=torch.int32)
        fine, coarse = sites.coordinates.contiguous(), targets.coordinates.contiguous()
        mirrored = targets is sites and window.is_centred()
        numbers = *window.kernel, window.stride, *window.padding, window.dilation, int(mirrored)
        call("look_up", fine, len(fine), coarse, len(coarse), *numbers, reads)
        return reads
    # Every place that any target may read lies in this box, so that none needs to be tested.
    lower, upper = sites.bounds
    near = [max(p + window.stride - 1, 0) for p in window.padding]
    far = [max((k - 1) * window.dilation - p, 0) for k, p in zip(window.kernel, window.padding, strict=True)]
    origin = [low - reach for low, reach in zip(lower, near, strict=True)]
    extent = [high + reach - low + 1 for high, reach, low in zip(upper, far, origin, strict=True)]
    find = _direct if sites.batch_size * extent[0] * extent[1] * extent[2] <= _DIRECT_CELLS else _search
    return find(sites, targets, window, origin, extent)


def read_by(reads: Tensor, sources: int) -> Tensor:
    """Which target reads each source through each tap, −1 where none does: int32 [taps, targets] → [taps, sources]."""
    if reads.device.type == "cpu" and library() is not None:
        reverse = torch.empty(len(reads), sources, dtype=torch.int32)
        call("read_by", reads.contiguous(), *reads.shape, sources, reverse)
        return reverse
    # What reads nothing is written to a row past the last, so that no device has to be asked how much there is.
    reverse = torch.full((len(reads), sources + 1), -1, dtype=torch.int32, device=reads.device)
    target = torch.arange(reads.shape[1], dtype=torch.int32, device=reads.device)
    source = torch.where(reads >= 0, reads, sources).long()
    return reverse.scatter_(1, source, target.expand_as(source))[:, :sources]


def _direct(sites: Sites, targets: Sites, window: Window, origin: list[int], extent: list[int]) -> Tensor:
    # How far apart in the table cells are that differ by one along batch, x, y and z, and what is at its first cell.
    steps = (extent[0] * extent[1] * extent[2], extent[1] * extent[2], extent[2], 1)
    start, step = torch.tensor([[0, *origin], steps], dtype=torch.int32).to(sites.device).unbind()

    def cell(coordinates: Tensor) -> Tensor:
        return ((coordinates - start) * step).sum(1, dtype=torch.int32)

    rows = torch.full((sites.batch_size * steps[0],), -1, dtype=torch.int32, device=sites.device)
    rows[cell(sites.coordinates)] = torch.arange(len(sites), dtype=torch.int32, device=sites.device)
    taps = torch.cartesian_prod(*[torch.arange(k, dtype=torch.int32) * window.dilation for k in window.kernel])
    offsets = ((taps - torch.tensor(window.padding)) * torch.tensor(steps[1:])).sum(1, dtype=torch.int32)
    first = cell(targets.coordinates if window.stride == 1 else targets.coordinates * _times(window.stride, sites))
    if sites.device.type != "cpu":  # all taps at once: another device waits for what is started, not for its memory
        return rows[first + offsets.to(sites.device).unsqueeze(1)]
    reads = torch.empty(window.taps, len(targets), dtype=torch.int32, device=sites.device)
    for tap, offset in enumerate(offsets.unbind()):
        torch.index_select(rows, 0, first + offset, out=reads[tap])
    return reads


def _times(stride: int, sites: Sites) -> Tensor:
    """What turns coordinates (batch, x, y, z) of a coarse scale into those of the fine one."""
    return torch.tensor([1, stride, stride, stride], dtype=torch.int32).to(sites.device)


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
