"""The table of a segmentation: the score of each class with the number of its points, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from image2point.report.arms import Arm, Spread
from image2point.report.numbers import percent, share
from image2point.report.page_tables import cell, named, table


def class_table(arms: Sequence[Arm]) -> str:
    """Classes down, their test points and the IoU of each arm across; '' where no run counted points."""
    counts = arms[0].first.point_counts
    if counts is None:
        return ""
    classes, total = arms[0].first.summary.data.classes, int(counts.confusion.sum())
    head = '<tr><th class="text">Class</th><th>Points</th><th>Share</th>' + "".join(
        f"<th>{named(index, arm.label)}</th>" for index, arm in enumerate(arms)
    )
    rows = [
        _row(name, f"{count:,}", share(count, total), [_of_class(arm, name) for arm in arms])
        for name, count in zip(classes, counts.support.tolist(), strict=True)
    ]
    rows.append(_row("mean", f"{total:,}", "", [arm.score("test_miou") for arm in arms]))
    return table(f"{head}</tr>", "".join(rows))


def _of_class(arm: Arm, name: str) -> Spread | None:
    return arm.spread(lambda run: run.summary.per_class.get(name))


def _row(name: str, points: str, part: str, values: Sequence[Spread | None]) -> str:
    cells = "".join(map(cell, (points, part, *map(percent, values))))
    return f'<tr><th class="text" scope="row">{escape(name)}</th>{cells}</tr>'
