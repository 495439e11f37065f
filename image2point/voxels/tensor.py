"""What flows through a lifted network: sparse voxels, or a dense grid with its mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor

from image2point.voxels.errors import VoxelError
from image2point.voxels.memory import free_bytes
from image2point.voxels.sites import Sites


@dataclass(frozen=True, eq=False)
class VoxelTensor:
    """Features on sparse sites.

    Attributes:
        features: [N, C], a row per site, in the order of `sites.coordinates`.
    """

    features: Tensor
    sites: Sites

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or len(self.features) != len(self.sites):
            raise VoxelError(
                f"features: expected [{len(self.sites)}, C], a row per voxel, found {list(self.features.shape)}"
            )

    @property
    def coordinates(self) -> Tensor:
        """int32 [N, 4], rows (batch, x, y, z)."""
        return self.sites.coordinates

    @property
    def centres(self) -> Tensor:
        """Centres of the voxels in the unit of the clouds' points, float64 [N, 3]; see `Sites.centres`."""
        return self.sites.centres

    @property
    def stride(self) -> int:
        """Edge of a voxel in input voxels."""
        return self.sites.stride

    @property
    def batch_size(self) -> int:
        """Clouds in the batch."""
        return self.sites.batch_size

    @property
    def device(self) -> torch.device:
        """Where the features lie."""
        return self.features.device

    def replace(self, features: Tensor) -> VoxelTensor:
        """Other features on the same sites."""
        return VoxelTensor(features, self.sites)

    def to(self, target: torch.device | torch.dtype | str, non_blocking: bool = False) -> VoxelTensor:
        """Move to a device, with the plans that `Sites.to` takes along, or convert the features to a floating type."""
        if isinstance(target, torch.dtype):
            return self.replace(self.features.to(target))
        return VoxelTensor(self.features.to(target, non_blocking=non_blocking), self.sites.to(target, non_blocking))

    def double(self) -> VoxelTensor:
        """The features in float64."""
        return self.to(torch.float64)

    def pin_memory(self) -> VoxelTensor:
        """Copy to page-locked memory, from which a GPU reads without waiting."""
        return VoxelTensor(self.features.pin_memory(), self.sites.pin_memory())

    def dense(self, size: tuple[int, int, int] | None = None) -> DenseVoxels:
        """The grid from index 0 on, empty cells zero.

        Args:
            size: number of cells along x, y and z; None ends it at the largest index along each axis.

        Raises:
            VoxelError: where a coordinate is negative or beyond the size, or the grid does not fit the memory.
        """
        if self.sites.real is not None:
            raise VoxelError("padded voxels have no dense grid: make it before padding")
        lower, upper = self.sites.bounds
        if min(lower) < 0:
            raise VoxelError(f"dense grids begin at index 0, but the smallest voxel index is {min(lower)}")
        needed = (upper[0] + 1, upper[1] + 1, upper[2] + 1)
        if size is not None and any(n > s for n, s in zip(needed, size, strict=True)):
            raise VoxelError(f"the voxels need a grid of {list(needed)} cells, found a size of {list(size)}")
        size = size or needed
        self._check_memory(size)
        index = tuple(self.coordinates.long().unbind(1))
        cells = self.features.new_zeros(self.batch_size, *size, self.features.shape[1])
        cells = cells.index_put(index, self.features)
        mask = torch.zeros(self.batch_size, *size, dtype=torch.bool, device=self.device)
        mask[index] = True
        grid, place = cells.permute(0, 4, 1, 2, 3).contiguous(), (self.sites.origin, self.sites.voxel_size)
        return DenseVoxels(grid, mask.unsqueeze(1), self.stride, *place)

    def _check_memory(self, size: tuple[int, int, int]) -> None:
        """Refuse a grid that the device has no room for, before any of it is asked for."""
        channels, bytes_each = self.features.shape[1], self.features.element_size()
        cells = self.batch_size * prod(size)
        wanted, free = cells * (2 * channels * bytes_each + 1), free_bytes(self.device)  # two copies, and the mask
        if free is None or wanted <= free:
            return
        extents = torch.zeros(self.batch_size, 3, dtype=torch.int32, device=self.device)
        place = self.sites.batch.unsqueeze(1).expand(-1, 3)
        extents = extents.scatter_reduce(0, place, self.coordinates[:, 1:] + 1, "amax").long()
        number = int(extents.amax(1).argmax())
        raise VoxelError(
            f"a dense grid of {self.batch_size} × {' × '.join(map(str, size))} cells with {channels} channels takes "
            f"{wanted:,} bytes ({wanted / 2**30:.3g} GiB) to make, and {free:,} are free on {self.device}; "
            f"cloud {number} is the widest, with {' × '.join(map(str, extents[number].tolist()))} voxels: remove "
            "its far points, use larger voxels or fewer clouds, or sparse voxels"
        )


@dataclass(frozen=True, eq=False)
class DenseVoxels:
    """Features on a dense grid, of which only the cells in the mask count.

    Attributes:
        grid: [B, C, X, Y, Z]; zero outside the mask.
        mask: bool [B, 1, X, Y, Z].
        stride: edge of one voxel of this scale in input voxels.
        origin, voxel_size: as of `Sites`.
        finest: the mask of the input voxels that these were coarsened from, bool [B, 1, X', Y', Z']; None at stride 1,
            and where it is unknown.
    """

    grid: Tensor
    mask: Tensor
    stride: int = 1
    origin: Tensor | None = None
    voxel_size: float | None = None
    finest: Tensor | None = None

    def __post_init__(self) -> None:
        expected = [self.grid.shape[0], 1, *self.grid.shape[2:]]
        if self.grid.ndim != 5 or self.mask.dtype != torch.bool or list(self.mask.shape) != expected:
            raise VoxelError(
                f"expected a grid [B, C, X, Y, Z] and a bool mask [B, 1, X, Y, Z], found "
                f"{list(self.grid.shape)} and {self.mask.dtype} {list(self.mask.shape)}"
            )

    @property
    def batch_size(self) -> int:
        """Clouds in the batch."""
        return self.grid.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the features lie."""
        return self.grid.device

    @property
    def rows(self) -> Tensor:
        """Features of the occupied cells, [N, C], ordered by (batch, x, y, z)."""
        return self.grid.permute(0, 2, 3, 4, 1)[self.mask[:, 0]]

    @property
    def sites(self) -> Sites:
        """The occupied cells, in the order of `rows`."""
        finest = None if self.finest is None else self.finest[:, 0].nonzero().to(torch.int32)
        cells = self.mask[:, 0].nonzero().to(torch.int32)
        return Sites.of(cells, self.batch_size, self.stride, self.origin, self.voxel_size, finest)

    @property
    def centres(self) -> Tensor:
        """Centres of the occupied cells in the unit of the clouds' points, float64 [N, 3], in the order of `rows`."""
        return self.sites.centres

    def replace(self, grid: Tensor) -> DenseVoxels:
        """Another grid under the same mask; what it holds outside the mask is set to zero."""
        return self._with(torch.where(self.mask, grid, 0))

    def coarser(self, grid: Tensor, mask: Tensor, stride: int) -> DenseVoxels:
        """The map of a layer of that stride; what the grid holds outside the mask is set to zero."""
        finest = self.mask if self.stride == 1 and stride > 1 else self.finest
        place = self.stride * stride, self.origin, self.voxel_size, finest
        return DenseVoxels(torch.where(mask, grid, 0), mask, *place)

    def _with(self, grid: Tensor) -> DenseVoxels:
        return DenseVoxels(grid, self.mask, self.stride, self.origin, self.voxel_size, self.finest)

    def replace_rows(self, rows: Tensor) -> DenseVoxels:
        """Other features [N, C] in the occupied cells."""
        cells = rows.new_zeros(*self.mask[:, 0].shape, rows.shape[1])
        cells = cells.masked_scatter(self.mask[:, 0].unsqueeze(-1), rows)
        return self._with(cells.permute(0, 4, 1, 2, 3))

    def to(self, target: torch.device | torch.dtype | str, non_blocking: bool = False) -> DenseVoxels:
        """Move to a device, or convert the features to a floating type."""
        if isinstance(target, torch.dtype):
            return self._with(self.grid.to(target))
        return self._moved(lambda values: values.to(target, non_blocking=non_blocking))

    def double(self) -> DenseVoxels:
        """The features in float64."""
        return self.to(torch.float64)

    def pin_memory(self) -> DenseVoxels:
        """Copy to page-locked memory, from which a GPU reads without waiting."""
        return self._moved(Tensor.pin_memory)

    def _moved(self, move: Callable[[Tensor], Tensor]) -> DenseVoxels:
        origin = None if self.origin is None else move(self.origin)
        finest = None if self.finest is None else move(self.finest)
        return DenseVoxels(move(self.grid), move(self.mask), self.stride, origin, self.voxel_size, finest)

    def sparse(self) -> VoxelTensor:
        """The occupied cells as sparse voxels."""
        return VoxelTensor(self.rows, self.sites)


Voxels: TypeAlias = VoxelTensor | DenseVoxels | Tensor
"""Sparse voxels, a grid with its mask, or a plain grid [B, C, X, Y, Z], as image volumes and export use it."""
