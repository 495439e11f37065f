"""The arms side by side: as typed rows, on a terminal, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from image2point.report.arms import Arm, Spread, group
from image2point.report.numbers import ABSENT, duration, number, percent, share
from image2point.report.quantities import SPLITS
from image2point.report.read import read_runs

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Row:
    """One arm in numbers. Accuracies are shares; a Spread is over the arm's runs, None where one did not measure it."""

    arm: str
    policy: str
    runs: int
    trainable: int
    total: int
    test_accuracy: Spread | None
    test_mean_class_accuracy: Spread | None
    train_accuracy: Spread | None
    nc1: dict[str, Spread | None]
    cdnv: dict[str, Spread | None]
    ncc_accuracy: dict[str, Spread | None]
    seconds: Spread | None


def rows(runs: Iterable[str | Path]) -> list[Row]:
    """Read run directories and summarise them by arm."""
    return [row(arm) for arm in group(read_runs(runs))]


def row(arm: Arm) -> Row:
    """Summarise one arm; parameter counts are those of its first run, as its runs differ only in seed."""
    parameters = arm.first.summary.parameters

    def both(key: str) -> dict[str, Spread | None]:
        return {split: collapse(arm, split, key) for split in SPLITS}

    return Row(
        arm=arm.label,
        policy=arm.first.summary.policy,
        runs=len(arm.runs),
        trainable=parameters.trainable,
        total=parameters.total,
        test_accuracy=arm.spread(lambda run: run.summary.final.test_accuracy),
        test_mean_class_accuracy=arm.spread(lambda run: run.summary.final.test_mean_class_accuracy),
        train_accuracy=arm.spread(lambda run: run.summary.final.train_accuracy),
        nc1=both("nc1"),
        cdnv=both("cdnv"),
        ncc_accuracy=both("ncc_accuracy"),
        seconds=arm.spread(lambda run: run.summary.seconds.total),
    )


def collapse(arm: Arm, split: str, key: str) -> Spread | None:
    """A collapse quantity of the chosen weights over an arm's runs: NaN where a run measured it and it is undefined."""
    measured = [run.summary.collapse.get(split, {}) for run in arm.runs]
    if all(key in values for values in measured) and any(values[key] is None for values in measured):
        return Spread(math.nan, None, len(measured))
    return arm.spread(lambda run: run.summary.collapse.get(split, {}).get(key))


@dataclass(frozen=True)
class Column:
    """A column of the table of arms; columns of one `group` stand under a common heading."""

    group: str
    heading: str
    cell: Callable[[Row], str]

    @property
    def name(self) -> str:
        return f"{self.group}, {self.heading}" if self.group else self.heading


COLUMNS = (
    Column("", "Arm", lambda row: row.arm),
    Column("", "Policy", lambda row: row.policy),
    Column("", "Runs", lambda row: str(row.runs)),
    Column("Trainable", "parameters", lambda row: f"{row.trainable:,}"),
    Column("Trainable", "share (%)", lambda row: share(row.trainable, row.total)),
    Column("Accuracy (%)", "test", lambda row: percent(row.test_accuracy)),
    Column("Accuracy (%)", "mean class", lambda row: percent(row.test_mean_class_accuracy)),
    Column("Accuracy (%)", "train", lambda row: percent(row.train_accuracy)),
    Column("NC1", "train", lambda row: number(row.nc1["train"])),
    Column("NC1", "test", lambda row: number(row.nc1["test"])),
    Column("CDNV", "train", lambda row: number(row.cdnv["train"])),
    Column("CDNV", "test", lambda row: number(row.cdnv["test"])),
    Column("NCC acc. (%)", "train", lambda row: percent(row.ncc_accuracy["train"])),
    Column("NCC acc. (%)", "test", lambda row: percent(row.ncc_accuracy["test"])),
    Column("", "Time", lambda row: duration(row.seconds.mean) if row.seconds else ABSENT),
)
TERMINAL = (  # fits 80 columns
    Column("", "Arm", lambda row: row.arm),
    Column("Tuned", "%", lambda row: share(row.trainable, row.total)),
    Column("Test", "acc. %", lambda row: percent(row.test_accuracy)),
    Column("Train", "acc. %", lambda row: percent(row.train_accuracy)),
    Column("NC1", "test", lambda row: number(row.nc1["test"])),
    Column("CDNV", "test", lambda row: number(row.cdnv["test"])),
    Column("NCC", "test %", lambda row: percent(row.ncc_accuracy["test"])),
    Column("", "Time", lambda row: duration(row.seconds.mean) if row.seconds else ABSENT),
)


def print_table(runs: Iterable[str | Path], console: Console | None = None) -> None:
    """Print the arms side by side on the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True)
    for column in TERMINAL:
        heading = Text(f"{column.group}\n{column.heading}")
        if column.heading == "Arm":
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for item in rows(runs):
        table.add_row(*(Text(column.cell(item).replace(" ± ", "\n± ")) for column in TERMINAL))
    (console or Console()).print(table)


def markdown(runs: Iterable[str | Path]) -> str:
    """The arms side by side as a Markdown table, mean ± sample s.d. over each arm's runs."""
    items = rows(runs)

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in cells) + " |\n"

    rule = "|" + "|".join("---" if column.heading in ("Arm", "Policy") else "---:" for column in COLUMNS) + "|\n"
    body = "".join(line(column.cell(item) for column in COLUMNS) for item in items)
    return line(column.name for column in COLUMNS) + rule + body
