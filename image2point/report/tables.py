"""The arms side by side: as typed rows, on a terminal, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from image2point.report.arms import Arm, Spread, group
from image2point.report.numbers import ABSENT, duration, number, percent, share
from image2point.report.plain import cell_text, markdown_table
from image2point.report.quantities import SPLITS
from image2point.report.read import read_runs
from image2point.tasks.display import Display

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Row:
    """One arm in numbers. Scores are shares by their name under `final` in summary.json; a Spread is over the arm's
    runs, None where one did not measure it. `..._over_null`: as a share of the same with permuted labels.

    The mean of a Spread is NaN where what was measured is undefined in one of the runs.
    """

    arm: str
    policy: str
    runs: int
    trainable: int
    total: int
    display: Display
    scores: dict[str, Spread | None]
    nc1: dict[str, Spread | None]
    cdnv: dict[str, Spread | None]
    ncc_accuracy: dict[str, Spread | None]
    nc1_over_null: dict[str, Spread | None]
    cdnv_over_null: dict[str, Spread | None]
    seconds: Spread | None


def rows(runs: Iterable[str | Path]) -> list[Row]:
    """Read run directories and summarise them by arm."""
    return [row(arm) for arm in group(read_runs(runs))]


def row(arm: Arm) -> Row:
    """Summarise one arm; parameter counts are those of its first run, as its runs differ only in seed."""
    parameters = arm.first.summary.parameters

    def both(key: str) -> dict[str, Spread | None]:
        return {split: collapse_spread(arm, split, key) for split in SPLITS}

    return Row(
        arm=arm.label,
        policy=arm.first.summary.policy,
        runs=len(arm.runs),
        trainable=parameters.trainable,
        total=parameters.total,
        display=arm.display,
        scores={score.key: arm.score(score.key) for score in arm.display.scores},
        nc1=both("nc1"),
        cdnv=both("cdnv"),
        ncc_accuracy=both("ncc_accuracy"),
        nc1_over_null=both("nc1_over_null"),
        cdnv_over_null=both("cdnv_over_null"),
        seconds=arm.spread(lambda run: run.summary.seconds.total),
    )


def collapse_spread(arm: Arm, split: str, key: str) -> Spread | None:
    """A collapse quantity of the chosen weights over an arm's runs.

    None where a run did not measure it; with a mean of NaN where all did, and it is undefined in one of them.
    """
    if not all(key in run.summary.collapse.get(split, {}) for run in arm.runs):
        return None
    return arm.spread(lambda run: run.summary.collapse[split][key]) or Spread(math.nan, None, len(arm.runs))


@dataclass(frozen=True)
class Column:
    """A column of the table of arms; columns of one `group` stand under a common heading."""

    group: str
    heading: str
    cell: Callable[[Row], str]

    @property
    def name(self) -> str:
        return f"{self.group}, {self.heading}" if self.group else self.heading


def columns_of(display: Display) -> tuple[Column, ...]:
    """The columns of the table of arms, for the scores of a task."""
    scores = (Column(score.group, score.heading, partial(_score, score.key)) for score in display.scores)
    return (
        Column("", "Arm", lambda row: row.arm),
        Column("", "Policy", lambda row: row.policy),
        Column("", "Runs", lambda row: str(row.runs)),
        Column("Trainable", "parameters", lambda row: f"{row.trainable:,}"),
        Column("Trainable", "share (%)", lambda row: share(row.trainable, row.total)),
        *scores,
        Column("NC1", "train", lambda row: number(row.nc1["train"])),
        Column("NC1", "test", lambda row: number(row.nc1["test"])),
        Column("NC1", "test / null", lambda row: number(row.nc1_over_null["test"])),
        Column("CDNV", "train", lambda row: number(row.cdnv["train"])),
        Column("CDNV", "test", lambda row: number(row.cdnv["test"])),
        Column("CDNV", "test / null", lambda row: number(row.cdnv_over_null["test"])),
        Column("NCC acc. (%)", "train", lambda row: percent(row.ncc_accuracy["train"])),
        Column("NCC acc. (%)", "test", lambda row: percent(row.ncc_accuracy["test"])),
        Column("", "Time", _time),
    )


def terminal_columns(display: Display) -> tuple[Column, ...]:
    """The columns of the same table that fit 80 characters."""
    scores = (Column(*score.short, partial(_score, score.key)) for score in display.scores if score.short)
    return (
        Column("", "Arm", lambda row: row.arm),
        Column("Tuned", "%", lambda row: share(row.trainable, row.total)),
        *scores,
        Column("NC1", "/ null", lambda row: number(row.nc1_over_null["test"])),
        Column("CDNV", "/ null", lambda row: number(row.cdnv_over_null["test"])),
        Column("NCC", "test %", lambda row: percent(row.ncc_accuracy["test"])),
        Column("", "Time", _time),
    )


def _score(key: str, row: Row) -> str:
    return percent(row.scores[key])


def _time(row: Row) -> str:
    return duration(row.seconds.mean) if row.seconds else ABSENT


def print_table(runs: Iterable[str | Path], console: Console | None = None) -> None:
    """Print the arms side by side on the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    arms = rows(runs)
    columns = terminal_columns(arms[0].display)
    for column in columns:
        heading = Text(f"{column.group}\n{column.heading}")
        if column.heading == "Arm":
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for arm in arms:
        cells = (cell_text(column.cell(arm)).plain for column in columns)
        table.add_row(*(Text(cell.replace(" ± ", "\n± ")) for cell in cells))
    (console or Console()).print(table)


def markdown(runs: Iterable[str | Path]) -> str:
    """The arms side by side as a Markdown table, mean ± sample s.d. over each arm's runs."""
    arms = rows(runs)
    columns = columns_of(arms[0].display)
    right = [index for index, column in enumerate(columns) if column.heading not in ("Arm", "Policy")]
    cells = ([column.cell(arm) for column in columns] for arm in arms)
    return markdown_table([column.name for column in columns], cells, right)
