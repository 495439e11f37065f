"""Rows behind the voxels of a batch that count nowhere, so that batches of nearly one size have the same shapes.

They are the voxels of one more cloud, of which no other voxel is a neighbour. So all that is taken over a cloud
(pooling, gates, most norms) is right as it stands, and the cloud's own results are left out at the end. Only a norm by
the statistics of a batch goes over all clouds: it counts the first `Sites.real` rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from image2point.voxels.errors import VoxelError
from image2point.voxels.plan import NeighbourTable
from image2point.voxels.sites import Sites
from image2point.voxels.tensor import VoxelTensor
from image2point.voxels.window import Window


@dataclass(frozen=True)
class Buckets:
    """The sizes that padded batches have.

    Attributes:
        clouds: of a padded batch, one more than the largest batch has.
        step: by how much each number of rows exceeds the one before it; a number is reached by rounding up.
    """

    clouds: int
    step: float = 0.05

    def rows(self, count: int) -> int:
        """The smallest size above `count`.

        >>> buckets = Buckets(clouds=2, step=0.05)
        >>> [buckets.rows(count) for count in (1, 1000, 1030, 1046)]
        [2, 1021, 1072, 1072]
        """
        power = math.floor(math.log(count) / math.log1p(self.step))
        while (size := math.ceil((1 + self.step) ** power)) <= count:
            power += 1
        return size


def pad(voxels: VoxelTensor, buckets: Buckets) -> VoxelTensor:
    """The same voxels with rows of zeros behind them, at every scale whose sites and tables have been made.

    A network gives real rows and clouds what it gives without padding, and gradients and running statistics are the
    same, up to rounding; where something is drawn for each cloud (dropout, drop path), other numbers are drawn. Its
    rows for clouds behind the real ones mean nothing. Coarser sites that have not been made are not to be had.

    Raises:
        VoxelError: where the batch has too many clouds, or a scale fewer than two voxels, of which a norm could take
            no variance.

    >>> sites = Sites.of(torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.int32))
    >>> padded = pad(VoxelTensor(torch.ones(2, 1), sites), Buckets(clouds=2, step=0.5))
    >>> padded.features.flatten().tolist(), padded.sites.batch.tolist(), int(padded.sites.real)
    ([1.0, 1.0, 0.0], [0, 0, 1], 2)
    """
    if voxels.batch_size >= buckets.clouds:
        raise VoxelError(f"padding: expected at most {buckets.clouds - 1} clouds, found {voxels.batch_size}")
    sites = _padded(voxels.sites, buckets, voxels.coordinates[-1, 1:], None)
    return VoxelTensor(F.pad(voxels.features, (0, 0, 0, len(sites) - len(voxels.sites))), sites)


def sizes(sites: Sites) -> tuple[int, ...]:
    """Clouds, and rows at each scale that has been made: what the shapes in a step follow from.

    >>> sites = Sites.of(torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.int32))
    >>> _ = sites.coarsen(2)
    >>> sizes(sites)
    (1, 2, 1)
    """

    def rows(sites: Sites) -> list[int]:
        coarser = (made[0] for key, made in sites._plans.items() if isinstance(key, tuple) and key[0] == "coarsen")
        return [len(sites), *(size for each in coarser for size in rows(each))]

    return sites.batch_size, *rows(sites)


def _padded(sites: Sites, buckets: Buckets, place: Tensor, finest: Tensor | None) -> Sites:
    """place: int32 [3], where the padding lies: a voxel of the batch, so that no box grows."""
    count, last = len(sites), buckets.clouds - 1
    if count < 2:
        raise VoxelError(
            f"padding: expected at least two voxels at stride {sites.stride}, of which batch norm can take a variance, "
            "found one; use larger batches or a smaller voxel size"
        )
    size = buckets.rows(count)
    row = F.pad(place, (1, 0), value=last)
    coordinates = torch.cat([sites.coordinates, row.expand(size - count, 4)])
    clouds = buckets.clouds - sites.batch_size
    origin = None if sites.origin is None else F.pad(sites.origin, (0, 0, 0, clouds))
    real = torch.tensor(count, device=sites.device)
    made = Sites(coordinates, buckets.clouds, sites.stride, origin, sites.voxel_size, finest, real)
    below = coordinates if sites.stride == 1 else finest
    targets = {1: size}
    plans = made._plans
    for key, plan in sites._plans.items():
        if isinstance(key, tuple) and key[0] == "coarsen":
            coarse = _padded(plan[0], buckets, torch.div(place, key[1], rounding_mode="floor"), below)
            plans[key] = coarse, F.pad(plan[1], (0, size - count), value=len(coarse) - 1)
            targets[key[1]] = len(coarse)
        elif key == "batch":
            plans[key] = F.pad(plan, (0, size - count), value=last)
        elif key == "counts":
            plans[key] = torch.cat([F.pad(plan, (0, clouds - 1)), plan.new_tensor([size - count])])
        elif key == "bounds":
            plans[key] = plan
    for key, plan in sites._plans.items():
        if isinstance(key, Window):
            reads = F.pad(plan.reads, (0, targets[key.stride] - plan.targets), value=-1)
            plans[key] = NeighbourTable(plan.kernel, reads, size, plan.submanifold, padded=True)
    return made
