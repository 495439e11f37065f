"""A confusion matrix as a file: rows are the truth, columns the prediction, both with their names."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from image2point.errors import InputError
from image2point.files import csv_cell
from image2point.runs import read_text
from image2point.tasks.confusion import Confusion

CORNER = "true / predicted"


def confusion_csv(confusion: Confusion, classes: Sequence[str]) -> str:
    """The counts as the text of a CSV file.

    >>> print(confusion_csv(Confusion(np.array([[3, 1], [0, 2]])), ("bed", "sofa")), end="")
    true / predicted,bed,sofa
    bed,3,1
    sofa,0,2
    """
    text, names = io.StringIO(), [csv_cell(name) for name in classes]
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow([CORNER, *names])
    lines.writerows([name, *row] for name, row in zip(names, confusion.counts.tolist(), strict=True))
    return text.getvalue()


def read_confusion(path: Path, classes: Sequence[str]) -> Confusion | None:
    """The matrix that `confusion_csv` wrote for these classes; None where there is no file, as in older runs.

    Raises InputError where it is of other classes, or damaged.
    """
    if not path.exists():
        return None
    names = [csv_cell(name) for name in classes]
    try:
        head, *rows = list(csv.reader(io.StringIO(read_text(path, "remove it"), newline="")))
        counts = np.array([[int(cell) for cell in row[1:]] for row in rows], dtype=np.int64)
    except (csv.Error, OverflowError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: expected whole numbers below the names of the classes; {error}") from None
    fits = head == [CORNER, *names] and [row[:1] for row in rows] == [[name] for name in names]
    if not fits or counts.shape != (len(names), len(names)):
        raise InputError(
            f"{path}: expected a row and a column for each of the {len(names)} classes in summary.json, in their order"
        )
    if (counts < 0).any():
        raise InputError(f"{path}: expected counts, found {counts.min()}")
    return Confusion(counts)
