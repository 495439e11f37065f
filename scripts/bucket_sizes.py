"""Which sizes batches have when their voxels are padded (`image2point/voxels/padding.py`), and how many rows that adds.

    python scripts/bucket_sizes.py --batches 200 --clouds 128 [--data data/modelnet40_ply_hdf5_1024]

For steps between sizes of a few per cent, from the means of the first four batches up and down: how many sizes occur,
how many batches have one that came before, and how many rows padding adds. Batches are those of training, augmented:
of synthetic shapes, or of the training clouds of ModelNet40, over as many epochs as it takes.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from image2point.datasets import registry
from image2point.datasets.recipe import Recipe
from image2point.datasets.synthetic import SyntheticShapes
from image2point.datasets.transforms import PAPER
from image2point.training.batches import batches, shuffled
from image2point.voxels import VoxelTensor
from image2point.voxels.padding import Buckets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--clouds", type=int, default=128, help="of a batch")
    parser.add_argument("--scales", type=int, default=6, help="each of twice the stride of the one before")
    parser.add_argument("--voxel-size", type=float, default=0.05)
    parser.add_argument("--data", type=Path, help="folder of ModelNet40; without it, synthetic shapes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    counts = rows(arguments)
    mean, apart = counts.mean(0), counts.std(0) / counts.mean(0)
    print(f"{len(counts)} batches of {arguments.clouds} clouds; rows by stride, and their standard deviation:")
    print("  " + ", ".join(f"{n:,.0f} ± {100 * s:.1f} %" for n, s in zip(mean, apart, strict=True)))
    typical = tuple(counts[:4].mean(0).round().astype(int).tolist())
    for step in (0.03, 0.05, 0.1):
        together = Buckets(arguments.clouds + 1, typical, step)
        alone = [Buckets(arguments.clouds + 1, (rows,), step) for rows in typical]
        for name, padded in (
            ("all scales by one power", [together.fit(row) for row in counts.tolist()]),
            (
                "each scale by its own",
                [tuple(b.fit([n])[0] for b, n in zip(alone, r, strict=True)) for r in counts.tolist()],
            ),
        ):
            seen, again = Counter[tuple[int, ...]](), 0
            for sizes in padded:
                again += seen[sizes] >= 1
                seen[sizes] += 1
            added = np.array(padded).sum(0) / counts.sum(0) - 1
            shares = ", ".join(f"{100 * share:.1f} %" for share in added)
            print(
                f"steps of {100 * step:.0f} %, {name}: {len(seen)} sizes; {again} of {len(padded)} batches have one "
                f"that came before; rows added by stride: {shares}"
            )


def rows(arguments: argparse.Namespace) -> np.ndarray:
    """int64 [batches, scales]"""
    total = arguments.batches * arguments.clouds
    if arguments.data is None:
        clouds = SyntheticShapes("train", -(-total // 10), 1024)
    else:
        clouds = registry.load_dataset("modelnet", arguments.data).train
    recipe, found = Recipe(voxel_size=arguments.voxel_size, points=1024, augmentation=PAPER), list[list[int]]()
    epoch = 0
    while len(found) < arguments.batches:
        epoch += 1
        plan = shuffled(len(clouds), arguments.clouds, 0, epoch)[: arguments.batches - len(found)]
        for batch in batches(clouds, plan, recipe, epoch):
            assert isinstance(batch.voxels, VoxelTensor)
            sites, sizes = batch.voxels.sites, list[int]()
            for _ in range(arguments.scales):
                sizes.append(len(sites))
                sites = sites.coarsen(2)
            found.append(sizes)
    return np.array(found)


if __name__ == "__main__":
    main()
