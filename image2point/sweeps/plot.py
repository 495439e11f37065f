"""A table of many runs as a figure: its rows along the horizontal axis, a curve for each of its columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from image2point.collapse import Interval
from image2point.errors import InputError
from image2point.report.plots import Panel, curves
from image2point.sweeps.pivot import Cell, Key, Pivot, in_percent


def table_figure(table: Pivot, spread: str = "sd") -> Any:
    """The mean of each cell with its spread (see `Cell.spread`), over the values of the row fields.

    A single row field whose values are all numbers makes a numeric axis; otherwise every row is a place of its own, in
    the order of the table.

    Raises:
        InputError: where no cell has a number.
    """
    if not any(math.isfinite(cell.mean) for cell in table.cells.values()):
        raise InputError(f"none of the runs has a number for {table.value}, so there is nothing to plot")
    numbers = _numbers(table.rows)
    rows = table.rows if numbers is None else tuple(row for _, row in sorted(zip(numbers, table.rows, strict=True)))
    places: Sequence[str] | Sequence[float] = [", ".join(row) for row in rows] if numbers is None else sorted(numbers)
    drawn = {
        ", ".join(column) or table.value: [_interval(table.cells.get((row, column)), spread) for row in rows]
        for column in table.columns
    }
    counts = sorted({len(cell.values) for cell in table.cells.values()})
    kind = "s.d." if spread == "sd" else "95 % interval"
    runs = "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    title = f"{table.value}, {kind} over {runs} runs"
    return curves(
        [Panel(title, drawn, percent=in_percent(table.value))], places, ", ".join(table.row_fields), columns=1
    )


def _numbers(rows: Sequence[Key]) -> list[float] | None:
    """The values of a single field, if all are finite numbers."""
    try:
        numbers = [float(value) for (value,) in rows]
    except ValueError:  # more than one field, or a word
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _interval(cell: Cell | None, spread: str) -> Interval | None:
    if cell is None or not math.isfinite(cell.mean):
        return None
    width = cell.spread(spread)
    width = math.nan if width is None else width
    return Interval(cell.mean, width, cell.mean - width, cell.mean + width)
