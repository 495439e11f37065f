"""Data sets of one file per cloud, read on demand, and the folders and lists that name the files."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from image2point.datasets.catalogue import Options
from image2point.datasets.cloud import Cloud
from image2point.datasets.text import read_text
from image2point.datasets.validate import check_cloud
from image2point.errors import InputError, one_line
from image2point.files import looked_for

LONGEST_LIST = 64 * 2**20
"""Bytes of the longest text list that is read; the real ones are below 5 MB."""


class FileClouds:
    """A `CloudSet` of one file per cloud: paths [n], labels int64 [n], and a function that reads one file."""

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
    """The seed of one file's sampling: from `seed` and the last `depth` parts of its path, nothing else.

    >>> file_seed(Path("/a/chair/train/1.off"), 0) == file_seed(Path("/b/chair/train/1.off"), 0)
    True
    """
    name = "/".join(path.parts[-depth:])
    return zlib.crc32(f"{seed} {name}".encode())


def by_number(path: Path) -> tuple[tuple[int, object], ...]:
    """A sorting key that puts train2 before train10.

    >>> [path.name for path in sorted([Path("train10.h5"), Path("train2.h5")], key=by_number)]
    ['train2.h5', 'train10.h5']
    """
    parts = re.split(r"(\d+)", path.name)
    return tuple((1, int(part)) if part.isdigit() else (0, part) for part in parts)


LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "$recycle.bin", "@eadir", "lost+found"}
"""What file managers, archivers and disks leave in folders, in lower case, besides names that begin with a dot."""


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name was left by the system, not by a user; readers skip such files.

    >>> [is_litter(name) for name in (".DS_Store", "._chair.off", "Thumbs.db", "chair.off")]
    [True, True, True, False]
    """
    return name.startswith(".") or name.lower() in LITTER


def entries_of(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without litter.

    Raises InputError for names that are no text: with control characters, they could steer the terminals and tables
    that they are printed in.
    """
    entries = sorted(path for path in folder.iterdir() if not is_litter(path.name))
    odd = [path for path in entries if not path.name.isprintable()]
    if odd:
        raise InputError(f"{folder}: the name {odd[0].name!r} holds characters that cannot be printed; rename it")
    return entries


def existing_folder(root: Path, what: str, layout: str) -> Path:
    """`root`, if it is a folder; InputError, with what a folder of `what` holds, otherwise."""
    if not root.is_dir():
        problem = ", which is a file" if root.exists() else looked_for(root)
        raise InputError(f"no {what} data at {root}{problem}: expected {layout}")
    return root


def read_list(root: Path, name: str, layout: str) -> list[str]:
    """The non-empty lines of a list file; InputError if it is missing, unreadable or empty."""
    path = root / name
    try:
        text = read_text(path, LONGEST_LIST)
    except FileNotFoundError:
        raise InputError(f"{name} is missing in {root}: expected {layout}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    entries = [line.strip() for line in text.splitlines() if line.strip()]
    if not entries:
        raise InputError(f"{path} is empty: expected {layout}")
    return entries


def read_json(path: Path, largest: int = LONGEST_LIST) -> Any:
    """What a JSON file of at most `largest` bytes holds.

    Raises InputError for larger files and what is no JSON, FileNotFoundError where there is none.
    """
    try:
        return json.loads(read_text(path, largest))
    except (FileNotFoundError, InputError):
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON: {one_line(error)}") from None


def read_json_list(path: Path, entries: str) -> list[str]:
    """A JSON file that holds a list of texts; `entries` says of what, in errors."""
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: expected a JSON list of {entries}") from None
    if not isinstance(content, list) or not all(isinstance(entry, str) for entry in content):
        raise InputError(f"{path}: expected a JSON list of {entries}")
    return content


def existing_rows(paths: Sequence[Path], labels: Sequence[int], listed_in: str, options: Options) -> list[int]:
    """The rows whose file exists and is listed once; the others are refused, by name."""
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


def check_disjoint(train: Sequence[Path], test: Sequence[Path], where: str) -> None:
    """Refuse a file that is in two splits."""
    shared = sorted(set(train) & set(test))
    if shared:
        raise InputError(f"{where}: {shared[0]} is in two splits ({len(shared)} such files)")
