"""Sites: the sorted, unique voxel coordinates of a batch, and every plan that is made from them.

A scale of a sparse network is one `Sites` object. All feature maps of that scale share it, and with it the
neighbour tables, which are built when first asked for and kept: once per batch and scale, for all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from image2point.voxels.errors import VoxelError
from image2point.voxels.window import Window

LARGEST_KEY = 1 << 62
_ALIGNED = 64


@dataclass(frozen=True, eq=False)
class Sites:
    """Occupied voxels of a batch at one scale.

    Attributes:
        coordinates: int32 [N, 4], rows (batch, x, y, z), unique and in lexicographic order.
        batch_size: number of clouds; batch indices lie in [0, batch_size).
        stride: edge of one voxel of this scale in input voxels (1, 2, 4, ...).
        origin: float64 [batch_size, 3], the corner of index 0 of each cloud, in the unit of its points; None: unknown.
        voxel_size: edge of an input voxel in that unit; None: unknown.
        finest: int32 [M, 4], coordinates of the input voxels that these were coarsened from; None at stride 1, and
            where they are unknown.
        real: int64 [], how many rows count: the others, at the end, are padding (`voxels.padding`). None: all.
    """

    coordinates: Tensor
    batch_size: int
    stride: int = 1
    origin: Tensor | None = None
    voxel_size: float | None = None
    finest: Tensor | None = None
    real: Tensor | None = None
    _plans: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(
        coordinates: Tensor,
        batch_size: int | None = None,
        stride: int = 1,
        origin: Tensor | None = None,
        voxel_size: float | None = None,
        finest: Tensor | None = None,
    ) -> Sites:
        """Check coordinates that come from outside: int32 [N, 4], unique, sorted.

        Raises:
            VoxelError: on another shape or dtype, unsorted or repeated rows, a batch index out of range, or an origin
                that is not float64 [batch_size, 3].
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
        sites = Sites(coordinates, batch_size or batches, stride, origin, voxel_size, finest)
        if origin is not None and (origin.shape != (sites.batch_size, 3) or origin.dtype != torch.float64):
            raise VoxelError(
                f"origin: expected float64 [{sites.batch_size}, 3], found {origin.dtype} {list(origin.shape)}"
            )
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
        """What `build` returns, built when `key` is first asked for and kept with these sites.

        It is built outside of inference mode, since gradients may be taken on the same sites later.
        """
        if key not in self._plans:
            with torch.inference_mode(False):
                self._plans[key] = build()
        return self._plans[key]

    @property
    def device(self) -> torch.device:
        """Where the coordinates lie."""
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
    def centres(self) -> Tensor:
        """Centres of the voxels in the unit of the clouds' points, float64 [N, 3].

        Raises:
            VoxelError: where the origin or the voxel size is unknown.
        """

        def find() -> Tensor:
            origin, edge = self.placed()
            return origin[self.batch] + (self.coordinates[:, 1:].double() + 0.5) * edge

        return self.plan("centres", find)

    def placed(self) -> tuple[Tensor, float]:
        """The origin, float64 [batch_size, 3], and the edge of a voxel of this scale.

        Raises:
            VoxelError: where one of them is unknown.
        """
        if self.origin is None or self.voxel_size is None:
            raise VoxelError(
                "where these voxels lie is unknown: `voxelize` notes it; `Sites` made by hand need an origin and a "
                "voxel_size"
            )
        return self.origin, self.voxel_size * self.stride

    @property
    def keys(self) -> Tensor:
        """int64 [N], in the order of the coordinates and different wherever these are: mixed radix over the extents.

        Raises:
            VoxelError: where the box around the batch has more cells than a 64-bit key can number.
        """
        return self.plan("keys", self._keys)

    def _keys(self) -> Tensor:
        lower, upper = self.bounds
        x, y, z = (high - low + 1 for low, high in zip(lower, upper, strict=True))
        position = self.coordinates[:, 1:].long() - torch.tensor(lower, device=self.device)
        check_box(self.batch_size, x, y)
        columns = (self.batch * x + position[:, 0]) * y + position[:, 1]
        if self.batch_size * x * y * z >= LARGEST_KEY:  # number the columns that occur, not all that there could be
            occupied, columns = torch.unique(columns, return_inverse=True)
            check_box(len(occupied), z)
        return columns * z + position[:, 2]

    def coarsen(self, stride: int) -> Sites:
        """The sites of a strided layer: the unique floor(index / stride), whatever the kernel size."""
        return self if stride == 1 else self._coarsening(stride)[0]

    def parents(self, stride: int) -> Tensor:
        """Row of each site's parent floor(index / stride) among the sites of `coarsen(stride)`, int64 [N]."""
        return self._coarsening(stride)[1]

    def _coarsening(self, stride: int) -> tuple[Sites, Tensor]:
        def build() -> tuple[Sites, Tensor]:
            if self.real is not None:
                raise VoxelError(f"padded sites have no coarser ones of stride {stride}: make them before padding")
            coordinates = self.coordinates.clone()
            coordinates[:, 1:] = torch.div(coordinates[:, 1:], stride, rounding_mode="floor")
            finest = self.coordinates if self.stride == 1 else self.finest
            place = self.origin, self.voxel_size, finest
            return unique_sites(coordinates, self.batch_size, self.stride * stride, *place)

        return self.plan(("coarsen", stride), build)

    def rows_in(self, coarse: Sites, stride: int) -> Tensor:
        """Row of each site's parent floor(index / stride) among any coarse sites, −1 where it is not there: int64 [N].

        It is read off the coarsenings that made the coarse sites of these, where they were made so.
        """
        known = self._known_rows(coarse)
        if known is not None:
            return known
        parents = torch.cat([self.coordinates[:, :1], self.coordinates[:, 1:].div(stride, rounding_mode="floor")], 1)
        both = Sites(torch.cat([coarse.coordinates, parents]), max(self.batch_size, coarse.batch_size))
        keys, wanted = both.keys.split([len(coarse), len(self)])
        row = torch.searchsorted(keys, wanted).clamp_(max=len(coarse) - 1)
        return torch.where(keys[row] == wanted, row, -1)

    def _known_rows(self, coarse: Sites) -> Tensor | None:
        if coarse is self:
            return torch.arange(len(self), device=self.device)
        for key, made in self._plans.items():
            if isinstance(key, tuple) and key[0] == "coarsen":
                sites, parents = made
                if (rows := sites._known_rows(coarse)) is not None:
                    return rows[parents]
        return None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Sites:
        """These sites on `device`, and with them the neighbour tables and coarser sites that have been made, in one
        copy; all other plans stay behind."""
        if self.coordinates.to(device) is self.coordinates:
            return self
        return self._moved(lambda rows: rows.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Sites:
        """Copy to page-locked memory, as `to`."""
        return self._moved(Tensor.pin_memory)

    def in_one_piece(self) -> Sites:
        """A copy, with what `to` takes along, in one piece of memory: what passes between processes is one file."""
        return self._moved(lambda rows: rows)

    def _moved(self, move: Callable[[Tensor], Tensor]) -> Sites:
        found: dict[int, Tensor] = {}
        self.rebuilt(lambda tensor: found.setdefault(id(tensor), tensor))
        moved = dict(zip(found, _move_together(list(found.values()), move), strict=True))
        return self.rebuilt(lambda tensor: moved[id(tensor)])

    def rebuilt(self, change: Callable[[Tensor], Tensor]) -> Sites:
        """The same of other tensors, with the plans that are made of tensors alone: those that `to` takes along."""
        origin = None if self.origin is None else change(self.origin)
        finest = None if self.finest is None else change(self.finest)
        real = None if self.real is None else change(self.real)
        plans: dict[Hashable, Any] = {}
        for key, made in self._plans.items():
            if isinstance(key, Window):
                plans[key] = made.rebuilt(change)
            elif isinstance(key, tuple) and key[0] == "coarsen":
                plans[key] = made[0].rebuilt(change), change(made[1])
            elif key in ("batch", "counts"):
                plans[key] = change(made)
            elif key == "bounds":
                plans[key] = made
        place = origin, self.voxel_size, finest, real
        return Sites(change(self.coordinates), self.batch_size, self.stride, *place, plans)

    def same(self, other: Sites) -> bool:
        """Whether both are the same voxels (usually the same object)."""
        return self is other or (
            self.stride == other.stride
            and self.batch_size == other.batch_size
            and torch.equal(self.coordinates, other.coordinates)
        )


def _move_together(tensors: list[Tensor], move: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """`move` of all tensors at once, as bytes of one tensor; each begins where vectors of a GPU's words may begin."""
    starts, size = list[int](), 0
    for tensor in tensors:
        starts.append(size)
        size += -(-tensor.numel() * tensor.element_size() // _ALIGNED) * _ALIGNED
    pieces = torch.empty(size, dtype=torch.uint8, device=tensors[0].device)

    def views(whole: Tensor) -> list[Tensor]:
        return [
            whole[start : start + tensor.numel() * tensor.element_size()].view(tensor.dtype).view(tensor.shape)
            for start, tensor in zip(starts, tensors, strict=True)
        ]

    for view, tensor in zip(views(pieces), tensors, strict=True):
        view.copy_(tensor)
    return views(move(pieces))


def unique_sites(
    coordinates: Tensor,
    batch_size: int,
    stride: int = 1,
    origin: Tensor | None = None,
    voxel_size: float | None = None,
    finest: Tensor | None = None,
) -> tuple[Sites, Tensor]:
    """Sites of coordinates int32 [N, 4] in any order, with repetitions; and the site of each row, int64 [N].

    >>> sites, row = unique_sites(torch.tensor([[0, 0, 0, 5], [0, 0, 0, 2], [0, 0, 0, 5]], dtype=torch.int32), 1)
    >>> sites.coordinates.tolist(), row.tolist()
    ([[0, 0, 0, 2], [0, 0, 0, 5]], [1, 0, 1])
    """
    repeated = Sites(coordinates, batch_size)
    keys, row = torch.unique(repeated.keys, return_inverse=True)
    unique = torch.empty(len(keys), 4, dtype=torch.int32, device=coordinates.device)
    unique[row] = coordinates
    return Sites(unique, batch_size, stride, origin, voxel_size, finest), row


def check_box(*extents: int) -> None:
    """Raise VoxelError where a box of these extents has more cells than a 64-bit key can number."""
    if prod(extents) >= LARGEST_KEY:
        raise VoxelError(
            f"coordinates: a box of {' × '.join(map(str, extents))} (clouds and voxels) does not fit a 64-bit key; "
            "use a larger voxel size or remove far outliers"
        )
