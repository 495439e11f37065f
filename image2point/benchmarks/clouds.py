"""Voxels to measure on: ModelNet40's, or synthetic surfaces of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from image2point.datasets import modelnet
from image2point.datasets.synthetic_scenes import SyntheticScenes
from image2point.errors import InputError
from image2point.voxels import Sites, VoxelTensor, voxelize
from image2point.voxels.sites import unique_sites


def modelnet_voxels(root: Path, clouds: int, voxel_size: float) -> VoxelTensor:
    """The first clouds of the shuffled ModelNet40 test set, with their coordinates as features."""
    test = modelnet.load_modelnet(str(root), 40)[1]
    chosen = np.random.default_rng(0).permutation(len(test))[:clouds]
    return voxelize([torch.from_numpy(np.asarray(test[int(i)].points)) for i in chosen], voxel_size)


def street_scan(points: int, voxel_size: float) -> VoxelTensor:
    """Voxels of a synthetic street as a scanner sees it, of so many points, with their coordinates as features."""
    cloud = SyntheticScenes("test", scenes=1, rays=4 * points, kinds=("street",))[0]
    if len(cloud) < points:
        raise InputError(
            f"the scanner sees {len(cloud):,} points of the street; ask for at most so many, not {points:,}"
        )
    chosen = np.sort(np.random.default_rng(0).choice(len(cloud), points, replace=False))
    return voxelize([torch.from_numpy(cloud.points[chosen])], voxel_size)


def surface(voxels: int, seed: int = 0) -> Sites:
    """About `voxels` sites of spheres of many sizes: a surface that faces every way, as those of shapes do."""
    generator = torch.Generator().manual_seed(seed)
    spheres: list[Tensor] = []
    offset = found = 0
    while found < voxels:
        radius = min(12.0 + 20.0 * len(spheres), ((voxels - found) / 16) ** 0.5 + 1)
        shell = _shell(radius, torch.rand(3, generator=generator))
        spheres.append(shell + torch.tensor([0, offset, 0, 0]))
        offset, found = offset + int(2 * radius) + 4, found + len(shell)
    return unique_sites(torch.cat(spheres).to(torch.int32), 1)[0]


def _shell(radius: float, centre: Tensor) -> Tensor:
    """Cells that a sphere passes through, found by drawing points on it: int64 [n, 4], batch 0."""
    steps = int(4 * radius) + 4
    turn, height = torch.meshgrid(torch.arange(2.0 * steps), torch.arange(steps) + 0.5, indexing="ij")
    z = 1 - 2 * height / steps
    angle, ring = turn * (torch.pi / steps), (1 - z.square()).sqrt()
    points = torch.stack([ring * angle.cos(), ring * angle.sin(), z], -1).view(-1, 3)
    cells = torch.unique((points * radius + radius + centre).floor().long(), dim=0)
    return torch.nn.functional.pad(cells, (1, 0))


def scales(sites: Sites, count: int) -> list[Sites]:
    """The sites and their coarsenings by 2."""
    found = [sites]
    while len(found) < count:
        found.append(found[-1].coarsen(2))
    return found
