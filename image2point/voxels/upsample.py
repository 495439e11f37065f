"""Nearest-neighbour upsampling: what a coarse map has, on the sites of an earlier, finer one.

Sparse voxels and masks do not know what they were before they were coarsened, so the finer map is given.
"""

from __future__ import annotations

from torch import Tensor

from image2point.voxels.errors import VoxelError
from image2point.voxels.gather import Gathering
from image2point.voxels.sites import Sites
from image2point.voxels.tensor import DenseVoxels, Voxels, VoxelTensor


def upsample(coarse: Voxels, finer: Voxels, scale: int | None = None) -> Voxels:
    """Each finer site takes what its parent floor(index / scale) has.

    Args:
        coarse: features to bring to the finer sites.
        finer: any map on these sites; of its features only their place is used.
        scale: finer cells along the edge of a coarse one; None takes it from the strides, and of plain grids from
            their sizes, a power of two.

    Returns:
        A map of the form of `finer`. On a masked grid, cells without an occupied parent are zero.

    Raises:
        VoxelError: where a finer voxel has no parent among the coarse ones, the forms differ, or no scale fits.

    >>> import torch
    >>> coarse, fine = torch.tensor([0.0, 4.0]).view(1, 1, 2, 1, 1), torch.zeros(1, 1, 4, 2, 2)
    >>> upsample(coarse, fine)[0, 0, :, 0, 0].tolist()
    [0.0, 0.0, 4.0, 4.0]
    """
    if isinstance(coarse, VoxelTensor) and isinstance(finer, VoxelTensor):
        if scale is not None and coarse.stride != finer.stride * scale:
            raise VoxelError(f"cannot upsample by {scale}: the strides are {coarse.stride} and {finer.stride}")
        return finer.replace(parents(finer.sites, coarse.sites).take(coarse.features))
    if isinstance(coarse, DenseVoxels) and isinstance(finer, DenseVoxels):
        return finer.replace(_repeat(coarse.grid, finer.grid, scale or ratio(coarse.stride, finer.stride)))
    if isinstance(coarse, Tensor) and isinstance(finer, Tensor):
        return _repeat(coarse, finer, scale or _fitting(coarse, finer))
    raise VoxelError(f"cannot upsample {type(coarse).__name__} onto {type(finer).__name__}")


def parents(finer: Sites, coarse: Sites) -> Gathering:
    """The row of each finer site's parent among the coarse sites; found once and kept with the finer sites.

    Raises:
        VoxelError: where one has none.

    >>> import torch
    >>> sites = Sites.of(torch.tensor([[0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 0, 3]], dtype=torch.int32))
    >>> parents(sites, sites.coarsen(2)).index.tolist()
    [0, 1, 1]
    """

    def build() -> Gathering:
        rows = finer.rows_in(coarse, ratio(coarse.stride, finer.stride))
        if (lost := int((rows < 0).sum())) > 0:
            place = finer.coordinates[int((rows < 0).nonzero()[0])].tolist()
            raise VoxelError(
                f"cannot upsample: the finer sites do not coarsen to the sites of the voxels; {lost:,} of "
                f"{len(finer):,} have no parent, the first at (batch, x, y, z) = {place}"
            )
        return Gathering(rows, len(coarse))

    return finer.plan(("parents", coarse), build)


def ratio(coarse: int, finer: int) -> int:
    """How many finer strides make a coarse one.

    Raises:
        VoxelError: where it is no whole number.

    >>> ratio(8, 2)
    4
    """
    if coarse % finer:
        raise VoxelError(f"cannot upsample a map of stride {coarse} onto one of stride {finer}")
    return coarse // finer


def _fitting(coarse: Tensor, finer: Tensor) -> int:
    """The power of two by which the finer grid was coarsened: n cells became ceil(n / scale)."""
    sizes, wanted = list(coarse.shape[2:]), list(finer.shape[2:])
    for scale in (1 << power for power in range(max(wanted).bit_length() + 1)):
        if [-(-n // scale) for n in wanted] == sizes:
            return scale
    raise VoxelError(f"no power of two leads from a grid {wanted} to {sizes}: give the scale")


def _repeat(grid: Tensor, like: Tensor, scale: int) -> Tensor:
    for axis in (2, 3, 4):
        grid = grid.repeat_interleave(scale, axis).narrow(axis, 0, like.shape[axis])
    return grid
