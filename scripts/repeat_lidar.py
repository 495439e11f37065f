"""A large scene made of a small one, and what it costs: a LAS or LAZ file repeated side by side, and labelled.

    python scripts/repeat_lidar.py FILE OUT.laz --points 1000000
    python scripts/repeat_lidar.py FILE OUT.laz --points 20000000 --run RUN [--voxels N]

The copies lie in a square, edge to edge along x and y; all fields are those of the file. With --run the scene is
labelled by a process of its own (`image2point predict RUN OUT.laz --out ...`), and a line says the points, the seconds
per million of wall-clock time and of processor time, and the largest memory that this process had.
"""

from __future__ import annotations

import argparse
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import laspy
import numpy as np

GIB = 2**20  # of getrusage's KiB


def repeat(source: Path, target: Path, points: int, tall: int | None = None) -> int:
    """Write `source` again and again to `target`, until it has at least `points` points; how many it has."""
    scene = laspy.read(source)
    copies = -(-points // len(scene.points))
    wide = tall or math.isqrt(copies - 1) + 1
    steps = [round(float(np.ptp(values)) / scale) + 1 for values, scale in zip(
        (scene.x, scene.y), scene.header.scales, strict=False)]  # fmt: skip
    kind = scene.header.point_format
    with laspy.open(target, "w", header=scene.header) as writer:
        for copy in range(copies):
            again = laspy.ScaleAwarePointRecord(
                scene.points.array.copy(), kind, scene.header.scales, scene.header.offsets
            )
            again["X"] += copy // wide * steps[0]
            again["Y"] += copy % wide * steps[1]
            writer.write_points(again)
    return copies * len(scene.points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--voxels", type=int)
    asked = parser.parse_args()
    count = repeat(asked.file, asked.out, asked.points)
    print(f"{asked.out}: {count:,} points")
    if asked.run is None:
        return
    with tempfile.TemporaryDirectory(dir=asked.out.parent) as folder:
        command = [sys.executable, "-m", "image2point", "predict", str(asked.run), str(asked.out), "--out", folder]
        clock = time.monotonic()
        subprocess.run([*command, *(["--voxels", str(asked.voxels)] if asked.voxels else [])], check=True)
        seconds = time.monotonic() - clock
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        same(asked.out, Path(folder) / asked.out.name)
    busy = used.ru_utime + used.ru_stime
    print(
        f"{count:,} points: {1e6 * seconds / count:.1f} s per million ({1e6 * busy / count:.1f} s of processor time), "
        f"peak memory {used.ru_maxrss / GIB:.2f} GiB"
    )


def same(source: Path, target: Path) -> None:
    """Say that two files have the same points in the same order, and the same bytes in every field but the classes."""
    with laspy.open(source) as old, laspy.open(target) as new:
        for one, other in zip(old.chunk_iterator(1_000_000), new.chunk_iterator(1_000_000), strict=True):
            for name in one.array.dtype.names:
                if name != "classification" and one.array[name].tobytes() != other.array[name].tobytes():
                    raise SystemExit(f"{name} differs")
    print("the same points in the same order, every other field byte for byte")


if __name__ == "__main__":
    main()
