"""Any dataset → the prepared form, see `prepared.py`."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from image2point.datasets.cloud import Cloud
from image2point.datasets.prepared import FORMAT, INDEX, NORMAL_STEPS, VERSION, decode
from image2point.datasets.splits import CloudSet, Splits, origin
from image2point.datasets.validate import check_cloud
from image2point.errors import InputError, printable
from image2point.files import remove, temporary, user_path
from image2point.objects import url_of
from image2point.storage import uploading
from image2point.units import in_units

ENCODINGS = ("exact", "int16")
SHARD_BYTES = 64 * 2**20
"""Float32 coordinates that make up a shard: all that is held in memory while preparing."""
CHUNK = 16
"""Clouds that a worker reads at a time, unless the set has a `chunk` of its own: scenes are large."""


@dataclass
class Summary:
    """What `prepare_dataset` wrote. largest_error: of any coordinate; skipped: rows that were left out, and why."""

    clouds: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    largest_error: float = 0.0
    skipped: list[str] = field(default_factory=list)


def prepare_dataset(
    splits: Splits,
    out: str | Path,
    dataset: str,
    settings: dict[str, Any] | None = None,
    encoding: str = "exact",
    skip: bool = False,
    workers: int = 0,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda _: None,
    executor: str = "local",
) -> Summary:
    """Write `splits` to the folder or URL `out`, which appears when all of it is written.

    settings: what the dataset was read with, kept in the index. encoding: "exact" or "int16". skip: skip the
    clouds that cannot be read and list them, instead of stopping at the first. workers: processes that read;
    executor: which, `local` or `ray` (`image2point.units`). progress: called with the number of clouds after each few.

    Raises InputError for a bad cloud (unless skipped), a split of which nothing is left, and an `out` that exists.
    """
    if encoding not in ENCODINGS:
        raise InputError(f"encoding must be one of {', '.join(ENCODINGS)}, found {encoding!r}")
    with _folder(out, overwrite) as place:
        summary = Summary()
        index: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "dataset": dataset,
            "settings": settings or {},
            "classes": list(splits.train.classes),
            "of_points": bool(getattr(splits.train, "of_points", False)),
            "parts_of": [list(parts) for parts in getattr(splits.train, "parts_of", ())],
            "encoding": encoding,
            "splits": {},
        }
        for name, clouds in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
            if clouds is not None:
                writer = _Writer(place, name, encoding, shard_bytes)
                for cloud, label, where, problem in read_all(clouds, workers, executor):
                    if cloud is None:
                        if not skip:
                            raise InputError(problem)
                        summary.skipped.append(problem)
                    else:
                        writer.add(cloud, label, where)
                    progress(1)
                index["splits"][name] = writer.close(f"{clouds.name}")
                summary.clouds[name] = writer.clouds
                summary.largest_error = max(summary.largest_error, writer.largest_error)
        index |= {"largest_error": summary.largest_error, "skipped": summary.skipped}
        (place / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        summary.bytes = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    return summary


@contextmanager
def _folder(out: str | Path, overwrite: bool) -> Iterator[Path]:
    """An empty folder that becomes `out`, a folder or a URL, when the block succeeds."""
    if url := url_of(out):
        with uploading(url, INDEX, overwrite) as place:
            yield place
        return
    out = user_path(out)
    if out.exists() and not (overwrite and (out / INDEX).is_file()):
        kind = "already, and holds no prepared data" if overwrite else "already; choose another or ask to overwrite it"
        raise InputError(f"{out} exists {kind}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary(out, folder=True) as place:
        place.chmod(0o755)
        yield place
        old = out.with_name(f".{out.name}.old.part")  # which the next call removes, should this one be killed
        if out.exists():
            out.rename(old)
        place.rename(out)
        remove(old)


def read_all(
    clouds: CloudSet, workers: int = 0, executor: str = "local"
) -> Iterator[tuple[Cloud | None, int, str, str]]:
    """Every cloud in order: (cloud, label, where it is from, ""), or (None, label, where, what is wrong).

    With `workers`, that many processes read, at most a few chunks ahead of what is taken (`units.in_units`, which
    `executor` is told to). One that is killed costs the chunks that it read.
    """
    labels = clouds.labels
    size = getattr(clouds, "chunk", CHUNK)
    chunks = [range(start, min(start + size, len(clouds))) for start in range(0, len(clouds), size)]
    read = in_units(partial(_chunk_reader, clouds), chunks, workers, executor)
    for indices, found in zip(chunks, read, strict=True):
        for index, (cloud, problem) in zip(indices, found, strict=True):
            yield cloud, int(labels[index]), origin(clouds, index), problem


def _chunk_reader(clouds: CloudSet) -> Callable[[range], list[tuple[Cloud | None, str]]]:
    return partial(_read_chunk, clouds)


def _read_chunk(clouds: CloudSet, indices: range) -> list[tuple[Cloud | None, str]]:
    found: list[tuple[Cloud | None, str]] = []
    for index in indices:
        try:
            found.append((check_cloud(clouds[index], origin(clouds, index)), ""))
        except InputError as error:
            found.append((None, str(error)))
    return found


class _Writer:
    """Writes one split: collects clouds until they fill a shard, writes it, and starts the next."""

    def __init__(self, root: Path, split: str, encoding: str, shard_bytes: int) -> None:
        self.root, self.split, self.encoding, self.shard_bytes = root, split, encoding, shard_bytes
        self.clouds, self.largest_error = 0, 0.0
        self._labels, self._sizes, self._origins = array("q"), array("q"), (root / split / "origins.txt")
        self._waiting: list[Cloud] = []
        self._waiting_points = 0
        self._shards: list[dict[str, Any]] = []
        self._has: tuple[str, ...] | None = None
        (root / split).mkdir()
        self._names = self._origins.open("w", encoding="utf-8", newline="\n")

    def add(self, cloud: Cloud, label: int, where: str) -> None:
        has = tuple(cloud.columns())
        if self._has not in (None, has):
            raise InputError(
                f"{where}: has {', '.join(has)} but the clouds before it in {self.split} have "
                f"{', '.join(self._has or ())}; all clouds of a split must have the same"
            )
        self._has = has
        self._names.write(printable(where) + "\n")
        self._labels.append(label)
        self._sizes.append(len(cloud))
        self._waiting.append(cloud)
        self._waiting_points += len(cloud)
        self.clouds += 1
        if 12 * self._waiting_points >= self.shard_bytes:
            self._flush()

    def close(self, name: str) -> dict[str, Any]:
        """Write what is left; the split's entry in the index."""
        self._names.close()
        if not self.clouds:
            raise InputError(f"{name}: no cloud is left to prepare")
        self._flush()
        starts = np.zeros(self.clouds + 1, dtype=np.int64)
        np.cumsum(np.frombuffer(self._sizes, dtype=np.int64), out=starts[1:])
        labels = np.frombuffer(self._labels, dtype=np.int64)
        files = [self._save("labels", labels), self._save("starts", starts), self._entry(self._origins)]
        counts = np.bincount(labels).tolist()
        return {"clouds": self.clouds, "per_class": counts, "files": files, "shards": self._shards}

    def _flush(self) -> None:
        if not self._waiting:
            return
        number = f"{len(self._shards):05d}"
        clouds, count = self._waiting, len(self._waiting)
        arrays = self._points(clouds)
        columns = [cloud.columns() for cloud in clouds]
        for name in self._has or ():
            if name != "points":
                arrays[name] = _encode(name, np.concatenate([each[name] for each in columns]), self.encoding)
        origins = np.stack([cloud.origin for cloud in clouds])
        if origins.any():
            arrays["origin"] = origins
        saved = [{"field": name, **self._save(f"{number}.{name}", values)} for name, values in arrays.items()]
        entry = {"first": self.clouds - count, "clouds": count, "points": self._waiting_points, "files": saved}
        self._shards.append(entry)
        self._waiting, self._waiting_points = [], 0

    def _points(self, clouds: list[Cloud]) -> dict[str, np.ndarray]:
        """The points of a shard, int16 with a grid where that is exact or was asked for."""
        grids = np.empty((len(clouds), 4), dtype=np.float32)
        stored: list[np.ndarray] = []
        worst = 0.0
        for number, cloud in enumerate(clouds):
            values, grids[number] = to_grid(cloud.points)
            error = float(np.abs(decode("points", values, grids[number]).astype(np.float64) - cloud.points).max())
            if error and self.encoding == "exact":
                return {"points": np.concatenate([each.points for each in clouds])}
            worst = max(worst, error)
            stored.append(values)
        self.largest_error = max(self.largest_error, worst)
        return {"points": np.concatenate(stored), "grid": grids}

    def _save(self, name: str, values: np.ndarray) -> dict[str, Any]:
        path = self.root / self.split / f"{name}.npy"
        np.save(path, np.ascontiguousarray(values))
        return self._entry(path)

    def _entry(self, path: Path) -> dict[str, Any]:
        return {"path": str(path.relative_to(self.root)), "bytes": path.stat().st_size, "sha256": file_hash(path)}


def to_grid(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int16 [P, 3] and float32 [4] (x, y, z, step) of points float32 [P, 3], whose coordinates are q · step + offset.

    The step is the smallest power of two with which the longest side fits into 65,532 steps, the offset a multiple of
    it; or, where that is exact, the offset is 0 (such clouds load faster). So coordinates that are multiples of the
    step come back as they were; the others move by at most half a step.

    >>> steps, grid = to_grid(np.array([[0.5, 0, 0], [1.0, 0, 0]], dtype=np.float32))
    >>> (steps * grid[3]).tolist()
    [[0.5, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    reach = float(np.abs(points).max())
    if reach > 0:
        step = 2.0 ** min(max(int(np.ceil(np.log2(reach / 32767))), -126), 127)
        steps = points.astype(np.float64) / step
        if (steps == np.round(steps)).all():
            return steps.astype(np.int16), np.array([0, 0, 0, step], dtype=np.float32)
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    side = float((high - low).max())
    if side == 0:
        return np.zeros(points.shape, dtype=np.int16), np.append(points[0], np.float32(1))
    step = 2.0 ** min(max(int(np.ceil(np.log2(side / 65532))), -126), 127)
    offset = (np.round((low + high) / 2 / step) * step).astype(np.float32)
    steps = np.round((points.astype(np.float64) - offset.astype(np.float64)) / step)
    # Far from the origin the offset itself is rounded, by more than a step: the error is measured, not assumed.
    return np.clip(steps, -32768, 32767).astype(np.int16), np.append(offset, np.float32(step))


def _encode(name: str, values: np.ndarray, encoding: str) -> np.ndarray:
    """Normals, colours, labels or attributes [P, ...] of a shard as they are stored."""
    if name == "labels":
        kinds = (np.uint8, np.int8, np.uint16, np.int16, np.int32, np.int64)
        low, high = int(values.min()), int(values.max())
        return values.astype(next(k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max))
    if name == "normals" and encoding == "int16":
        return np.round(values.astype(np.float64) * NORMAL_STEPS).astype(np.int16)
    if name == "colours":
        eighth = np.round(values * np.float32(255)).astype(np.uint8)
        if encoding == "int16" or np.array_equal(decode("colours", eighth, None), values):
            return eighth
    return values


def file_hash(path: Path) -> str:
    """sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
        return digest.hexdigest()
