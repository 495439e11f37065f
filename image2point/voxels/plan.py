"""Neighbour tables (kernel maps, rulebooks): which input voxel each output voxel reads through each tap of a kernel.

A table is immutable and built once per batch, scale and window; every layer with that window executes it. What an
engine derives from it (another order, the other direction) is kept with it, and so is built once as well.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from image2point.voxels.errors import VoxelError
from image2point.voxels.lookup import look_up, read_by
from image2point.voxels.sites import Sites
from image2point.voxels.window import Window

__all__ = ["NeighbourTable", "Pairs", "Window", "neighbour_table"]


class Pairs(NamedTuple):
    """The table as a list of pairs, sorted by tap and then by target.

    source, target: int32 [P].
    starts: start of each tap's pairs, length taps + 1.
    """

    source: Tensor
    target: Tensor
    starts: list[int]


@dataclass(frozen=True, eq=False)
class NeighbourTable:
    """Which source row each target row reads through each tap.

    Attributes:
        kernel: taps along x, y, z; tap (kx, ky, kz) has the number (kx · Ky + ky) · Kz + kz.
        reads: int32 [taps, targets], a source row, or −1 where there is none.
        sources: number of source rows.
        submanifold: whether sources and targets are the same sites and the window is centred on them. Then what is
            read through a tap in one direction is read through the opposite tap in the other.
        padded: whether it is one of padded sites (`voxels.padding`): then no shape may depend on what it holds.
    """

    kernel: tuple[int, int, int]
    reads: Tensor
    sources: int
    submanifold: bool = False
    padded: bool = False
    _forms: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @property
    def targets(self) -> int:
        """Number of target rows."""
        return self.reads.shape[1]

    def form(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """What `build` returns, built when `key` is first asked for and kept with this table; as `Sites.plan`."""
        if key not in self._forms:
            with torch.inference_mode(False):
                self._forms[key] = build()
        return self._forms[key]

    def rebuilt(self, change: Callable[[Tensor], Tensor]) -> NeighbourTable:
        """The same table of another tensor, nothing derived from it yet."""
        return NeighbourTable(self.kernel, change(self.reads), self.sources, self.submanifold, self.padded)

    def index(self, backward: bool = False) -> Tensor:
        """int32 [rows, taps]: what each target reads through each tap; `backward`, which targets read each source."""
        return (self._read_by() if backward else self.reads).T.contiguous()

    def entries(self, backward: bool = False) -> Tensor:
        """The same as `index`, int32 [taps, rows]."""
        return self._read_by() if backward else self.reads

    def _read_by(self) -> Tensor:
        if self.submanifold:
            return self.reads.flip(0)
        return read_by(self.reads, self.sources)

    @property
    def pairs(self) -> Pairs:
        return self.form("pairs", self._pairs)

    def _pairs(self) -> Pairs:
        present = self.reads >= 0
        tap, target = present.nonzero(as_tuple=True)
        edges = torch.arange(len(self.reads) + 1, device=self.reads.device)
        return Pairs(self.reads[present], target.to(torch.int32), torch.searchsorted(tap, edges).tolist())


def neighbour_table(sites: Sites, window: Window) -> NeighbourTable:
    """The table of `window` over `sites`, built once and kept with them.

    Raises:
        VoxelError: where it has more entries than 32 bits can number, or the sites span too large a box.

    >>> sites = Sites.of(torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.int32))
    >>> neighbour_table(sites, Window((1, 1, 3), padding=(0, 0, 1))).reads.tolist()  # [tap][voxel]
    [[-1, 0], [0, 1], [1, -1]]
    """

    def build() -> NeighbourTable:
        targets = sites.coarsen(window.stride)
        if window.taps * len(targets) >= 1 << 31:
            raise VoxelError(
                f"a table of {len(targets):,} voxels × {window.taps} taps has more than 2³¹ entries; "
                "split the batch, or use a larger voxel size or a smaller kernel"
            )
        return NeighbourTable(window.kernel, look_up(sites, targets, window), len(sites), window.is_centred())

    return sites.plan(window, build)
