"""How many labels of a finished segmentation change when its test scenes are scored by tiles, by overlap.

    python scripts/tile_overlap.py RUN [--voxels 5000] [--overlaps 0,8,16,32,64] [KEY=VALUE ...]

Each scene goes through the network whole, which has to fit the memory, and in tiles of at most --voxels voxels; scenes
that fit one tile are left out. Settings go over those of the run, such as data.root=...
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import torch

import image2point as i2p
from image2point import config as configuration
from image2point import runs
from image2point.errors import InputError
from image2point.jobs.ingredients import load_splits, make_recipe
from image2point.training.batches import batches, in_order
from image2point.voxels import DenseVoxels, VoxelTensor, tiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--voxels", type=int, default=5000)
    parser.add_argument("--overlaps", default="0,8,16,32,64")
    parser.add_argument("settings", nargs="*", default=[])
    asked = parser.parse_intermixed_args()
    run = runs.open_run(asked.run)
    config = configuration.load_config(run.config, asked.settings)
    network, test, recipe = i2p.load(run.path), load_splits(config.data).test, make_recipe(config)
    dtype = next(network.parameters()).dtype

    def scenes() -> Iterator[VoxelTensor | DenseVoxels]:
        for batch in batches(test, in_order(len(test), 1), recipe):
            found = batch.voxels.to(dtype)
            assert isinstance(found, VoxelTensor | DenseVoxels)
            if len(found.sites if isinstance(found, VoxelTensor) else found.rows) > asked.voxels:
                yield found

    def labels(voxels: VoxelTensor | DenseVoxels, budget: int | None, overlap: int) -> torch.Tensor:
        with torch.no_grad():
            return tiles.say(
                network.embed, voxels, torch.empty(0, dtype=torch.int64), budget, overlap
            ).probabilities.argmax(1)

    whole = [labels(voxels, None, 0) for voxels in scenes()]
    total = sum(map(len, whole))
    if not total:
        raise SystemExit(f"no test scene of {run.path} has more than {asked.voxels} voxels; lower --voxels")
    print(f"{len(whole)} scenes, {total:,} voxels, tiles of at most {asked.voxels:,}")
    print("overlap  labels that differ (%)  seconds")
    for overlap in map(int, asked.overlaps.split(",")):
        clock = time.monotonic()
        try:
            differ = sum(
                int((labels(v, asked.voxels, overlap) != w).sum()) for v, w in zip(scenes(), whole, strict=True)
            )
        except InputError as error:
            print(f"{overlap:7}  {error}")
            continue
        print(f"{overlap:7}  {100 * differ / total:22.2f}  {time.monotonic() - clock:7.1f}")


if __name__ == "__main__":
    main()
