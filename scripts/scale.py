"""What ten million clouds and a thousand million voxels would take: rates measured here, the rest by multiplication.

    python scripts/scale.py --clouds 10000000 --processes 256 --per-process 32

Three tables. `plan`: the order of one epoch, by the code that training runs, at full size, and what a process needs for
its share of a step. `steps`: how much of a step the processes work while the slowest one does, by the voxels of their
clouds, with stragglers and without. `stages`: bytes, shards and hours of one core or GPU, from rates that are
measured on --sample clouds and one street scan; the rate of training is given.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

import image2point as i2p
from image2point.benchmarks.clouds import street_scan
from image2point.datasets import registry
from image2point.datasets.prepare import SHARD_BYTES, prepare_dataset
from image2point.datasets.recipe import Recipe
from image2point.datasets.splits import Splits
from image2point.datasets.synthetic import SyntheticShapes
from image2point.datasets.transforms import PAPER
from image2point.training import packing
from image2point.training.batches import batches, shuffled

POINTS = 1024
STEPS = 20
Share = Callable[[np.ndarray, int], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clouds", type=int, default=10_000_000)
    parser.add_argument("--voxels", type=int, default=1_000_000_000, help="of city lidar")
    parser.add_argument("--processes", type=int, default=256)
    parser.add_argument("--per-process", type=int, default=32, help="clouds of a step")
    parser.add_argument("--median", type=float, default=700, help="voxels of a cloud")
    parser.add_argument("--spread", type=float, default=0.8, help="standard deviation of their logarithm")
    parser.add_argument("--straggling", type=float, default=0.001, help="chance that a process takes twice as long")
    parser.add_argument("--gpu-rate", type=float, default=1700, help="clouds per second that one GPU trains on")
    parser.add_argument("--sample", type=int, default=2000, help="clouds that rates are measured on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, lines in (("plan", plan(arguments)), ("steps", steps(arguments)), ("stages", stages(arguments))):
        print(f"\n{name}")
        for line in lines:
            print(f"  {line}", flush=True)


def sizes(arguments: argparse.Namespace) -> np.ndarray:
    """Voxels of each cloud, drawn from a log-normal distribution."""
    drawn = np.random.default_rng(0).lognormal(np.log(arguments.median), arguments.spread, arguments.clouds)
    return drawn.astype(np.int64).clip(1)


def shares(counts: np.ndarray, processes: int) -> dict[str, Share]:
    return {
        "by number": lambda indices, rank: np.array_split(indices, processes)[rank],
        "by voxels": lambda indices, rank: packing.share(indices, counts, rank, processes),
    }


def plan(arguments: argparse.Namespace) -> Iterator[str]:
    counts, batch = sizes(arguments), arguments.processes * arguments.per_process
    budget = int(counts.mean() * batch)
    plans = {
        "by number": lambda: shuffled(arguments.clouds, batch, seed=0, epoch=1),
        "by voxels": lambda: packing.packed(counts, budget, seed=0, epoch=1),
    }
    for name, make in plans.items():
        clock = time.perf_counter()
        made = make()
        seconds = time.perf_counter() - clock
        tracemalloc.start()
        make()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        share = shares(counts, arguments.processes)[name]
        clock = time.perf_counter()
        for rank in range(8):
            share(made[0], rank)
        each = (time.perf_counter() - clock) / 8
        yield (f"{arguments.clouds:,} clouds {name}: {len(made):,} steps, {seconds:.2f} s, {peak / 2**20:,.0f} MiB; "
               f"a process's share of a step {1e3 * each:.2f} ms")  # fmt: skip


def steps(arguments: argparse.Namespace) -> Iterator[str]:
    counts, processes, rng = sizes(arguments), arguments.processes, np.random.default_rng(1)
    batch = processes * arguments.per_process
    plans = {
        "by number": shuffled(arguments.clouds, batch, 0, 1),
        "by voxels": packing.packed(counts, int(counts.mean() * batch), 0, 1),
    }
    for name, share in shares(counts, processes).items():
        loads = np.array([
            [counts[share(indices, rank)].sum() for rank in range(processes)] for indices in plans[name][:STEPS]
        ])  # fmt: skip
        slow = np.where(rng.random(loads.shape) < arguments.straggling, 2.0, 1.0)
        busy, straggling = (each.mean() / each.max(1).mean() for each in (loads, loads * slow))
        yield f"{name}: processes work {100 * busy:.1f} % of a step, with stragglers {100 * straggling:.1f} %"


def stages(arguments: argparse.Namespace) -> Iterator[str]:
    per_class = -(-arguments.sample // 10)
    train = SyntheticShapes("train", per_class, POINTS)
    splits = Splits(train, None, SyntheticShapes("test", 1, POINTS))
    with tempfile.TemporaryDirectory() as folder:
        out, clock = Path(folder) / "prepared", time.perf_counter()
        prepare_dataset(splits, out, "synthetic", encoding="int16")
        prepared = len(train) / (time.perf_counter() - clock)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / len(train)
        stored, recipe = registry.load_dataset("prepared", out).train, Recipe(voxel_size=0.05, augmentation=PAPER)
        clock = time.perf_counter()
        for _ in batches(stored, shuffled(len(stored), 32, 0, 1), recipe, 1):
            pass
        read = len(stored) / (time.perf_counter() - clock)
    total = arguments.clouds
    hours = {"prepare, with making the shapes": prepared, "read, augment, voxelise": read}
    in_shards = f"{total * size / 1e9:,.0f} GB in {total * POINTS * 12 / SHARD_BYTES:,.0f} shards"
    yield f"{total:,} clouds of {POINTS:,} points: {in_shards}"
    for name, rate in hours.items():
        yield f"{name}: {rate:,.0f} clouds/s on a core, {total / rate / 3600:,.1f} core hours"
    feeding = arguments.gpu_rate / read
    trained = total / arguments.gpu_rate / 3600
    yield f"train, {arguments.gpu_rate:,.0f} clouds/s: {trained:,.2f} GPU hours an epoch, {feeding:.1f} cores feed it"

    scan = street_scan(120_000, 0.1)
    network = i2p.segmenter("tf_efficientnet_lite0", num_classes=9, decoder="light", weights="random").eval()
    with torch.no_grad():
        network(scan)
        clock = time.perf_counter()
        network(type(scan)(scan.features, type(scan.sites)(scan.coordinates, scan.batch_size)))
        rate = len(scan.sites) / (time.perf_counter() - clock)
    how = f"{rate:,.0f} voxels/s on a core with EfficientNet-Lite0 and the decoder light"
    yield f"label {arguments.voxels:,} voxels of scans: {how}, {arguments.voxels / rate / 3600:,.1f} core hours"


if __name__ == "__main__":
    main()
