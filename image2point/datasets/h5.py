"""Reads arrays of h5 files, and checks them before it allocates memory for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from image2point.datasets.catalogue import Options
from image2point.errors import InputError, one_line

LARGEST = 8 * 2**30
"""Bytes of the largest array that is read."""
LARGEST_RATIO = 1100
"""Bytes of an array per byte of its file: deflate gives at most 1032, more is an empty promise of the header."""

DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, AttributeError, OverflowError)
"""h5py turns what a damaged header confuses it with into all of these."""

WORDS = {"f": "floating", "i": "integer", "n": "number"}


@dataclass(frozen=True)
class Array:
    """What an array must look like. kind: "f" floating, "i" integer, "n" either; columns: the last axis, if fixed."""

    kind: str
    shape: str
    ndim: tuple[int, ...]
    columns: int | None = None


def read_arrays(
    path: Path, arrays: dict[str, Array], optional: dict[str, Array] | None = None
) -> dict[str, np.ndarray]:
    """The named arrays of a file, of equal length; those of `optional` only where they are there.

    Raises InputError naming the file and what is wrong: no h5 file, damage, missing arrays, wrong shapes or types,
    arrays larger than the file can hold, and arrays whose content lies in another file.
    """
    import h5py

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            checked = {}
            for name, wanted in {**arrays, **(optional or {})}.items():
                if file.id.links.exists(name.encode()):  # `name in file` would open what a link leads to
                    checked[name] = _own_array(path, file, name, wanted)
                elif name in arrays:
                    expected = " and ".join(f"`{each}`" for each in arrays)
                    raise InputError(f"{path}: expected the arrays {expected}, found {_names(file)}")
            lengths = {name: len(array) for name, array in checked.items()}
            first = next(iter(lengths))
            for name, length in lengths.items():
                if length != lengths[first]:
                    raise InputError(f"{path}: `{first}` has {lengths[first]} rows but `{name}` has {length}")
            return {name: array[...] for name, array in checked.items()}
    except InputError:
        raise
    except DAMAGE as error:
        reason = one_line(error, 200)
        raise InputError(f"{path} is not a readable h5 file (truncated or damaged?): {reason}; get it again") from None


def _own_array(path: Path, file: Any, name: str, wanted: Array) -> Any:
    """The dataset `name`, if all of it lies in this file and looks as it must. A stranger's file could otherwise have
    any file of this machine read as clouds: by a link, by external storage, by a virtual dataset.
    """
    import h5py

    if file.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise InputError(f"{path}: `{name}` is a link, to another place or file; expected the array itself")
    array = file[name]
    if not isinstance(array, h5py.Dataset):
        raise InputError(f"{path}: expected `{name}` to be an array, found a group or a type")
    if array.external or array.is_virtual:
        raise InputError(f"{path}: `{name}` has its content in other files, which are not read")
    _check(path, name, array, wanted)
    return array


def _names(file: Any) -> list[str]:
    """The first of the names in a file, for messages."""
    return [one_line(name, 40) for name in sorted(file)[:8]]


def _check(path: Path, name: str, array: Any, wanted: Array) -> None:
    kinds = {"f": "f", "i": "iu", "n": "fiu"}[wanted.kind]
    shape = array.shape
    fits = shape is not None and len(shape) in wanted.ndim and 0 not in shape
    if not fits or array.dtype.kind not in kinds or (wanted.columns is not None and shape[-1] != wanted.columns):
        raise InputError(
            f"{path}: expected `{name}` {WORDS[wanted.kind]} {wanted.shape}, found {array.dtype} {array.shape}"
        )
    bytes_wanted = int(np.prod([float(side) for side in shape]) * array.dtype.itemsize)
    allowed = min(LARGEST, LARGEST_RATIO * path.stat().st_size)
    if bytes_wanted > allowed:
        raise InputError(
            f"{path}: `{name}` {shape} promises {bytes_wanted:,} bytes in a file of {path.stat().st_size:,}; "
            f"at most {allowed:,} are read"
        )


def keep_rows(good: np.ndarray, what: Any, options: Options) -> np.ndarray:
    """The indices, int64, of the rows that are good [n] bool; the others are refused with the message what(row)."""
    bad = np.flatnonzero(~good)
    if len(bad) and options.skipped is None:
        raise InputError(f"{what(int(bad[0]))} ({len(bad)} such rows)")
    for row in bad:
        options.refuse(what(int(row)))
    return np.flatnonzero(good)


def flat_labels(label: np.ndarray, path: Path) -> np.ndarray:
    """int64 [n] from integer [n] or [n, 1].

    >>> flat_labels(np.array([[3], [1]], dtype=np.uint8), Path("a.h5"))
    array([3, 1])
    """
    if label.ndim == 2 and label.shape[1] != 1:
        raise InputError(f"{path}: expected `label` integer (N, 1), found {label.dtype} {label.shape}")
    return label.reshape(-1).astype(np.int64)
