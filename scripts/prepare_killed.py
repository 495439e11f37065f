"""Prepare synthetic clouds by one process, and by several of which one is killed; compare what they wrote.

    python scripts/prepare_killed.py OUT --clouds 100000 --workers 2 --executor ray

Prints the sha256 of each index (which has that of every file) and the seconds. Exit code 1 if they differ.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from image2point.datasets.cloud import Cloud
from image2point.datasets.prepare import file_hash, prepare_dataset
from image2point.datasets.splits import Splits
from image2point.datasets.synthetic import SyntheticShapes


class Deadly(SyntheticShapes):
    """The process that is the first to read the cloud in the middle is killed."""

    marker: Path

    def __getitem__(self, index: int) -> Cloud:
        if index == len(self) // 2 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--clouds", type=int, default=100_000)
    parser.add_argument("--points", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executor", default="local")
    arguments = parser.parse_args()
    classes, out = ("box", "cone", "torus", "bowl"), arguments.out.absolute()
    out.mkdir(parents=True)
    train = Deadly("train", -(-arguments.clouds // len(classes)), arguments.points, classes=classes)
    train.marker = out / "killed"
    test = SyntheticShapes("test", 1, arguments.points, classes=classes)
    hashes = []
    for name, workers in (("several", arguments.workers), ("one", 0)):
        start = time.perf_counter()
        splits = Splits(train, None, test)
        prepare_dataset(splits, out / name, "synthetic", workers=workers, executor=arguments.executor)
        hashes.append(file_hash(out / name / "prepared.json"))
        how = f"{workers} processes ({arguments.executor}), one killed" if workers else "this process"
        print(f"{len(train):,} clouds, {how}: {time.perf_counter() - start:.1f} s, {hashes[-1]}", flush=True)
    return 0 if hashes[0] == hashes[1] and train.marker.exists() else 1


if __name__ == "__main__":
    sys.exit(main())
