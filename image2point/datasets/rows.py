"""Clouds in text with one point a line: .xyz and .pts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
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
    return cloud_of_columns(text_columns(path, columns, {}, note), str(path))


def read_pts(path: Path, columns: str | None = None, note: Note = lambda _: None) -> Cloud:
    """The same for .pts: six or seven columns are x y z, perhaps intensity, and red, green, blue in 0..255."""
    return cloud_of_columns(text_columns(path, columns, PTS, note), str(path))


def text_columns(
    path: Path, columns: str | None, usual: dict[int, str], note: Note, any_name: bool = False
) -> dict[str, np.ndarray]:
    """The columns [P] of a text file by name, see `read_xyz`; those named `_` are left out.

    usual: what the columns are by their number, where nothing else says it. any_name: see `parse_columns`.
    """
    rows, headers = split_rows(path)
    names, eight_bit = parse_columns(columns, any_name) if columns else None, False
    if not rows.words:
        return {name: np.empty(0) for name in COORDINATES}  # refused later, with its place
    width = len(rows.words[0])
    if names is not None and len(names) != width:
        raise InputError(
            f"{path} line {rows.lines[0]}: `columns` names {len(names)} columns, found {width}; name those to leave "
            "out `_`"
        )
    if names is None:
        names = next((header for header in headers if len(header) == width), None)
        if names is None and (first := rows.header):
            raise InputError(
                f"{path}: a line names {len(first)} columns ({one_line(' '.join(first), 60)}), and the rows have "
                f"{width}; name them all, those to leave out `_`, for example columns='_ x y z' (data.columns in a "
                "config, --columns on the command line)"
            )
        if names is not None and (twice := [name for name in names if name != "_" and names.count(name) > 1]):
            raise InputError(f"{path}: a line names the column {twice[0]!r} twice; rename one, or name them by columns")
    if names is None and width in usual:
        last = rows.numbers(slice(-3, None))
        eight_bit = bool(((last >= 0) & (last <= 255) & (last == np.floor(last))).all())
        names = parse_columns(usual[width]) if eight_bit else None
    if names is None:
        if width > 3:
            note(
                f"{path}: columns 4 to {width} are left out, since nothing says what they are; name them, for "
                "example columns='x y z red green blue' (data.columns in a config, --columns on the command line)"
            )
        names = COORDINATES
    table = rows.numbers(slice(len(names)))
    named = {name: table[:, at] for at, name in enumerate(names) if name != "_"}
    if eight_bit:
        named |= {name: named[name].astype(np.uint8) for name in ("red", "green", "blue")}
    return named


@dataclass
class Rows:
    """The words of each point, all of one number, and the lines of the file that they are from; header: the names in a
    line before them that is no comment."""

    path: Path
    words: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    header: tuple[str, ...] = ()

    def numbers(self, columns: slice) -> np.ndarray:
        """float64 [P, C] of some columns."""
        rows = [words[columns] for words in self.words]
        try:
            return np.array(rows, dtype=np.float64).reshape(len(rows), -1)
        except ValueError:
            row, wrong = next((row, word) for row, words in enumerate(rows) for word in words if not is_number(word))
            raise InputError(
                f"{self.path} line {self.lines[row]}: expected a number, found '{one_line(wrong, 40)}'"
            ) from None


def split_rows(path: Path) -> tuple[Rows, list[tuple[str, ...]]]:
    """The rows of a file, and what lines before them name columns: a first line, and comments that may be prose."""
    rows, headers, promised = Rows(path), list[tuple[str, ...]](), 0
    for number, line in enumerate(read_text(path, errors="replace").splitlines(), start=1):
        named = column_names(line) if not rows.words else None
        if named is not None:
            headers.append(named)
            if not line.lstrip().startswith(("#", "/")):
                rows.header = named
            continue
        text = re.split("#|//", line, maxsplit=1)[0].strip()
        words = re.split(r"[\s,;]+", text.strip(",;"))
        if not text:
            continue
        if len(words) == 1 and re.fullmatch(r"\d{1,15}", words[0]):
            promised += int(words[0])
            continue
        if len(words) < 3 or not all(map(is_number, words[:3])):
            raise InputError(f"{path} point {len(rows.words)}: expected x y z, found '{one_line(line, 60)}'")
        if rows.words and len(words) != len(rows.words[0]):
            wanted = f"{len(rows.words[0])} columns as in the lines before"
            raise InputError(f"{path} line {number}: expected {wanted}, found {len(words)}")
        parts = re.split(r"[\s;]+", text)
        if len(parts) > 2 and any(re.fullmatch(r"[-+]?\d+,\d+", part) for part in parts):
            raise InputError(
                f"{path} line {number}: expected decimal points, found a decimal comma: '{one_line(line, 60)}'"
            )
        rows.words.append(words)
        rows.lines.append(number)
    if promised and promised != len(rows.words):
        raise InputError(f"{path}: its first line promises {promised} points, found {len(rows.words)}")
    return rows, headers


def column_names(line: str) -> tuple[str, ...] | None:
    """The names of a line that names columns, `//X Y Z` or `"x","y","z"`; None for any other line."""
    words = tuple(
        word.strip("\"'") for word in re.split(r"[\s,;]+", line.strip().lstrip("#/").strip().strip(",;").lower())
    )
    return words if set(COORDINATES) <= set(words) and not any(map(is_number, words)) else None
