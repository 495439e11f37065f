"""Tables of numbers in text files, one point a row."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np

from image2point.errors import InputError

LARGEST = 2**30
"""Bytes of the largest text file that is read; a cloud of ModelNet has about half a megabyte."""


def read_table(path: Path, columns: tuple[int, ...], delimiter: str | None = None) -> np.ndarray:
    """A table float64 [P, C] from a text file, C one of `columns`. # begins a comment.

    Raises InputError with the file and the row (from 1, empty lines not counted) for anything else.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise InputError(f"{path}: {size} bytes of text; expected at most {LARGEST}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty file, which is refused below
            table = np.loadtxt(path, dtype=np.float64, delimiter=delimiter, ndmin=2, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    except ValueError as error:
        raise InputError(f"{path} {_place(str(error))}") from None
    wanted = " or ".join(map(str, columns))
    if not len(table):
        raise InputError(f"{path}: the file is empty; expected rows of {wanted} numbers")
    if table.shape[1] not in columns:
        raise InputError(f"{path} row 1: expected {wanted} numbers, found {table.shape[1]}")
    return table


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without comments (#) and blanks at their ends; empty ones are left out.

    Raises InputError for text that is no UTF-8, and for files too large to be a cloud.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise InputError(f"{path}: {size:,} bytes of text; expected at most {LARGEST:,}")
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def whole(values: np.ndarray, path: Path, what: str, low: int = 0, high: int | None = None) -> np.ndarray:
    """int64 [P] from float64 [P] that must be whole numbers, low <= value < high."""
    top = np.inf if high is None else high
    good = np.isfinite(values) & (values == np.floor(values)) & (values >= low) & (values < min(top, 2**62))
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        limit = f"{low}..{high - 1}" if high is not None else f"from {low}"
        raise InputError(f"{path} row {row + 1}: expected a {what} {limit}, found {values[row]:g}")
    return values.astype(np.int64)


def _place(message: str) -> str:
    """numpy's message with the row in front, counted from 1 as it does in some of its messages and not in others."""
    changed = re.search(r"number of columns changed from (\d+) to (\d+) at row (\d+)", message)
    if changed:
        return f"row {changed[3]}: expected {changed[1]} numbers as in the rows before, found {changed[2]}"
    found = re.search(r"could not convert string (.*) to float64 at row (\d+), column (\d+)", message)
    if found:
        return f"row {int(found[2]) + 1}: expected numbers, found {found[1][:60]} in column {found[3]}"
    return f"is not a table of numbers: {' '.join(message.split())[:120]}"
