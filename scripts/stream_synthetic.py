"""Prepare many small synthetic clouds in shards and stream them through the whole pipeline, watching memory and speed.

    python scripts/stream_synthetic.py OUT --clouds 1000000 --points 64 --workers 2

Prints the size of the shards, then for one shuffled epoch (read, augmented, voxelised, batched) clouds/s and the peak
memory of the process and its workers: `own` memory, and `mapped` pages of the shards, which the system takes back when
it needs them. Then it stops in the middle of the epoch, goes on in a new loader, and compares every batch that follows;
and it splits the epoch over two processes and compares what they get together. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch

from image2point.datasets import registry
from image2point.datasets.prepare import prepare_dataset
from image2point.datasets.recipe import Recipe
from image2point.datasets.splits import Splits
from image2point.datasets.synthetic import SyntheticShapes
from image2point.datasets.transforms import PAPER
from image2point.training.batches import Batch, batches, shuffled
from image2point.voxels import VoxelTensor

CLASSES = ("cylinder", "box", "cone", "pyramid", "ellipsoid", "torus", "hourglass", "bowl", "table", "chair")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--clouds", type=int, default=1_000_000)
    parser.add_argument("--points", type=int, default=64)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--encoding", default="int16")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not (arguments.out / "prepared.json").exists():
        _prepare(arguments)
    train = registry.load_dataset("prepared", arguments.out).train
    size = sum(path.stat().st_size for path in arguments.out.rglob("*") if path.is_file())
    print(f"{len(train):,} clouds in {len(train.shards)} shards, {size:,} bytes")  # type: ignore[attr-defined]

    recipe = Recipe(voxel_size=0.1, augmentation=PAPER)
    plan = shuffled(len(train), arguments.batch, seed=0, epoch=1)
    middle, seen, hashes = len(plan) // 2, 0, []
    with Memory() as memory:
        start = time.perf_counter()
        for step, batch in enumerate(batches(train, plan, recipe, 1, arguments.workers)):
            seen += len(batch.targets)
            if step >= middle:
                hashes.append(_hash(batch))
        seconds = time.perf_counter() - start
    print(f"{seen:,} clouds in {seconds:.1f} s: {seen / seconds:,.0f} clouds/s with {arguments.workers} workers")
    print(f"peak memory: own {memory.own / 2**20:,.0f} MB, mapped {memory.mapped / 2**20:,.0f} MB")

    again = [_hash(batch) for batch in batches(train, plan[middle:], recipe, 1, arguments.workers)]
    verdict = "the same" if again == hashes else "NOT the same"
    print(f"resumed at step {middle} of {len(plan)}: {verdict} {len(hashes)} batches")
    shares = [[np.array_split(indices, 2)[rank] for indices in plan[:20]] for rank in range(2)]
    halves = [list(batches(train, share, recipe, 1)) for share in shares]
    together = [np.concatenate([one.indices, two.indices]) for one, two in zip(*halves, strict=True)]
    same = all(np.array_equal(both, indices) for both, indices in zip(together, plan, strict=False))
    print(f"two processes together: {'the same' if same else 'NOT the same'} clouds in every batch")
    return 0 if again == hashes and same and seen == len(train) else 1


def _prepare(arguments: argparse.Namespace) -> None:
    per_class = -(-arguments.clouds // len(CLASSES))
    train = SyntheticShapes("train", per_class, arguments.points, classes=CLASSES)
    test = SyntheticShapes("test", 10, arguments.points, classes=CLASSES)
    with Memory() as memory:
        start = time.perf_counter()
        summary = prepare_dataset(
            Splits(train, None, test), arguments.out, "synthetic", encoding=arguments.encoding,
            workers=arguments.workers,
        )  # fmt: skip
        seconds = time.perf_counter() - start
    print(
        f"prepared {summary.clouds['train']:,} clouds in {seconds:.0f} s, peak memory {memory.own / 2**20:,.0f} MB, "
        f"largest error {summary.largest_error:.2g}"
    )


def _hash(batch: Batch) -> str:
    voxels = batch.voxels
    assert isinstance(voxels, VoxelTensor)
    parts = (voxels.features, voxels.coordinates, batch.targets, batch.indices)
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()


class Memory:
    """Watches this process and its children: peaks of their own memory and of the file pages they map, in bytes."""

    own = mapped = 0

    def __enter__(self) -> Memory:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            totals = {"RssAnon": 0, "RssShmem": 0, "RssFile": 0}
            for process in [os.getpid(), *_children(os.getpid())]:
                try:
                    for line in Path(f"/proc/{process}/status").read_text().splitlines():
                        name, _, value = line.partition(":")
                        if name in totals:
                            totals[name] += int(value.split()[0]) * 1024
                except OSError:
                    pass  # it has ended
            self.own = max(self.own, totals["RssAnon"] + totals["RssShmem"])
            self.mapped = max(self.mapped, totals["RssFile"])
            if self._stop.wait(0.2):
                return


def _children(process: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        try:
            direct = [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
        found += [grandchild for child in direct for grandchild in [child, *_children(child)]]
    return found


if __name__ == "__main__":
    sys.exit(main())
