"""The tables of docs/results.md that studies, rankings and noise give."""

from __future__ import annotations

from result_cells import NOTHING
from result_rows import asked_of, stored

from image2point.experiments.follow import layers_table
from image2point.experiments.study import KINDS
from image2point.report.plain import markdown_table


def study(name: str) -> str:
    """The table of a study, as the study prints it."""
    rows = stored(name)
    return KINDS[asked.kind].table(asked, rows).markdown() if rows and (asked := asked_of(name)) else NOTHING


def follow_layers() -> str:
    """The classes layer by layer on both sides of the transfer."""
    rows = stored("follow_lite0")
    return layers_table(asked_of("follow_lite0"), rows).markdown() if rows else NOTHING


def ends() -> str:
    """For each block with which the network may end, the cross-validated probe of each draw of training clouds; the
    best of each draw in bold."""
    rows = stored("ends")
    if not rows:
        return NOTHING
    draws = sorted({row["shot_seed"] for row in rows})
    best = {draw: max(row["probe"] for row in rows if row["shot_seed"] == draw) for draw in draws}
    lines = []
    for until in dict.fromkeys(row["until"] for row in rows):
        own = {row["shot_seed"]: row["probe"] for row in rows if row["until"] == until}
        cells = [f"{100 * own[d]:.1f}" if own[d] < best[d] else f"**{100 * own[d]:.1f}**" for d in draws]
        lines.append([f"`{until}`" if until else "the whole", *cells, f"{100 * sum(own.values()) / len(own):.1f}"])
    return markdown_table(["ends with", *(f"shots {draw}" for draw in draws), "mean"], lines, range(1, len(draws) + 2))


def label_noise() -> str:
    """Of noise, each measure and its null, at several sizes."""
    lines = [
        [
            f"{row['classes']} × {row['each']}",
            f"`{row['measure']}`",
            f"{row['mean']:.3g}",
            f"{row['null']:.3g}",
            f"{(row['mean'] - row['null']) / row['error']:+.1f}",
        ]
        for row in stored("label_noise")
    ]
    headings = ["classes × samples", "measure", "value", "null", "difference / its standard error"]
    return markdown_table(headings, lines, [2, 3, 4]) if lines else NOTHING
