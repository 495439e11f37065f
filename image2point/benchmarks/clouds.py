"""Voxels to measure on: ModelNet40's, or synthetic surfaces of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from image2point.datasets import modelnet
from image2point.voxels import Sites, VoxelTensor, voxelize
from image2point.voxels.sites import unique_sites


def modelnet_voxels(root: Path, clouds: int, voxel_size: float) -> VoxelTensor:
    """The first clouds of the shuffled ModelNet40 test set, with their coordinates as features."""
    test = modelnet.load(str(root), 40)[1]
    chosen = np.random.default_rng(0).permutation(len(test))[:clouds]
    return voxelize([torch.from_numpy(np.asarray(test[int(i)])) for i in chosen], voxel_size)


def surface(voxels: int, seed: int = 0) -> Sites:
    """About `voxels` sites of one large wavy sheet with a few spheres: as crowded as scanned surfaces are."""
    generator = torch.Generator().manual_seed(seed)
    edge = max(int((voxels / 1.6) ** 0.5), 4)
    x, y = torch.meshgrid(torch.arange(edge), torch.arange(edge), indexing="ij")
    wave = torch.sin(x * (12 / edge)) + torch.cos(y * (9 / edge))
    z = (wave * (edge / 20)).long()
    sheet = torch.stack([torch.zeros_like(x), x, y, z], -1).view(-1, 4)
    direction = torch.nn.functional.normalize(torch.randn(max(voxels - len(sheet), 1), 3, generator=generator), dim=1)
    radius = max((len(direction) / 12.6) ** 0.5, 1.0)
    ball = (direction * radius + edge / 2).floor().long()
    ball = torch.cat([torch.zeros(len(ball), 1, dtype=torch.long), ball], 1)
    return unique_sites(torch.cat([sheet, ball]).to(torch.int32), 1)[0]


def scales(sites: Sites, count: int) -> list[Sites]:
    """The sites and their coarsenings by 2."""
    found = [sites]
    while len(found) < count:
        found.append(found[-1].coarsen(2))
    return found
