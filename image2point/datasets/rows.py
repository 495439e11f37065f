"""Clouds in text with one point a line: .xyz and .pts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from image2point.datasets.cloud import Cloud
from image2point.datasets.columns import COORDINATES, cloud_of_columns, parse_columns
from image2point.datasets.text import is_number, read_text
from image2point.errors import InputError, one_line

PTS = {6: "x y z red green blue", 7: "x y z intensity red green blue"}
"""What the columns of .pts are by their number, where 8-bit colours can stand in the last three."""

Note = Callable[[str], None]


def read_xyz(path: Path, columns: str | None = None, note: Note = lambda _: None) -> Cloud:
    """Points from lines of numbers, separated by blanks, commas or semicolons; # and // begin comments.

    Columns are what `columns` says (see `parse_columns`), else what a first line of names says (`x y z nx ny nz`),
    else x, y, z and others that nobody has named: `note` gets a line about those.
    A line with one whole number is the number of the points that follow.

    Raises InputError with the path for fewer than three numbers in a line, lines of different numbers of columns, and
    columns or points of another number than is said.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.xyz"
    ...     _ = path.write_text("x, y, z, nx, ny, nz\\n1, 2, 3, 0, 0, 1\\n")
    ...     read_xyz(path).normals
    array([[0., 0., 1.]])
    """
    return _read_rows(path, columns, {}, note)


def read_pts(path: Path, columns: str | None = None, note: Note = lambda _: None) -> Cloud:
    """The same for .pts: six or seven columns are x y z, perhaps intensity, and red, green, blue in 0..255."""
    return _read_rows(path, columns, PTS, note)


def _read_rows(path: Path, columns: str | None, usual: dict[int, str], note: Note) -> Cloud:
    names = parse_columns(columns) if columns else None
    promised, header, rows, places = 0, None, list[list[str]](), list[int]()
    for number, line in enumerate(read_text(path, errors="replace").splitlines(), start=1):
        named = _names(line) if not rows and header is None else None
        if named is not None:
            header = named
            continue
        text = re.split("#|//", line, maxsplit=1)[0].strip()
        fields = re.split(r"[\s,;]+", text.strip(",;"))
        if not text:
            continue
        if len(fields) == 1 and re.fullmatch(r"\d{1,15}", fields[0]):
            promised += int(fields[0])
            continue
        if len(fields) < 3 or not all(map(is_number, fields[:3])):
            raise InputError(f"{path} point {len(rows)}: expected x y z, found '{one_line(line, 60)}'")
        if re.fullmatch(r"(-?\d+,\d+[\s;]+){2,}(-?\d+,\d+)", text):
            raise InputError(f"{path} line {number}: expected decimal points, found decimal commas: {line[:60]!r}")
        rows.append(fields)
        places.append(number)
    if promised and promised != len(rows):
        raise InputError(f"{path}: its first line promises {promised} points, found {len(rows)}")
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        width = len(rows[0])
        row = next(row for row, fields in enumerate(rows) if len(fields) != width)
        raise InputError(
            f"{path} line {places[row]}: expected {width} columns as in the lines before, found {len(rows[row])}"
        )
    if names is None and header is not None and len(header) >= max(widths, default=0):
        names = header
    if names is None and (known := usual.get(max(widths, default=0))):
        last = _numbers(path, [row[-3:] for row in rows], places, 3)
        if ((last >= 0) & (last <= 255) & (last == np.floor(last))).all():
            names = parse_columns(known)
    if names is None:
        if widths - {3}:
            note(
                f"{path}: columns 4 to {max(widths)} are left out, since nothing says what they are; name them, for "
                "example columns='x y z red green blue' (data.columns in a config, --columns on the command line)"
            )
        names = COORDINATES
    elif columns and widths - {len(names)}:
        raise InputError(
            f"{path} line {places[0]}: `columns` names {len(names)} columns, found {len(rows[0])}; name those to "
            "leave out `_`"
        )
    table = _numbers(path, [row[: len(names)] for row in rows], places, len(names))
    return cloud_of_columns({name: table[:, at] for at, name in enumerate(names) if name != "_"}, str(path))


def _names(line: str) -> tuple[str, ...] | None:
    """The names of a line that names columns, `//X Y Z` or `"x","y","z"`; None for any other line."""
    words = tuple(
        word.strip("\"'") for word in re.split(r"[\s,;]+", line.strip().lstrip("#/").strip().strip(",;").lower())
    )
    return words if set(COORDINATES) <= set(words) and not any(map(is_number, words)) else None


def _numbers(path: Path, rows: Sequence[Sequence[str]], places: Sequence[int], width: int) -> np.ndarray:
    """float64 [P, width] of words."""
    for row, fields in enumerate(rows):
        if len(fields) != width:
            raise InputError(f"{path} line {places[row]}: expected {width} columns, found {len(fields)}")
    try:
        return np.array(rows, dtype=np.float64).reshape(len(rows), width)
    except ValueError:
        row, wrong = next((row, word) for row, fields in enumerate(rows) for word in fields if not is_number(word))
        raise InputError(f"{path} line {places[row]}: expected a number, found '{one_line(wrong, 40)}'") from None
