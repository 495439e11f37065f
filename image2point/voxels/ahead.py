"""Plans made ahead: which neighbour tables and coarser sites a network asks for, and making them all in one go.

A process that prepares batches makes them on its CPU, and they move to the device with the voxels, in one piece
(`Sites.to`). They are the same numbers wherever they are made.
"""

from __future__ import annotations

from dataclasses import dataclass

from image2point.voxels.plan import neighbour_table
from image2point.voxels.sites import Sites
from image2point.voxels.window import Window

_NAMES = ("batch", "counts")


@dataclass(frozen=True)
class Wanted:
    """What is asked of the sites of one scale, and of the coarser ones that are made of them.

    Attributes:
        windows: those of which there is a neighbour table.
        names: further plans, by name.
        coarser: stride, and what is asked of the sites that it gives.
    """

    windows: tuple[Window, ...]
    names: tuple[str, ...]
    coarser: tuple[tuple[int, Wanted], ...]


def asked_of(sites: Sites) -> Wanted:
    """What has been asked of sites so far: after a forward pass, what the network needs of any batch.

    >>> import torch
    >>> sites = Sites.of(torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.int32))
    >>> table = neighbour_table(sites, Window((2, 2, 2), 2))
    >>> asked_of(sites).windows == (Window((2, 2, 2), 2),), [stride for stride, _ in asked_of(sites).coarser]
    (True, [2])
    """
    keys = list(sites._plans)
    strides = [key[1] for key in keys if isinstance(key, tuple) and key[0] == "coarsen"]
    return Wanted(
        tuple(key for key in keys if isinstance(key, Window)),
        tuple(key for key in keys if key in _NAMES),
        tuple((stride, asked_of(sites.coarsen(stride))) for stride in strides),
    )


def make_ahead(sites: Sites, wanted: Wanted) -> Sites:
    """The same sites with all that is wanted made, and everything in one piece of memory.

    Raises:
        VoxelError: as `neighbour_table` does.

    >>> import torch
    >>> rows = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.int32)
    >>> made = make_ahead(Sites.of(rows), Wanted((Window((1, 1, 2), 2),), (), ()))
    >>> neighbour_table(made, Window((1, 1, 2), 2)).reads.tolist()
    [[0], [1]]
    """
    _make(sites, wanted)
    return sites.in_one_piece()


def _make(sites: Sites, wanted: Wanted) -> None:
    for window in wanted.windows:
        neighbour_table(sites, window)
    for name in wanted.names:
        getattr(sites, name)
    for stride, inner in wanted.coarser:
        _make(sites.coarsen(stride), inner)
