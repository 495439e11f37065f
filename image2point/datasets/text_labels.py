"""Text files of points with a label, and more, on each line; all else of a line, and all other lines, stay."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from image2point.datasets.columns import parse_columns
from image2point.datasets.rows import column_names, split_rows
from image2point.datasets.text import MARKS
from image2point.errors import InputError
from image2point.files import write_bytes

WORD = re.compile(r"[^\s,;]+")
COMMENT = re.compile("#|//")


def write_lines(
    source: Path,
    target: Path,
    labels: np.ndarray,
    columns: str | None,
    field_of: Callable[[Sequence[str]], str],
    extra: Mapping[str, Any],
) -> None:
    """Write a text file of points again, with `labels` [P] in its column of labels or in a new one at the end.

    columns: what its columns are, see `rows.text_columns`; without, a first line of names says it, which gets the names
    of new columns too. field_of: the name of the column, among those that there are.

    Raises InputError as reading does, and for another number of labels.
    """
    rows, headers = split_rows(source)
    if len(rows.words) != len(labels):
        raise InputError(f"{source} has {len(rows.words):,} points, found {len(labels):,} labels to write")
    width = len(rows.words[0]) if rows.words else 0
    header = next((each for each in headers if len(each) == width), ())
    present = parse_columns(columns, any_name=True) if columns else header
    name = field_of([each for each in present if each != "_"]).lower()
    at = list(present).index(name) if name in present else None
    content = source.read_bytes()
    mark, encoding = next(((m, e) for m, e in MARKS.items() if content.startswith(m)), (b"", "utf-8"))
    lines = content[len(mark) :].decode(encoding, "surrogateescape").splitlines(keepends=True)
    shares = [values[:] for values in extra.values()]
    for point, number in enumerate(rows.lines):
        words = [f"{share[point]:.6g}" for share in shares]
        lines[number - 1] = with_words(lines[number - 1], str(labels[point]), at, words)
    added = [*([name] if at is None else []), *extra]
    for number, line in enumerate(lines[: rows.lines[0] - 1] if rows.lines else []):
        if header and added and column_names(line) == header:
            lines[number] = with_words(line, added[0], None, added[1:], comments=False)
            break
    write_bytes(target, mark + "".join(lines).encode(encoding, "surrogateescape"))


def with_words(line: str, word: str, at: int | None, more: Sequence[str], comments: bool = True) -> str:
    r"""A line with `word` as its word number `at`, or behind its last, and `more` behind; separated as its last words.

    >>> with_words("1 2 3 # a tree\n", "5", None, [])
    '1 2 3 5 # a tree\n'
    >>> with_words("1, 2, 3, 7\r\n", "5", 3, ["0.9"])
    '1, 2, 3, 5, 0.9\r\n'
    """
    found = COMMENT.search(line) if comments else None
    body, tail = (line[: found.start()], line[found.start() :]) if found else (line, "")
    words = list(WORD.finditer(body))
    between = body[words[-2].end() : words[-1].start()]
    if at is not None:
        body = body[: words[at].start()] + word + body[words[at].end() :]
        words = list(WORD.finditer(body))
    end = words[-1].end()
    added = [*([word] if at is None else []), *more]
    return body[:end] + "".join(between + each for each in added) + body[end:] + tail
