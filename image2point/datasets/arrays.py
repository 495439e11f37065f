""".npy and .npz files of clouds; nothing is allocated that the file does not hold."""

from __future__ import annotations

import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from image2point.datasets.cloud import Cloud
from image2point.datasets.columns import cloud_of_columns, unit_colours
from image2point.datasets.validate import check_digits
from image2point.errors import InputError, one_line

LARGEST_MEMBER = 2 * 2**30
LARGEST_RATIO = 1100
"""Bytes of an array per byte of its archive; deflate gives at most 1032."""

DAMAGE = (
    ValueError, EOFError, TypeError, OverflowError, SyntaxError, MemoryError, RecursionError, AttributeError, KeyError,
    IndexError, UnicodeError, struct.error, tokenize.TokenError,
)  # fmt: skip
"""What numpy's reader of headers and zipfile raise for bytes that make no sense."""

NAMES = {"normals": ("normals", "normal"), "colours": ("colours", "colors"), "labels": ("parts",)}
"""Arrays beside the points, and what they are in a cloud."""


def read_npy(path: Path) -> Cloud:
    """Points from an array [P, 3 or more] of real numbers, or [P] of records with the fields x, y and z.

    Raises InputError with the path for other arrays, and for what is no .npy file.
    """
    return _cloud_of_array(npy_array(path), path, "an array")


def npy_array(path: Path) -> np.ndarray:
    """The array of a .npy file, mapped and not read.

    Raises InputError with the path for what is no .npy file of numbers.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):  # of a damaged header, the error says enough
            warnings.simplefilter("ignore")
            return np.load(path, mmap_mode="r", allow_pickle=False)  # maps at most what the file has
    except DAMAGE as error:
        raise InputError(f"{path}: not a readable .npy array of numbers: {_short(error)}") from None


def read_npz(path: Path) -> Cloud:
    """Points from the array `points` or the only one; `normals`, `colours` and `parts`, the labels of points, where
    there are such arrays.

    Raises InputError with the path for other archives, and for arrays of another size than they promise.
    """

    def wanted(present: Sequence[str]) -> dict[str, str]:
        main = "points" if "points" in present else present[0] if len(present) == 1 else ""
        if not main:
            raise InputError(
                f"{path}: expected an array `points` or a single one, found "
                f"{[one_line(name, 40) for name in sorted(present)[:8]]}"
            )
        beside = {field: [n for n in names if n in present and n != main] for field, names in NAMES.items()}
        return {"points": main} | {field: names[0] for field, names in beside.items() if names}

    arrays, names = npz_arrays(path, wanted)
    cloud = _cloud_of_array(arrays.pop("points"), path, f"`{one_line(names['points'])}`")
    if arrays.get("colours", np.empty(0)).shape == cloud.points.shape:
        arrays["colours"] = unit_colours(arrays["colours"])
    normals, colours, labels = (arrays.get(name, getattr(cloud, name)) for name in NAMES)
    return replace(cloud, normals=normals, colours=colours, labels=labels)


def npz_arrays(
    path: Path, wanted: Callable[[Sequence[str]], Mapping[str, str]]
) -> tuple[dict[str, np.ndarray], Mapping[str, str]]:
    """Arrays of an archive, and the names that they have in it, by the keys of `wanted`.

    wanted: called with the names of all arrays; gives those to read, by the key that each is to have.

    Raises InputError with the path for what is no archive, and for arrays of another size than they promise.
    """
    with _archive(path) as (archive, entries):
        names = wanted(list(entries))
        return {key: _member(archive, entries[name], path) for key, name in names.items()}, names


def read_arrays(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of these names in an .npz file, or all; names that it lacks are left out.

    Raises InputError with the path for what is no such file, and for arrays of another size than they promise.
    """
    with _archive(path) as (archive, entries):
        wanted = {name: entries[name] for name in (entries if names is None else names) if name in entries}
        promised = sum(entry.file_size for entry in wanted.values())
        if promised > LARGEST_MEMBER:
            raise InputError(f"{path} promises {promised:,} bytes; at most {LARGEST_MEMBER:,} are read")
        return {name: _member(archive, entry, path) for name, entry in wanted.items()}


@contextmanager
def _archive(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """An .npz file, and its members by the names of their arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive, {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    except (*DAMAGE, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, OSError) as error:
        if isinstance(error, InputError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise InputError(f"{path}: damaged, or not a .npz archive: {_short(error)}") from None


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> np.ndarray:
    where = f"{path}: `{one_line(entry.filename)}`"
    if entry.file_size > min(LARGEST_MEMBER, LARGEST_RATIO * entry.compress_size + 1024):
        raise InputError(f"{where} promises {entry.file_size:,} bytes from {entry.compress_size:,} compressed ones")
    try:
        with archive.open(entry) as file:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read_header is None:
                raise InputError(f"{where} has version {version} of the .npy format, expected 1.0 or 2.0")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                shape, fortran, kind = read_header(file)
            left = entry.file_size - file.tell()
            if kind.hasobject or np.prod([float(side) for side in shape]) * kind.itemsize != left:
                raise InputError(f"{where} promises {kind} {shape}, and holds {left:,} bytes")
            content = file.read(left + 1)
        return np.frombuffer(content, kind).reshape(shape, order="F" if fortran else "C").copy()
    except DAMAGE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} is not a readable array of numbers: {_short(error)}") from None


def _cloud_of_array(array: np.ndarray, path: Path, what: str) -> Cloud:
    """`what` names the array in messages."""
    if isinstance(array, np.ndarray) and array.dtype.names is not None and array.ndim == 1:
        scalar = [name for name in array.dtype.names if array.dtype[name].kind in "fiu"]
        return cloud_of_columns({name: np.array(array[name]) for name in scalar}, str(path))
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.shape[1] < 3:
        raise InputError(f"{path}: expected {what} (P, 3 or more), found {getattr(array, 'shape', 'an archive')}")
    if array.shape[1] > max(len(array), 16):  # as no cloud of so few points has
        raise InputError(
            f"{path}: expected {what} (P, 3 or more), a row for each point, found {array.shape}: more columns than "
            "rows; is it transposed?"
        )
    check_digits(array[:, :3], str(path))
    return Cloud(np.array(array[:, :3]))


def _short(error: Exception) -> str:
    return one_line(error) or type(error).__name__
