"""Tables of text, as Markdown and on the terminal; names from runs are shown as text, whatever they hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from image2point.collapse.intervals import Interval
from image2point.errors import one_line
from image2point.report.numbers import ABSENT, UNDEFINED

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

PLAIN_WIDTH = 250
LONGEST = 1000
"""Letters of a cell."""


@dataclass(frozen=True)
class Table:
    """Headings and rows of text, with a title above and notes below."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    title: str = ""

    def markdown(self) -> str:
        """The same in Markdown."""
        return markdown_table(self.headings, self.rows) + "".join(f"\n{note}\n" for note in self.notes)

    def show(self, console: Console | None = None) -> None:
        """Print it."""
        from rich import box
        from rich.table import Table as RichTable

        console = console or wide_console()
        title = cell_text(self.title) if self.title else None
        table = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
        for heading in self.headings:
            table.add_column(cell_text(heading))
        for row in self.rows:
            table.add_row(*map(cell_text, row))
        console.print(table)
        for note in self.notes:
            console.print(cell_text(note))


def cell_text(text: str) -> Text:
    """A cell on the terminal: on one line, without markup and without control characters, which may be commands.

    >>> cell_text("[red]a\\x1b[2J").plain
    '[red]a\\\\x1b[2J'
    """
    from rich.text import Text

    return Text(one_line(text, LONGEST))


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """A table in Markdown; columns whose indices are in `right` are set flush right.

    >>> print(markdown_table(["run", "accuracy"], [["a|b", "0.5"]], right=[1]), end="")
    | run | accuracy |
    |---|---:|
    | a\\|b | 0.5 |
    """

    def line(cells: Sequence[str]) -> str:
        escaped = [one_line(cell, LONGEST).replace("|", r"\|").replace("<", "&lt;") for cell in cells]
        return f"| {' | '.join(escaped)} |\n"

    flush = set(right)
    rule = "|".join("---:" if index in flush else "---" for index in range(len(headings)))
    return f"{line(headings)}|{rule}|\n{''.join(map(line, rows))}"


def wide_console() -> Console:
    """A console; where it is no terminal (a file, a pipe), wide enough that no table is folded."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def ranged(interval: Interval | None, percent: bool = False) -> str:
    """The value and its interval, in per cent where it is a share.

    >>> ranged(Interval(0.712, 0.014, 0.698, 0.726), percent=True)
    '71.2 [69.8, 72.6]'
    """
    if interval is None:
        return ABSENT
    if not math.isfinite(interval.value):
        return UNDEFINED
    scale = 100 if percent else 1

    def text(value: float) -> str:
        return f"{scale * value:.1f}" if percent else f"{value:.3g}"

    bounds = "" if math.isnan(interval.low) else f" [{text(interval.low)}, {text(interval.high)}]"
    return text(interval.value) + bounds
