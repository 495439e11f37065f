"""CIFAR-10 from its binary files.

Krizhevsky, "Learning multiple layers of features from tiny images", 2009: 50,000 training and 10,000 test images of
32×32 pixels in ten classes. A record is one byte of label and 3,072 of pixels: red, green, blue, each row by row.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from image2point.datasets.images import StoredImages
from image2point.datasets.listed import existing_folder, read_list
from image2point.errors import InputError
from image2point.storage import fetched

RECORD = 1 + 3 * 32 * 32
FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
NAMES = "batches.meta.txt"
LAYOUT = (
    f"the folder cifar-10-batches-bin with {NAMES}, data_batch_1.bin … data_batch_5.bin and test_batch.bin "
    "(the binary version of CIFAR-10)"
)


def load_cifar10(root: str | Path) -> tuple[StoredImages, StoredImages]:
    """Read the train and the test set of the folder of binary files.

    Raises InputError, naming the file, for what is missing or damaged, and for labels outside the class list.
    """
    root = existing_folder(fetched(root), "CIFAR-10", LAYOUT)
    names = " ".join(read_list(root, NAMES, LAYOUT)).split()
    if len(names) < 2 or len(set(names)) != len(names):
        raise InputError(f"{root / NAMES} should list at least two different classes, found {', '.join(names)}")
    train, test = (_read(root, split, tuple(names)) for split in ("train", "test"))
    return train, test


def _read(root: Path, split: str, names: tuple[str, ...]) -> StoredImages:
    records = np.concatenate([_records(root / name, len(names)) for name in FILES[split]])
    pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return StoredImages(f"cifar10/{split}", names, np.ascontiguousarray(pixels), records[:, 0].astype(np.int64))


def _records(path: Path, classes: int) -> np.ndarray:
    """uint8 [n, 3073]."""
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): expected {LAYOUT}") from None
    if not len(content) or len(content) % RECORD:
        raise InputError(
            f"{path} has {len(content):,} bytes, expected a multiple of {RECORD:,} (one record per image); get it again"
        )
    records = content.reshape(-1, RECORD)
    outside = np.flatnonzero(records[:, 0] >= classes)
    if len(outside):
        row = int(outside[0])
        raise InputError(f"{path}: label {records[row, 0]} in record {row}, but there are {classes} classes")
    return records
