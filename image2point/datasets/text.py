"""Text files of numbers: how they are decoded, and tables with one point a row."""

from __future__ import annotations

import codecs
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from image2point.errors import InputError

LARGEST = 2**30
"""Bytes of the largest text file that is read; a cloud of ModelNet has about half a megabyte."""

MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
"""Byte order marks and what they announce."""


def decode_text(content: bytes, where: str, errors: str = "strict") -> str:
    r"""Text from bytes: UTF-8, or what a byte order mark says; the mark itself is left out.

    `errors` as in `bytes.decode`: "replace" where only the numbers matter, and comments may be in any encoding.

    Raises InputError, beginning with `where`, for bytes that are no text.

    >>> decode_text(b"\xef\xbb\xbf1 2 3", "a.xyz")
    '1 2 3'
    """
    mark, encoding = next(((mark, name) for mark, name in MARKS.items() if content.startswith(mark)), (b"", "utf-8"))
    try:
        text = content[len(mark) :].decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise InputError(f"{where} cannot be read as text: {error}") from None
    if "\0" in text:
        raise InputError(f"{where} cannot be read as text: it holds zero bytes")
    return text


def read_text(path: Path, largest: int = LARGEST, errors: str = "strict") -> str:
    """The text of a file of at most `largest` bytes, decoded by `decode_text`.

    Raises InputError for more bytes and for what is no text, OSError where the file cannot be read.
    """
    size = path.stat().st_size
    if size > largest:
        raise InputError(f"{path}: {size:,} bytes of text; expected at most {largest:,}")
    return decode_text(path.read_bytes(), str(path), errors)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file of numbers, without comments (`#`) and surrounding blanks; empty ones are left out.

    Raises InputError as `read_text` does.
    """
    lines = (line.partition("#")[0].strip() for line in read_text(path, errors="replace").splitlines())
    return [line for line in lines if line]


def read_table(path: Path, columns: tuple[int, ...], delimiter: str | None = None) -> np.ndarray:
    """A table float64 [P, C] from a text file, C one of `columns`. # begins a comment.

    Raises InputError with the file and the row (from 1, empty lines not counted) for anything else.
    """
    try:
        lines = read_text(path, errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    return parse_table(lines, path, columns, delimiter)


def parse_table(lines: Sequence[str], path: Path, columns: tuple[int, ...], delimiter: str | None = None) -> np.ndarray:
    """The same of lines that have been read.

    >>> parse_table(["1 2 3", "4 5 6 # seven"], Path("a.txt"), columns=(3,)).shape
    (2, 3)
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty file, which is refused below
            table = np.loadtxt(lines, dtype=np.float64, delimiter=delimiter, ndmin=2)
    except ValueError as error:
        raise InputError(f"{path} {_row_first(str(error))}") from None
    wanted = " or ".join(map(str, columns))
    if not len(table):
        raise InputError(f"{path}: the file is empty; expected rows of {wanted} numbers")
    if table.shape[1] not in columns:
        raise InputError(f"{path} row 1: expected {wanted} numbers, found {table.shape[1]}")
    return table


def whole_numbers(values: np.ndarray, path: Path, what: str, low: int = 0, high: int | None = None) -> np.ndarray:
    """int64 [P] from float64 [P]; InputError with the first row that is no whole number in low <= value < high.

    >>> whole_numbers(np.array([1.0, 2.0]), Path("a.txt"), "part", high=50)
    array([1, 2])
    """
    top = np.inf if high is None else high
    good = np.isfinite(values) & (values == np.floor(values)) & (values >= low) & (values < min(top, 2**62))
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        limit = f"{low}..{high - 1}" if high is not None else f"from {low}"
        raise InputError(f"{path} row {row + 1}: expected a {what} {limit}, found {values[row]:g}")
    return values.astype(np.int64)


def as_bytes(values: np.ndarray) -> np.ndarray:
    """uint8 [P] of whole numbers 0..255, as a text file has bytes; anything else as it was.

    >>> as_bytes(np.array([1.0, 255.0])).dtype
    dtype('uint8')
    """
    return values.astype(np.uint8) if np.isin(values, np.arange(256)).all() else values


def is_number(word: str | bytes) -> bool:
    """Whether `float` takes a word.

    >>> is_number("1e-3"), is_number(b"x")
    (True, False)
    """
    try:
        float(word)
    except ValueError:
        return False
    return True


def _row_first(message: str) -> str:
    """numpy's message with the row in front, counted from 1 as it does in some of its messages and not in others."""
    changed = re.search(r"number of columns changed from (\d+) to (\d+) at row (\d+)", message)
    if changed:
        return f"row {changed[3]}: expected {changed[1]} numbers as in the rows before, found {changed[2]}"
    wrong = re.search(r"could not convert string (.*) to float64 at row (\d+), column (\d+)", message)
    if wrong:
        return f"row {int(wrong[2]) + 1}: expected numbers, found {wrong[1][:60]} in column {wrong[3]}"
    return f"is not a table of numbers: {' '.join(message.split())[:120]}"
