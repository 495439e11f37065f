"""A table of text: as Markdown, and on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from image2point.collapse.intervals import Interval
from image2point.report.numbers import ABSENT, UNDEFINED
from image2point.report.terminal import wide_console

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Table:
    """Headings and rows of text; `notes` stand below."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The same in Markdown."""

        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"

        rule = "|" + "|".join("---" for _ in self.headings) + "|\n"
        notes = "".join(f"\n{note}\n" for note in self.notes)
        return line(self.headings) + rule + "".join(map(line, self.rows)) + notes

    def show(self, console: Console | None = None) -> None:
        """Print it."""
        from rich import box
        from rich.table import Table as RichTable

        console = console or wide_console()
        table = RichTable(*self.headings, box=box.SIMPLE_HEAD, padding=(0, 1))
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        for note in self.notes:
            console.print(note, markup=False)


def ranged(interval: Interval | None, percent: bool = False) -> str:
    """`71.2 [69.8, 72.6]`: the value and its interval, in per cent where it is a share."""
    if interval is None:
        return ABSENT
    if not math.isfinite(interval.value):
        return UNDEFINED
    scale = 100 if percent else 1

    def text(value: float) -> str:
        return f"{scale * value:.1f}" if percent else f"{value:.3g}"

    bounds = "" if math.isnan(interval.low) else f" [{text(interval.low)}, {text(interval.high)}]"
    return text(interval.value) + bounds
