"""Tables of classes, as HTML: how many test clouds or points each has, and which are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from image2point.report.arms import Arm, Spread
from image2point.report.numbers import ABSENT, UNDEFINED, percent, share
from image2point.report.page_tables import TEXT, cell, named, table
from image2point.tasks.predictions import to_look_at

MOST_PAIRS = 8
"""Of each arm."""


def class_table(arms: Sequence[Arm]) -> str:
    """Classes down, the test clouds or points of each and the score of each arm across; '' where no run counted them.

    Of clouds, with the number that is right: where an arm has several runs, the mean over them.
    """
    if not (counted := [run for arm in arms for run in arm.runs if run.confusion is not None]):
        return ""
    assert counted[0].confusion is not None
    classes, support = counted[0].summary.data.classes, counted[0].confusion.support
    display, total = arms[0].display, int(support.sum())
    upper = f'<th rowspan="2" class="text">Class</th><th rowspan="2">{display.counted.capitalize()}s</th>'
    upper += '<th rowspan="2">Share (%)</th>' + "".join(
        f'<th colspan="2" class="group"><span>{named(index, arm.label)}</span></th>' for index, arm in enumerate(arms)
    )
    lower = f"<th>right</th><th>{display.class_score} (%)</th>" * len(arms)
    right = [_right(arm) for arm in arms]
    rows = []
    for name, count in zip(classes, support.tolist(), strict=True):
        values = [(own.get(name, ABSENT), _of_class(arm, name)) for arm, own in zip(arms, right, strict=True)]
        rows.append(_row(name, f"{count:,}", share(count, total), values))
    rows.append(_row("mean over classes", "", "", [("", percent(arm.score(display.class_mean))) for arm in arms]))
    whole = [(own.get(None, ABSENT), percent(arm.score("test_accuracy"))) for arm, own in zip(arms, right, strict=True)]
    rows.append(_row("all", f"{total:,}", "", whole))
    return table(f"<tr>{upper}</tr><tr>{lower}</tr>", "".join(rows))


def _right(arm: Arm) -> dict[str | None, str]:
    """How many of each class are right, and by None of all; nothing where a run has not counted."""
    found = [np.diagonal(run.confusion.counts) for run in arm.runs if run.confusion is not None]
    if len(found) < len(arm.runs):
        return {}
    mean = np.mean(found, axis=0)
    numbers = zip((*arm.first.summary.data.classes, None), (*mean.tolist(), float(mean.sum())), strict=True)
    return {name: f"{number:,.0f}" if len(found) == 1 else f"{number:,.1f}" for name, number in numbers}


def _of_class(arm: Arm, name: str) -> str:
    value: Spread | None = arm.spread(lambda run: run.summary.per_class.get(name))
    return UNDEFINED if value is None else percent(value)


def _row(name: str, count: str, part: str, values: Sequence[tuple[str, str]]) -> str:
    cells = "".join(map(cell, (count, part, *(each for pair in values for each in pair))))
    return f'<tr><th class="text" scope="row">{escape(name)}</th>{cells}</tr>'


def pair_table(arms: Sequence[Arm]) -> str:
    """The pairs of classes that each arm confuses most, over all its runs; '' where nothing was counted or wrong."""
    display, body = arms[0].display, []
    clouds = any(run.answers for arm in arms for run in arm.runs)
    for index, arm in enumerate(arms):
        found = [run.confusion for run in arm.runs if run.confusion is not None]
        pairs = sum(found[1:], found[0]).pairs(MOST_PAIRS) if found else ()
        classes = arm.first.summary.data.classes
        for place, (true, predicted, count) in enumerate(pairs):
            first = f'<th class="text" scope="rowgroup" rowspan="{len(pairs)}">{named(index, arm.label)}</th>'
            look = to_look_at([run.answers for run in arm.runs], true, predicted)
            cells = [cell(classes[true], text=True), cell(classes[predicted], text=True), cell(f"{count:,}")]
            cells += [cell(", ".join(look), text=True)] if clouds else []
            body.append(f"<tr>{''.join(cells)}</tr>" if place else f'<tr class="first">{first}{"".join(cells)}</tr>')
    heads = f"<th{TEXT}>Arm</th><th{TEXT}>Class</th><th{TEXT}>taken for</th><th>{display.counted.capitalize()}s</th>"
    heads += f"<th{TEXT}>{display.noun.capitalize()}s to look at</th>" if clouds else ""
    return table(f"<tr>{heads}</tr>", "".join(body)) if body else ""
