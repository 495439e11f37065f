"""How strongly a lifted kernel responds: the factor that keeps the variance of activations from 2D to 3D.

A 2D kernel sums K² pixels that are all there. Repeated K times it sums up to K³ voxels, of which a surface occupies a
fifth to a half. Image2Point leaves the repeated kernel as it is (`none`), I3D divides it by K (`1/K`), and `occupancy`
asks He's condition (He et al., 2015) of the voxels that are there: with independent inputs of one variance the output
has the variance w₂² = Σ w₂(i, j)² in 2D and Σ_t p_t · w₃(t)² in 3D, where p_t is how often tap t finds a voxel; the
3D kernel is scaled until the two agree. One factor per layer, so that nothing else about a kernel changes.
"""

from __future__ import annotations

import logging
from math import sqrt

import torch
from torch import Tensor, nn

from image2point.errors import InputError
from image2point.networks.interface import modes_kept
from image2point.voxels import DenseVoxels, TransposedConv, VoxelConv, VoxelTensor
from image2point.voxels.plan import Window, neighbour_table
from image2point.voxels.sites import Sites

logger = logging.getLogger("image2point")


def factor(kernel: Tensor, lifted: Tensor, copies: float, variance: str) -> float:
    """What a lifted kernel is multiplied with when it is made.

    Args:
        kernel: the 2D kernel [C_out, C_in / groups, K1, K2].
        lifted: what it became, [C_out, C_in / groups, Kx, Ky, Kz].
        copies: how many undivided copies of the 2D kernel it consists of, of a transposed one how many an output
            reads; 1 under `mean`, `center` and `rotate`, whose response to a constant input is that of the 2D kernel.
        variance: `none`; `1/K`, one over the copies; `occupancy`, the factor that gives both kernels one sum of
            squares, as is right where every voxel is occupied (`calibrate` does the rest).
    """
    if variance == "none":
        return 1.0
    if variance == "1/K":
        return 1 / copies
    energy = float(lifted.double().square().sum())
    return sqrt(float(kernel.double().square().sum()) / energy) if energy else 1.0


@torch.no_grad()
def calibrate(network: nn.Module, names: list[str], batch: VoxelTensor | DenseVoxels) -> dict[str, float]:
    """Scale kernels, in place, by how many of their taps find a voxel in a batch.

    Args:
        network: takes `batch`; it is run once, in eval mode.
        names: its `VoxelConv` modules that are scaled.
        batch: voxels of typical clouds.

    Returns:
        The factor of each: sqrt(Σ_t w(t)² / Σ_t p_t · w(t)²), p_t being the share of output voxels for which tap t
        finds one; 1 for a kernel of zeros.
    """
    factors: dict[str, float] = {}

    def hook(name: str) -> None:
        conv = network.get_submodule(name)
        assert isinstance(conv, VoxelConv)

        def scale(_: nn.Module, inputs: tuple[VoxelTensor | DenseVoxels, ...]) -> None:
            if name not in factors:
                # The last input of a transposed convolution is on the finer sites.
                x = inputs[-1].sparse() if isinstance(inputs[-1], DenseVoxels) else inputs[-1]
                energy = conv.kernel().double().square().sum((0, 1)).flatten()
                present = float(energy @ occupancy(x.sites, conv.window).to(energy.device))
                if isinstance(conv, TransposedConv):  # an output reads one tap in stride³, if all voxels are there
                    present *= conv.window.stride**3 * len(x.sites.coarsen(conv.window.stride)) / len(x.sites)
                factors[name] = sqrt(float(energy.sum()) / present) if present else 1.0
                conv.weight.mul_(factors[name])

        handles.append(conv.register_forward_pre_hook(scale))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    with modes_kept(network):
        try:
            for name in names:
                hook(name)
            network.eval()(batch)
        finally:
            for handle in handles:
                handle.remove()
    if factors:
        ordered = sorted(factors.values())
        logger.info(
            "variance: %d kernels scaled by %.2f to %.2f, median %.2f, after the occupancy of %d voxels in %d clouds",
            len(ordered), ordered[0], ordered[-1], ordered[len(ordered) // 2], _voxels(batch),
            batch.batch_size,
        )  # fmt: skip
    return factors


def occupancy(sites: Sites, window: Window) -> Tensor:
    """Share of the output voxels for which each tap of a window finds an input voxel; float64 [taps]."""
    table = neighbour_table(sites, window)
    return (table.reads >= 0).double().mean(1)


def _voxels(batch: VoxelTensor | DenseVoxels) -> int:
    return int(batch.mask.sum()) if isinstance(batch, DenseVoxels) else len(batch.sites)


def check_batch(batch: object) -> VoxelTensor | DenseVoxels:
    """A batch that `calibrate` can use.

    Raises:
        InputError: where it is none, or holds no voxel.
    """
    if not isinstance(batch, VoxelTensor | DenseVoxels):
        raise InputError(
            'variance="occupancy" needs calibration=, a batch of voxels of typical clouds (image2point.voxelize makes '
            f"one); found {type(batch).__name__}"
        )
    if isinstance(batch, DenseVoxels) and not batch.mask.any():  # a VoxelTensor is never empty
        raise InputError("calibration: expected a batch of voxels of typical clouds, found one without a voxel")
    return batch
