"""How fast clouds come from the h5 folder of ModelNet and from its prepared form, each in shuffled order.

    python scripts/benchmark_data.py data/modelnet40_ply_hdf5_2048 data/modelnet40 [--repeat 3]

Opening counts: a pass is what one waits for from nothing to the last cloud, with the files in the system's cache. The
h5 reader reads all into memory when it opens; `h5, row by row` is what data larger than the memory would need, timed on
its first 300 clouds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from image2point.datasets import registry
from image2point.datasets.catalogue import Options
from image2point.datasets.splits import CloudSet

ROWS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("h5", type=Path)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    roots = {"modelnet": arguments.h5, "prepared": arguments.prepared}
    print(f"{'form':16} {'bytes':>13} {'open, s':>9} {'pass, s':>9} {'whole, s':>9} {'clouds/s':>11}")
    whole = {}
    for name, root in roots.items():
        times = [_timed(partial(_load, name, root)) for _ in range(arguments.repeat)]
        opened, passed, count = min(times, key=lambda each: each[0] + each[1])
        seconds = opened + passed
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        whole[name] = seconds
        print(f"{name:16} {size:13,} {opened:9.3f} {passed:9.3f} {seconds:9.3f} {count / seconds:11,.0f}")
    seconds = _row_by_row(arguments.h5)
    print(f"{'h5, row by row':16} {'':13} {'':9} {'':9} {'':9} {ROWS / seconds:11,.0f}")
    print(f"the prepared form is {whole['modelnet'] / whole['prepared']:.1f} times as fast over a whole shuffled pass")


def _timed(load: Callable[[], CloudSet]) -> tuple[float, float, int]:
    """Seconds to open a set, seconds to read all of it in shuffled order, and its size."""
    start = time.perf_counter()
    clouds = load()
    opened = time.perf_counter()
    total = 0.0
    for index in np.random.default_rng(0).permutation(len(clouds)).tolist():
        total += float(clouds[index].points[0, 0])  # every cloud is really there
    return opened - start, time.perf_counter() - opened, len(clouds)


def _load(name: str, root: Path) -> CloudSet:
    return registry.load_dataset(name, root, Options()).train


def _row_by_row(root: Path) -> float:
    files = [h5py.File(path) for path in sorted(root.glob("*train*.h5"))]
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(ROWS):
        data = files[rng.integers(len(files))]["data"]
        data[rng.integers(len(data))]
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
