"""A pivot of runs as a table: on the terminal, in Markdown, LaTeX or CSV, and in words what its numbers are."""

from __future__ import annotations

import csv
import io
import math

from rich.table import Table

from image2point.files import csv_cell
from image2point.report.numbers import ABSENT, UNDEFINED
from image2point.report.plain import cell_text, markdown_table
from image2point.sweeps.comparison import FEWEST
from image2point.sweeps.latex import latex_number, latex_table, latex_text
from image2point.sweeps.pivot import Key, Pivot, in_percent, named

FORMATS = ("terminal", "markdown", "latex", "csv")
SPREADS = ("sd", "interval")


def format_pivot(table: Pivot, kind: str, spread: str = "sd") -> str | Table:
    """The table as text of a format, or as a table of rich for `terminal`. Accuracies are in per cent.

    The best cell is bold; † marks those that the test does not tell from it. Cells that no run is in have a dash.
    """
    names = [*table.row_fields, *(" ".join(column) or table.value for column in table.columns)]
    if kind == "csv":
        return _csv(table)
    fields = len(table.row_fields)
    lines = [(row, [_cell(table, (row, column), kind, spread) for column in table.columns]) for row in table.rows]
    if kind == "terminal":
        result = Table(box=None, pad_edge=False)
        for index, name in enumerate(names):
            result.add_column(cell_text(name), justify="left" if index < fields else "right")
        for row, cells in lines:
            result.add_row(*map(cell_text, row), *cells)
        return result
    if kind == "markdown":
        return markdown_table(names, [[*row, *cells] for row, cells in lines], range(fields, len(names)))
    what = _title(table.value)
    groups, headings = [], [*table.row_fields, what]
    if table.column_fields:
        groups = [("", fields), (f"{what} by {', '.join(table.column_fields)}", len(table.columns))]
        headings = [*table.row_fields, *map(", ".join, table.columns)]
    body = [[*map(latex_text, row), *cells] for row, cells in lines]
    return latex_table(groups, headings, body, _sentences(note(table, spread)), fields)


def _title(value: str) -> str:
    """`final.test_accuracy` as words with the unit; what is not under `final` by its name."""
    words = value.removeprefix("final.").replace("_", " ") if value.startswith("final.") else value
    return f"{words} (%)" if in_percent(value) else words


def _sentences(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def note(table: Pivot, spread: str) -> str:
    """What the numbers of a table are."""
    counts = sorted({len(cell.values) for cell in table.cells.values()})
    if counts == [1]:  # no spread to show, and no test was made
        return f"{_title(table.value)}, one run per cell{'; bold: best' if table.best else ''}{_rates(table)}"
    runs = " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1]))) if counts else "no"
    kind = "s.d." if spread == "sd" else "half the 95 % interval"
    marks = "; bold: best, †: not told from it by a paired t-test at 5 %, corrected by Holm" if table.best else ""
    return f"{_title(table.value)}, mean ± {kind} over {runs} runs per cell{marks}{_rates(table)}"


def comparison_lines(table: Pivot) -> list[str]:
    """The best cell against each other: effect with interval, corrected p, and what so few seeds could find."""
    scale, unit = (100, " points") if in_percent(table.value) else (1, "")
    fields = (*table.row_fields, *table.column_fields)
    lines = []
    for (row, column), each in table.comparisons.items():
        effect = each.effect
        told = f"best against {named(fields, (*row, *column))}: {scale * effect.value:+.3g}{unit}"
        if each.tested:
            told += (
                f" [{scale * effect.low:+.3g}, {scale * effect.high:+.3g}] over {each.seeds} seeds, p = {each.p:.2g} "
                f"(Holm); effects below {scale * each.detectable:.2g} would be missed more than one time in five"
            )
        why = "too few for a test" if each.seeds < FEWEST else "the same at all, so that nothing can be tested"
        lines.append(told if each.tested else f"{told} over {each.seeds} seeds, {why}")
    for row, column in sorted(table.level - table.comparisons.keys()):
        name = named(fields, (*row, *column))
        lines.append(f"best against {name}: not compared, since they share fewer than two seeds")
    return lines


def _rates(table: Pivot) -> str:
    """The learning rates that were chosen on validation clouds, by cell; '' where none were."""
    fields = (*table.row_fields, *table.column_fields)
    told = [
        f"{named(fields, (*row, *column))}: {', '.join(f'{rate:g}' for rate in cell.rates.values())}"
        for (row, column), cell in table.cells.items()
        if cell.rates
    ]
    return f"; learning rates, chosen on validation clouds: {'; '.join(told)}" if told else ""


def _cell(table: Pivot, key: tuple[Key, Key], kind: str, spread: str) -> str:
    cell = table.cells.get(key)
    if cell is None:
        return latex_text(ABSENT) if kind == "latex" else ABSENT
    if math.isnan(cell.mean):
        return UNDEFINED
    scale = 100 if in_percent(table.value) else 1
    mean, width = scale * cell.mean, cell.spread(spread)
    number = (lambda x: f"{x:.1f}") if scale == 100 else (lambda x: f"{x:.3g}")
    spread_text = None if width is None else number(scale * width)
    if kind == "latex":
        return latex_number(number(mean), spread_text, key == table.best, key in table.level)
    text = number(mean) + ("" if spread_text is None else f" ± {spread_text}")
    if key == table.best:
        text = {"terminal": f"[bold]{text}[/bold]", "markdown": f"**{text}**"}[kind]
    return text + (" †" if key in table.level else "")


def _csv(table: Pivot) -> str:
    """One line per run, for programs; an undefined number is `nan`. `chosen_lr` is there where any run chose."""
    chose = any(cell.rates for cell in table.cells.values())
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        [*map(csv_cell, [*table.row_fields, *table.column_fields, "seeds", table.value]), *["chosen_lr"] * chose]
    )
    for (row, column), cell in table.cells.items():
        for seeds, value in cell.values.items():
            rate = [cell.rates.get(seeds, "")] if chose else []
            writer.writerow([*map(csv_cell, (*row, *column, " ".join(seeds))), repr(value), *rate])
    return stream.getvalue()
