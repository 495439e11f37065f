"""The prepared form of a dataset: memory-mapped shards that load at once, however many clouds they hold.

A folder:

    prepared.json                what it is: format, version, classes, splits, shards, sizes, sha256, largest error
    train/labels.npy             int64 [n]
    train/starts.npy             int64 [n + 1]: cloud i has the points starts[i] .. starts[i + 1] - 1 of its split
    train/00000.points.npy       float32 [P, 3], or int16 [P, 3] with ...
    train/00000.grid.npy         float32 [clouds of the shard, 4]: x, y, z and step; a coordinate is q · step + offset
    train/00000.normals.npy      float32 [P, 3], or int16 [P, 3] in units of 1/32767
    train/00000.colours.npy      uint8 [P, 3] in units of 1/255, or float32 [P, 3]
    train/00000.labels.npy       labels of points, the smallest integer type that holds them [P]
    train/00000.attributes.NAME.npy   float32 [P]
    train/00000.origin.npy       float64 [clouds of the shard, 3], where one is not 0
    test/ ..., validation/ ...   likewise

Every array is an ordinary .npy file. With the encoding "exact" a shard is int16 where that gives every coordinate back
(steps are powers of two, so coordinates that were rounded to a binary grid survive; -0 becomes 0), and float32
otherwise. With "int16" all are; `prepared.json` then states the largest error that was made, at most one 65535th of a
cloud's longest side per coordinate.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from image2point.datasets.arrays import DAMAGE
from image2point.datasets.catalogue import Dataset, Options
from image2point.datasets.cloud import ATTRIBUTES, Cloud, cloud_of
from image2point.datasets.listed import existing_folder, read_json
from image2point.datasets.splits import Splits
from image2point.datasets.text import read_text
from image2point.errors import InputError
from image2point.storage import Folder, opened

FORMAT, VERSION = "image2point prepared clouds", 2
READABLE = (1, VERSION)
"""Version 1 had no attributes and no origin, and called the labels of points `parts`."""
INDEX = "prepared.json"
SPLITS = ("train", "validation", "test")
LARGEST_INDEX = 256 * 2**20
"""Bytes of the largest prepared.json that is read."""

LAYOUT = f"a folder with {INDEX} and the shards that it lists, written by `image2point data prepare`"

NORMAL_STEPS = 32767
KINDS = {
    "points": ("<f4", "<i2"),
    "normals": ("<f4", "<i2"),
    "colours": ("<f4", "|u1"),
    "labels": None,
    "attributes": ("<f4",),
    "grid": ("<f4",),
    "origin": ("<f8",),
}
"""The types that the arrays of a field may have; labels may have any integer type."""
PER_CLOUD = {"grid": 4, "origin": 3}
"""Fields with one row for each cloud, and the numbers in it."""


@dataclass(frozen=True)
class Stored:
    """A file as the index lists it: its name in the folder, its bytes and their sha256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Shard:
    """Clouds first .. first + clouds - 1 of a split, and the file of each field."""

    first: int
    clouds: int
    points: int
    files: dict[str, Stored]

    def open(self, folder: Folder, field: str) -> np.ndarray:
        """The array of a field, mapped; InputError where it is not what the index says."""
        file = self.files[field]
        path = folder.get(file.name, file.size, file.sha256)
        array = _array(path)
        kind = _kind(field)
        rows = self.clouds if kind in PER_CLOUD else self.points
        shape = (rows,) if kind in ("labels", "attributes") else (rows, PER_CLOUD.get(kind, 3))
        kinds = KINDS[kind]
        known = array.dtype.kind in "iu" if kinds is None else array.dtype.str in kinds
        if array.shape != shape or not known:
            raise InputError(f"{path}: expected {field} {shape}, found {array.dtype} {array.shape}")
        if field == "points" and (array.dtype.kind == "i") != ("grid" in self.files):
            raise InputError(f"{path}: int16 points and a grid belong together")
        return array


class PreparedClouds:
    """A `CloudSet` over the shards of one split. Memory: 16 bytes a cloud, and pages that the system may take back."""

    def __init__(
        self,
        name: str,
        classes: tuple[str, ...],
        folder: Folder,
        split: str,
        shards: tuple[Shard, ...],
        of_points: bool = False,
        parts_of: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        self.name, self.classes, self.folder, self.shards = name, classes, folder, shards
        self.root = root = folder.home / split
        self.of_points, self.parts_of = of_points, parts_of
        self.labels = np.array(_array(root / "labels.npy"), dtype=np.int64)
        self._starts = np.array(_array(root / "starts.npy"), dtype=np.int64)
        self._firsts = [shard.first for shard in shards]
        self._open: dict[int, dict[str, np.ndarray]] = {}
        count = sum(shard.clouds for shard in shards)
        total = sum(shard.points for shard in shards)
        if self.labels.shape != (count,) or self._starts.shape != (count + 1,):
            raise InputError(
                f"{root}: {INDEX} has {count} clouds, labels.npy {self.labels.shape}, starts.npy {self._starts.shape}"
            )
        most = len(parts_of or classes)
        if count and not (self.labels.min() >= 0 and self.labels.max() < most):
            row = int(np.flatnonzero((self.labels < 0) | (self.labels >= most))[0])
            raise InputError(f"{root / 'labels.npy'} row {row}: expected 0..{most - 1}, found {self.labels[row]}")
        if self._starts[0] != 0 or self._starts[-1] != total or (np.diff(self._starts) < 1).any():
            raise InputError(f"{root / 'starts.npy'}: expected to rise from 0 to {total} by at least 1")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Cloud:
        if not 0 <= index < len(self):
            raise IndexError(f"cloud {index} of {len(self)}")
        number = bisect_right(self._firsts, index) - 1
        shard, arrays = self.shards[number], self._arrays(number)
        start = self._starts[shard.first]
        rows = slice(self._starts[index] - start, self._starts[index + 1] - start)
        grid, origin = (
            np.array(arrays[name][index - shard.first]) if name in arrays else None for name in ("grid", "origin")
        )
        columns = {name: decode(name, array[rows], grid) for name, array in arrays.items() if name not in PER_CLOUD}
        cloud = cloud_of(columns, np.zeros(3) if origin is None else origin)
        if self.of_points and (
            cloud.labels is None or not -1 <= cloud.labels.min() <= cloud.labels.max() < len(self.classes)
        ):
            raise InputError(f"{self.origin(index)}: expected labels of points -1..{len(self.classes) - 1}")
        return cloud

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": {}}  # a process opens its own maps

    @cached_property
    def _origins(self) -> list[str]:
        path = self.root / "origins.txt"
        return read_text(path).split("\n") if path.is_file() else []

    def origin(self, index: int) -> str:
        where = f"{self.root} cloud {index}"
        return f"{where} ({self._origins[index]})" if index < len(self._origins) else where

    def _arrays(self, number: int) -> dict[str, np.ndarray]:
        if number not in self._open:
            shard = self.shards[number]
            self._open[number] = {field: shard.open(self.folder, field) for field in shard.files}
        return self._open[number]


def decode(field: str, stored: np.ndarray, grid: np.ndarray | None) -> np.ndarray:
    """The values of one cloud, as `Cloud` has them, from what a shard holds; a new array. grid: float32 [4].

    >>> decode("colours", np.array([[255, 0, 51]], dtype=np.uint8), None)
    array([[1. , 0. , 0.2]], dtype=float32)
    """
    if field == "labels":
        return stored.astype(np.int64)
    values = stored.astype(np.float32)
    if field == "points" and grid is not None:
        values *= grid[3]
        if grid[0] or grid[1] or grid[2]:
            values += grid[:3]
    elif field == "normals" and stored.dtype.kind == "i":
        values /= np.float32(NORMAL_STEPS)
    elif field == "colours" and stored.dtype.kind == "u":
        values /= np.float32(255)
    return values


def load_prepared(root: str | Path, options: Options) -> Splits:
    """The splits of a prepared folder, opened and not read. The files must have the sizes that prepared.json gives;
    `image2point data verify prepared ROOT` compares their contents too. At a URL, a shard comes when a cloud of it is
    first read, and its content is compared then.

    Raises InputError for what is no prepared folder, another version, missing files and files of another size.
    """
    if (options.variant, options.points, options.normalise) != (None, None, None):
        raise InputError(
            f"{root}: prepared data are read as they are; variant, points and normalise are for preparing them"
        )
    folder = opened(root, INDEX)
    index = read_index(folder.home)
    sets = {
        split: PreparedClouds(
            f"{index['dataset']}/{split}",
            tuple(index["classes"]),
            folder,
            split,
            shards,
            index.get("of_points", False),
            tuple(map(tuple, index.get("parts_of", ()))),
        )
        for split, shards in shards_of(folder, index).items()
    }
    for split in ("train", "test"):
        if split not in sets:
            raise InputError(f"{folder.home / INDEX} has no split {split}: expected {LAYOUT}")
    return Splits(sets["train"], sets.get("validation"), sets["test"])


def read_index(root: Path) -> dict[str, Any]:
    """prepared.json, of a format and version that can be read."""
    path = root / INDEX
    if not path.is_file():
        existing_folder(root, "prepared", LAYOUT)
        raise InputError(f"no prepared data at {root}, {INDEX} is missing: expected {LAYOUT}")
    index = read_json(path, LARGEST_INDEX)
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise InputError(f"{path} is not the index of prepared data")
    if index.get("version") not in READABLE:
        expected = " or ".join(map(str, READABLE))
        raise InputError(f"{path} has version {index.get('version')!r}, expected {expected}; prepare the data again")
    good = (
        isinstance(index.get("dataset"), str)
        and isinstance(index.get("classes"), list)
        and all(isinstance(name, str) for name in index["classes"])
        and isinstance(index.get("splits"), dict)
        and isinstance(index.get("of_points", False), bool)
        and isinstance(index.get("parts_of", []), list)
        and all(isinstance(parts, list) for parts in index.get("parts_of", []))
    )
    if not good:
        raise InputError(f"{path} is damaged: dataset, classes or splits are missing or no longer what they were")
    return index


def shards_of(folder: Folder, index: dict[str, Any]) -> dict[str, tuple[Shard, ...]]:
    """The shards of every split, whose files are there in the sizes that the index gives, or come when asked for."""
    found, root = {}, folder.home
    for split, entry in index["splits"].items():
        if split not in SPLITS:
            raise InputError(f"{root / INDEX}: unknown split {split!r}")
        try:
            of_split = [_stored(root, file) for file in entry["files"]]
            found[split] = tuple(
                Shard(
                    int(shard["first"]),
                    int(shard["clouds"]),
                    int(shard["points"]),
                    {_field(file["field"]): _stored(root, file) for file in shard["files"]},
                )
                for shard in entry["shards"]
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{root / INDEX} is damaged at split {split}: {type(error).__name__} {error}") from None
        for file in of_split:
            _check_size(folder.get(file.name, file.size, file.sha256), file.size)
        expected = 0
        for number, shard in enumerate(found[split]):
            if (
                shard.first != expected
                or shard.clouds < 1
                or not {"points"} <= {_kind(f) for f in shard.files} <= set(KINDS)
            ):
                raise InputError(f"{root / INDEX} is damaged at shard {number} of {split}")
            expected += shard.clouds
            if folder.url is None:
                for field, file in shard.files.items():
                    _check_size(root / file.name, file.size)
                    shard.open(folder, field)
    return found


def _field(name: str) -> str:
    return "labels" if name == "parts" else name


def _kind(field: str) -> str:
    """The field without the name of the attribute."""
    return "attributes" if field.startswith(ATTRIBUTES) else field


def _stored(root: Path, file: dict[str, Any]) -> Stored:
    name = str(file["path"])
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{root / INDEX} names a file outside its folder: {name}")
    return Stored(name, int(file["bytes"]), str(file["sha256"]))


def _check_size(path: Path, size: int) -> None:
    if not path.is_file():
        raise InputError(f"{path}, listed in {INDEX}, is missing")
    if (found := path.stat().st_size) != size:
        raise InputError(f"{path} has {found} bytes, expected {size} (truncated?); prepare it again")


def _array(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, *DAMAGE) as error:
        raise InputError(f"{path} is not a readable .npy array: {error}") from None


DATASET = Dataset(
    name="prepared",
    title="the output of `image2point data prepare`",
    load=load_prepared,
    layout=LAYOUT,
    splits="those of the dataset that was prepared",
    classes="those of the dataset that was prepared",
    axes="those of the dataset that was prepared",
    normalisation="done when the data were prepared",
    terms="those of the dataset that was prepared",
    citation="",
    streams=True,
)
