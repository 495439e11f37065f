"""Sites: the sorted, unique voxel coordinates of a batch, and every plan that is made from them.

A scale of a sparse network is one `Sites` object. All feature maps of that scale share it, and with it the
neighbour tables, which are built when first asked for and kept: once per batch and scale, for all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from image2point.voxels.errors import VoxelError

# Up to this many cells (64 MiB of int32) a direct table finds a voxel; beyond it, a binary search does.
_DIRECT_CELLS = 1 << 24


@dataclass(frozen=True, eq=False)
class Sites:
    """Occupied voxels of a batch at one scale.

    Attributes:
        coordinates: int32 [N, 4], rows (batch, x, y, z), unique and in lexicographic order.
        batch_size: number of clouds; batch indices lie in [0, batch_size).
        stride: edge of one voxel of this scale in input voxels (1, 2, 4, ...).
    """

    coordinates: Tensor
    batch_size: int
    stride: int = 1
    _plans: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(coordinates: Tensor, batch_size: int | None = None, stride: int = 1) -> Sites:
        """Check coordinates that come from outside: int32 [N, 4], unique, sorted.

        Raises:
            VoxelError: on another shape or dtype, unsorted or repeated rows, or a batch index out of range.
        """
        if coordinates.ndim != 2 or coordinates.shape[1] != 4 or coordinates.dtype != torch.int32:
            raise VoxelError(
                f"coordinates: expected int32 [N, 4] as (batch, x, y, z), "
                f"found {coordinates.dtype} {list(coordinates.shape)}"
            )
        if len(coordinates) == 0:
            raise VoxelError("coordinates: expected at least one voxel, found none")
        batches = int(coordinates[:, 0].max()) + 1
        if int(coordinates[:, 0].min()) < 0 or (batch_size is not None and batches > batch_size):
            raise VoxelError(f"coordinates: batch indices must lie in [0, {batch_size or batches})")
        sites = Sites(coordinates, batch_size or batches, stride)
        keys = sites.keys
        if bool((keys[1:] <= keys[:-1]).any()):
            row = int((keys[1:] <= keys[:-1]).nonzero()[0]) + 1
            raise VoxelError(
                f"coordinates: rows must be unique and sorted by (batch, x, y, z); row {row} "
                f"{coordinates[row].tolist()} does not follow {coordinates[row - 1].tolist()}. "
                "`voxelize` gives sorted, unique rows."
            )
        return sites

    def __len__(self) -> int:
        return len(self.coordinates)

    def plan(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """What `build` returns, built when `key` is first asked for and kept with these sites."""
        if key not in self._plans:
            self._plans[key] = build()
        return self._plans[key]

    @property
    def device(self) -> torch.device:
        return self.coordinates.device

    @property
    def batch(self) -> Tensor:
        """Cloud of each voxel, int64 [N]."""
        return self.plan("batch", lambda: self.coordinates[:, 0].long())

    @property
    def counts(self) -> Tensor:
        """Voxels of each cloud, int64 [batch_size]."""
        return self.plan("counts", lambda: torch.bincount(self.batch, minlength=self.batch_size))

    @property
    def bounds(self) -> tuple[list[int], list[int]]:
        """Smallest and largest index along x, y, z."""

        def find() -> tuple[list[int], list[int]]:
            lower, upper = torch.aminmax(self.coordinates[:, 1:], dim=0)
            both = torch.stack([lower, upper]).tolist()  # one transfer from the device
            return both[0], both[1]

        return self.plan("bounds", find)

    @property
    def radix(self) -> list[int]:
        """Weights of (batch, x, y, z) in a key: mixed radix over the batch's actual extents.

        Raises:
            VoxelError: where the box around the batch has more cells than a 64-bit key can number.
        """
        lower, upper = self.bounds
        x, y, z = (high - low + 1 for low, high in zip(lower, upper, strict=True))
        if self.batch_size * x * y * z >= 1 << 62:
            raise VoxelError(
                f"coordinates: {self.batch_size} clouds in a box of {x} × {y} × {z} voxels do not fit a "
                "64-bit key; use a larger voxel size or remove far outliers"
            )
        return [x * y * z, y * z, z, 1]

    def key(self, batch: Tensor, position: Tensor) -> Tensor:
        """int64 keys of positions (int64 [..., 3]) that lie inside `bounds`."""
        radix, (lower, _) = self.radix, self.bounds
        key = batch * radix[0]
        for axis in range(3):
            key = key + (position[..., axis] - lower[axis]) * radix[axis + 1]
        return key

    @property
    def keys(self) -> Tensor:
        """int64 [N], increasing."""
        return self.plan("keys", lambda: self.key(self.batch, self.coordinates[:, 1:].long()))

    def rows_of(self, keys: Tensor) -> Tensor:
        """Row of each key, −1 where no voxel has it; int32, shaped as `keys`."""
        cells = self.batch_size * self.radix[0]
        if cells <= _DIRECT_CELLS:
            return self.plan("direct", lambda: self._direct(cells))[keys]
        place = torch.searchsorted(self.keys, keys).clamp_(max=len(self) - 1)
        found = self.keys[place] == keys
        return torch.where(found, place, -1).to(torch.int32)

    def _direct(self, cells: int) -> Tensor:
        table = torch.full((cells,), -1, dtype=torch.int32, device=self.device)
        table[self.keys] = torch.arange(len(self), dtype=torch.int32, device=self.device)
        return table

    def coarsen(self, stride: int) -> Sites:
        """The sites of a strided layer: the unique floor(index / stride), whatever the kernel size."""
        return self if stride == 1 else self.plan(("coarsen", stride), lambda: self._coarsen(stride))

    def _coarsen(self, stride: int) -> Sites:
        coordinates = self.coordinates.clone()
        coordinates[:, 1:] = torch.div(coordinates[:, 1:], stride, rounding_mode="floor")
        coarse = Sites(coordinates, self.batch_size, self.stride * stride)  # not yet unique: for its keys
        order = torch.unique(coarse.keys)
        position = order.clone()
        columns = []
        for weight in coarse.radix:
            columns.append(torch.div(position, weight, rounding_mode="floor"))
            position = position % weight
        unique = torch.stack(columns, dim=1)
        unique[:, 1:] += torch.tensor(coarse.bounds[0], device=self.device)
        return Sites(unique.to(torch.int32), self.batch_size, self.stride * stride)

    def parents(self, stride: int) -> Tensor:
        """Row of each site's parent floor(index / stride) among the sites of `coarsen(stride)`, int64 [N]."""
        return self.plan(("parents", stride), lambda: self._parents(stride))

    def _parents(self, stride: int) -> Tensor:
        coarse = self.coarsen(stride)
        above = torch.div(self.coordinates[:, 1:], stride, rounding_mode="floor").long()
        return coarse.rows_of(coarse.key(self.batch, above)).long()

    def to(self, device: torch.device | str) -> Sites:
        """These sites on `device`; plans stay behind and are built anew there."""
        moved = self.coordinates.to(device)
        return self if moved is self.coordinates else Sites(moved, self.batch_size, self.stride)

    def same(self, other: Sites) -> bool:
        """Whether both are the same voxels (usually the same object)."""
        return self is other or (
            self.stride == other.stride
            and self.batch_size == other.batch_size
            and torch.equal(self.coordinates, other.coordinates)
        )
