"""Clouds that lie in one file each, read when they are asked for."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from image2point.datasets.catalogue import Options
from image2point.datasets.cloud import Cloud
from image2point.datasets.validate import check_cloud
from image2point.errors import InputError

LONGEST_LIST = 64 * 2**20
"""Bytes of the longest text list that is read; the real ones are below 5 MB."""


class FileClouds:
    """A `CloudSet` of one file a cloud: paths [n], labels int64 [n], and how one file is read."""

    def __init__(
        self,
        name: str,
        classes: tuple[str, ...],
        paths: Sequence[Path],
        labels: np.ndarray,
        read: Callable[[Path], Cloud],
    ) -> None:
        if not paths:
            raise InputError(f"{name}: no clouds were found")
        self.name, self.classes, self.paths = name, classes, tuple(paths)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.read = read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Cloud:
        return check_cloud(self.read(self.paths[index]), str(self.paths[index]))

    def origin(self, index: int) -> str:
        return str(self.paths[index])


def file_seed(path: Path, seed: int, depth: int = 3) -> int:
    """The seed of one file's sampling: from `seed` and the last `depth` parts of its path, nothing else."""
    name = "/".join(path.parts[-depth:])
    return zlib.crc32(f"{seed} {name}".encode())


def numbered(path: Path) -> tuple[tuple[int, object], ...]:
    """A sorting key that puts train2 before train10."""
    parts = re.split(r"(\d+)", path.name)
    return tuple((1, int(part)) if part.isdigit() else (0, part) for part in parts)


def folder(root: Path, what: str, layout: str) -> Path:
    """`root`, if it is a folder."""
    if not root.is_dir():
        problem = " (a file)" if root.exists() else ""
        raise InputError(f"no {what} data at {root}{problem}: expected {layout}")
    return root


def lines(root: Path, name: str, layout: str) -> list[str]:
    """The lines of a list file that hold anything; InputError where it is missing, unreadable or empty."""
    path = root / name
    try:
        if path.stat().st_size > LONGEST_LIST:
            raise InputError(f"{path}: a list of {path.stat().st_size} bytes; expected at most {LONGEST_LIST}")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{name} is missing in {root}: expected {layout}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise InputError(f"{path} is empty: expected {layout}")
    return found


def json_list(path: Path, entries: str) -> list[str]:
    """A JSON file that holds a list of texts; `entries` says of what, in errors."""
    try:
        if path.stat().st_size > LONGEST_LIST:
            raise InputError(f"{path}: a list of {path.stat().st_size} bytes; expected at most {LONGEST_LIST}")
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: expected a JSON list of {entries}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(found, list) or not all(isinstance(entry, str) for entry in found):
        raise InputError(f"{path}: expected a JSON list of {entries}")
    return found


def present(paths: Sequence[Path], labels: Sequence[int], listed_in: str, options: Options) -> list[int]:
    """The rows whose file is there, and not there twice; the others are refused, by name."""
    kept, seen = [], set()
    for row, (path, _) in enumerate(zip(paths, labels, strict=True)):
        if path in seen:
            options.refuse(f"{path} is listed twice in {listed_in}, again in row {row}")
        elif not path.is_file():
            options.refuse(f"{path}, listed in {listed_in} row {row}, does not exist")
        else:
            kept.append(row)
        seen.add(path)
    return kept


def disjoint(train: Sequence[Path], test: Sequence[Path], where: str) -> None:
    """Refuse a file that is in two splits."""
    shared = sorted(set(train) & set(test))
    if shared:
        raise InputError(f"{where}: {shared[0]} is in two splits ({len(shared)} such files)")
