"""What became of the test clouds or points of each class, as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from image2point.report.numbers import UNDEFINED
from image2point.report.plain import Table
from image2point.tasks.confusion import Confusion
from image2point.tasks.display import Display
from image2point.tasks.predictions import CloudAnswer, to_look_at

MOST_TAKEN_FOR = 5
"""Classes that are named behind each; all are in confusion.csv."""
MOST_PAIRS = 10
"""Of classes that are told as the most confused."""


def class_lines(
    confusion: Confusion, classes: Sequence[str], scores: Mapping[str, float | None], display: Display
) -> Table:
    """How many each class has, how many of them are right, its score (0..1), and what the others were taken for.

    >>> from image2point.tasks.display import DISPLAYS
    >>> seen, scores = Confusion(np.array([[3, 1], [0, 0]])), {"bed": 0.75, "sofa": None}
    >>> print(class_lines(seen, ("bed", "sofa"), scores, DISPLAYS["classification"]).markdown(), end="")
    | class | clouds | right | accuracy % | taken for |
    |---|---|---|---|---|
    | bed | 4 | 3 | 75.0 | sofa 1 |
    | sofa | 0 | 0 | undefined |  |
    """
    rows = []
    for c, (name, row) in enumerate(zip(classes, confusion.counts, strict=True)):
        score, wrong = scores[name], np.where(np.arange(len(row)) == c, 0, row)
        most = [int(k) for k in np.argsort(-wrong, kind="stable") if wrong[k]]
        taken = ", ".join(f"{classes[k]} {wrong[k]:,}" for k in most[:MOST_TAKEN_FOR])
        rows.append(
            (
                name,
                f"{row.sum():,}",
                f"{row[c]:,}",
                UNDEFINED if score is None else f"{100 * score:.1f}",
                taken + (" …" if len(most) > MOST_TAKEN_FOR else ""),
            )
        )
    headings = ("class", f"{display.counted}s", "right", f"{display.class_score} %", "taken for")
    return Table(headings, tuple(rows))


def pair_lines(
    confusion: Confusion, classes: Sequence[str], answers: Sequence[CloudAnswer], display: Display
) -> Table | None:
    """The most confused pairs of classes, with clouds of which the network was surest; None where nothing is wrong."""
    rows = [
        (classes[true], classes[predicted], f"{count:,}", ", ".join(to_look_at([answers], true, predicted)))
        for true, predicted, count in confusion.pairs(MOST_PAIRS)
    ]
    if not rows:
        return None
    wide = 4 if answers else 3
    headings = ("class", "taken for", f"{display.counted}s", f"{display.noun}s to look at, the surest first")[:wide]
    return Table(headings, tuple(row[:wide] for row in rows))
