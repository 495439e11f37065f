"""Rows behind the voxels of a batch that count nowhere, so that batches of nearly one size have the same shapes.

They are the voxels of one more cloud, of which no other voxel is a neighbour. So all that is taken over a cloud
(pooling, gates, most norms) is right as it stands, and the cloud's own results are left out at the end. Only a norm by
the statistics of a batch goes over all clouds: it counts the first `Sites.real` rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
    """The sizes that padded batches have: those of a typical one, times a power of 1 + step, the same at all scales.

    The rows of a batch's scales grow and shrink together, so that one power for all makes few sizes.

    Attributes:
        clouds: of a padded batch, one more than the largest batch has.
        rows: those of a typical batch, at each scale in the order of `rows_of`.
    """

    clouds: int
    rows: tuple[int, ...]
    step: float = 0.03

    def fit(self, rows: Sequence[int]) -> tuple[int, ...]:
        """The smallest sizes that are larger than `rows` at every scale.

        >>> buckets = Buckets(clouds=33, rows=(1000, 400), step=0.1)
        >>> buckets.fit((990, 390)), buckets.fit((990, 410)), buckets.fit((600, 200))
        ((1000, 400), (1100, 441), (621, 249))
        """
        if len(rows) != len(self.rows):
            raise VoxelError(f"padding: expected sites of {len(self.rows)} scales, found {len(rows)}")
        most = max(count / typical for count, typical in zip(rows, self.rows, strict=True))
        power = math.floor(math.log(most) / math.log1p(self.step)) - 1
        while True:
            sizes = tuple(math.ceil(typical * (1 + self.step) ** power) for typical in self.rows)
            if all(size > count for size, count in zip(sizes, rows, strict=True)):
                return sizes
            power += 1


def pad(voxels: VoxelTensor, buckets: Buckets) -> VoxelTensor:
    """The same voxels with rows of zeros behind them, at every scale whose sites and tables have been made.

    A network gives real rows and clouds what it gives without padding, and gradients and running statistics are the
    same, up to rounding; where something is drawn for each cloud (dropout, drop path), other numbers are drawn. Its
    rows for clouds behind the real ones mean nothing. Coarser sites that have not been made are not to be had.

    Raises:
        VoxelError: where the batch has too many clouds, or a scale fewer than two voxels, of which a norm could take
            no variance.

    >>> sites = Sites.of(torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.int32))
    >>> padded = pad(VoxelTensor(torch.ones(2, 1), sites), Buckets(clouds=2, rows=(4,)))
    >>> padded.features.flatten().tolist(), padded.sites.batch.tolist(), int(padded.sites.real)
    ([1.0, 1.0, 0.0], [0, 0, 1], 2)
    """
    if voxels.batch_size >= buckets.clouds:
        raise VoxelError(f"padding: expected at most {buckets.clouds - 1} clouds, found {voxels.batch_size}")
    sizes = iter(buckets.fit(rows_of(voxels.sites)))
    sites = _padded(voxels.sites, buckets.clouds, sizes, voxels.coordinates[-1, 1:], None).in_one_piece()
    return VoxelTensor(F.pad(voxels.features, (0, 0, 0, len(sites) - len(voxels.sites))), sites)


def rows_of(sites: Sites) -> tuple[int, ...]:
    """Rows of these sites, and of all coarser ones that have been made.

    >>> sites = Sites.of(torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.int32))
    >>> _ = sites.coarsen(2)
    >>> rows_of(sites)
    (2, 1)
    """
    coarser = (made[0] for key, made in sites._plans.items() if isinstance(key, tuple) and key[0] == "coarsen")
    return len(sites), *(rows for each in coarser for rows in rows_of(each))


def _padded(sites: Sites, clouds: int, sizes: Iterator[int], place: Tensor, finest: Tensor | None) -> Sites:
    """Padded sites, with padded plans.

    Args:
        sizes: of these sites and of the coarser ones, in the order of `rows_of`.
        place: int32 [3], where the padding lies: in a voxel of the batch, so that no box grows.
    """
    count, size, last = len(sites), next(sizes), clouds - 1
    if count < 2:
        raise VoxelError(
            f"padding: expected at least two voxels at stride {sites.stride}, of which batch norm can take a variance, "
            "found one; use larger batches or a smaller voxel size"
        )
    row = F.pad(place, (1, 0), value=last)
    coordinates = torch.cat([sites.coordinates, row.expand(size - count, 4)])
    origin = None if sites.origin is None else F.pad(sites.origin, (0, 0, 0, clouds - sites.batch_size))
    real = torch.tensor(count, device=sites.device)
    made = Sites(coordinates, clouds, sites.stride, origin, sites.voxel_size, finest, real)
    below = coordinates if sites.stride == 1 else finest
    targets = {1: size}
    plans = made._plans
    for key, plan in sites._plans.items():
        if isinstance(key, tuple) and key[0] == "coarsen":
            coarse = _padded(plan[0], clouds, sizes, torch.div(place, key[1], rounding_mode="floor"), below)
            plans[key] = coarse, F.pad(plan[1], (0, size - count), value=len(coarse) - 1)
            targets[key[1]] = len(coarse)
        elif key == "batch":
            plans[key] = F.pad(plan, (0, size - count), value=last)
        elif key == "counts":
            plans[key] = torch.cat([F.pad(plan, (0, last - sites.batch_size)), plan.new_tensor([size - count])])
        elif key == "bounds":
            plans[key] = plan
    for key, plan in sites._plans.items():
        if isinstance(key, Window):
            reads = F.pad(plan.reads, (0, targets[key.stride] - plan.targets), value=-1)
            plans[key] = NeighbourTable(plan.kernel, reads, size, plan.submanifold, padded=True)
    return made
