"""Any value of many runs against any of their settings: mean and spread over seeds, the best and what equals it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.table import Table

from image2point.errors import InputError
from image2point.files import csv_cell
from image2point.report.arms import IDLE
from image2point.report.numbers import ABSENT, UNDEFINED
from image2point.report.plain import cell_text, markdown_table
from image2point.report.read import Record
from image2point.sweeps.comparison import Comparison, compared
from image2point.sweeps.latex import latex_number, latex_table, latex_text

FORMATS = ("terminal", "markdown", "latex", "csv")
SPREADS = ("sd", "interval")
BEST = ("max", "min", "none")
Key = tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """The runs of one cell: `values` by what tells them apart (their seeds), NaN where a run has no number.

    rates: by the same keys, the learning rates that runs chose on validation clouds.
    """

    values: Mapping[Key, float]
    rates: Mapping[Key, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """NaN where it is undefined for any run: a mean over the others would mislead."""
        return float(np.mean(list(self.values.values())))

    def spread(self, kind: str) -> float | None:
        """Sample standard deviation, or half the 95 % confidence interval of the mean (Student); None for one run."""
        count = len(self.values)
        if count < 2:
            return None
        sd = float(np.std(list(self.values.values()), ddof=1))
        if kind == "sd":
            return sd
        from scipy.stats import t

        return float(t.ppf(0.975, count - 1)) * sd / math.sqrt(count)


@dataclass(frozen=True)
class Pivot:
    """A value against settings.

    Attributes:
        cells: by the values of the row fields and of the column fields; a missing one has no run.
        best: keys of the best cell; None where nothing was asked to be best.
        comparisons: of the best cell with each other one that shares two seeds or more, p-values corrected by Holm.
    """

    row_fields: Key
    column_fields: Key
    value: str
    rows: tuple[Key, ...]
    columns: tuple[Key, ...]
    cells: Mapping[tuple[Key, Key], Cell]
    best: tuple[Key, Key] | None
    comparisons: Mapping[tuple[Key, Key], Comparison]

    @property
    def level(self) -> frozenset[tuple[Key, Key]]:
        """Keys of the cells that the corrected test does not tell from the best."""
        return frozenset(key for key, each in self.comparisons.items() if not each.told_apart)


def value_of(run: Record, name: str) -> float | None:
    """A number of a run by its dotted name in summary.json (`final.test_accuracy`, `collapse.test.nc1`), or None.

    Raises:
        InputError: where there is no such number; it names those that are near.
    """
    numbers = dict(_numbers(run.summary.model_dump()))
    if name not in numbers:
        near = [key for key in numbers if name.rpartition(".")[2] in key] or list(numbers)
        raise InputError(f"{run.path} has no number {name!r}; it has {', '.join(near[:12])}")
    return numbers[name]


def _numbers(content: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, float | None]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}.")
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield f"{prefix}{key}", value


def pivot(runs: Sequence[Record], rows: Sequence[str], columns: Sequence[str], value: str, best: str = "max") -> Pivot:
    """Arrange runs by their settings.

    Args:
        rows, columns: dotted names of settings (`network.rule`, `arm`); together they must tell apart all that the runs
            differ in, but for seeds and what does not touch results.
        value: see `value_of`.
        best: `max`, `min` or `none`.

    Raises:
        InputError: on an unknown setting or value, and where runs of one cell differ in more than seeds.
    """
    if not runs:
        raise InputError("a table needs at least one finished run")
    for name in (*rows, *columns):
        for run in runs:
            if name not in run.settings:
                near = [known for known in run.settings if known.endswith(name.rpartition(".")[2])]
                hint = f"; did you mean {near[0]}?" if near else ""
                raise InputError(f"{run.path} has no setting {name!r}{hint}")
    groups: dict[tuple[Key, Key], list[Record]] = {}
    for run in runs:
        key = tuple(_text(run, f) for f in rows), tuple(_text(run, f) for f in columns)
        groups.setdefault(key, []).append(run)
    seeds = [name for name in _varying(runs) if _is_seed(name)]
    cells = {}
    for key, members in groups.items():
        _check_alike(members, (*rows, *columns))
        numbers = {tuple(_text(run, f) for f in seeds): value_of(run, value) for run in members}
        if len(numbers) < len(members):
            where = _named((*rows, *columns), (*key[0], *key[1]))
            raise InputError(f"two runs of the cell {where} have the same seeds; leave one of them out")
        rates = {tuple(_text(run, f) for f in seeds): run.summary.chosen_lr for run in members}
        cells[key] = Cell(
            {seed: math.nan if n is None else float(n) for seed, n in numbers.items()},
            {seed: rate for seed, rate in rates.items() if rate is not None},
        )
    top = _best(cells, best)
    return Pivot(
        tuple(rows), tuple(columns), value,
        tuple(dict.fromkeys(key[0] for key in groups)), tuple(dict.fromkeys(key[1] for key in groups)),
        cells, top, _comparisons(cells, top),
    )  # fmt: skip


def _text(run: Record, field: str) -> str:
    value = run.settings[field]
    return "all" if value is None and field == "data.shots" else str(value)


def _varying(runs: Sequence[Record]) -> list[str]:
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [name for name in names if len({repr(run.settings.get(name)) for run in runs}) > 1]


def _is_seed(name: str) -> bool:
    return name.rpartition(".")[2] in ("seed", "shot_seed")


def _check_alike(runs: Sequence[Record], fields: Sequence[str]) -> None:
    idle = (*IDLE, "report.", "collapse.")
    others = [name for name in _varying(runs) if not name.startswith(idle) and not _is_seed(name)]
    if others:
        raise InputError(
            f"{runs[0].path} and {len(runs) - 1} more runs are in one cell of {', '.join(fields)} but differ in "
            f"{', '.join(others)}; add that to --rows or --cols, or choose runs with --where"
        )


def _best(cells: Mapping[tuple[Key, Key], Cell], best: str) -> tuple[Key, Key] | None:
    defined = [key for key, cell in cells.items() if math.isfinite(cell.mean)]
    if best == "none" or len(defined) < 2:
        return None
    choose = {"max": max, "min": min}[best]
    return choose(defined, key=lambda key: cells[key].mean)


def _comparisons(
    cells: Mapping[tuple[Key, Key], Cell], top: tuple[Key, Key] | None
) -> dict[tuple[Key, Key], Comparison]:
    """The best cell against every other, over the seeds they share; those that have too few are left out."""
    if top is None:
        return {}
    others = [key for key in cells if key != top]
    found = compared([(cells[top].values, cells[key].values) for key in others])
    return {key: each for key, each in zip(others, found, strict=True) if each is not None}


def _named(fields: Sequence[str], key: Key) -> str:
    return ", ".join(f"{field}={value}" for field, value in zip(fields, key, strict=True))


# --------------------------------------------------------------------------------------------------------- formats


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
    what = f"{_title(table.value)}{' (%)' if in_percent(table.value) else ''}"
    groups, headings = [], [*table.row_fields, what]
    if table.column_fields:
        groups = [("", fields), (f"{what} by {', '.join(table.column_fields)}", len(table.columns))]
        headings = [*table.row_fields, *map(", ".join, table.columns)]
    body = [[*map(latex_text, row), *cells] for row, cells in lines]
    return latex_table(groups, headings, body, _sentences(note(table, spread)), fields)


def _title(value: str) -> str:
    """`final.test_accuracy` as words; what is not under `final` by its name."""
    return value.removeprefix("final.").replace("_", " ") if value.startswith("final.") else value


def _sentences(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def note(table: Pivot, spread: str) -> str:
    """What the numbers of a table are."""
    counts = sorted({len(cell.values) for cell in table.cells.values()})
    runs = " to ".join(str(n) for n in dict.fromkeys((counts[0], counts[-1]))) if counts else "no"
    kind = "s.d." if spread == "sd" else "half the 95 % interval"
    marks = "; bold: best, †: not told from it by a paired t-test at 5 %, corrected by Holm" if table.best else ""
    what = f"{_title(table.value)}{' (%)' if in_percent(table.value) else ''}"
    return f"{what}, mean ± {kind} over {runs} runs per cell{marks}{_rates(table)}"


def comparison_lines(table: Pivot) -> list[str]:
    """The best cell against each other: effect with interval, corrected p, and what so few seeds could find."""
    scale, unit = (100, " points") if in_percent(table.value) else (1, "")
    fields = (*table.row_fields, *table.column_fields)
    lines = []
    for (row, column), each in table.comparisons.items():
        effect = each.effect
        lines.append(
            f"best against {_named(fields, (*row, *column))}: {scale * effect.value:+.3g}{unit} "
            f"[{scale * effect.low:+.3g}, {scale * effect.high:+.3g}] over {each.seeds} seeds, "
            f"p = {each.p:.2g} (Holm); effects below {scale * each.detectable:.2g} would be missed more than one time "
            "in five"
        )
    return lines


def _rates(table: Pivot) -> str:
    """The learning rates that were chosen on validation clouds, by cell; '' where none were."""
    fields = (*table.row_fields, *table.column_fields)
    told = [
        f"{_named(fields, (*row, *column))}: {', '.join(f'{rate:g}' for rate in cell.rates.values())}"
        for (row, column), cell in table.cells.items()
        if cell.rates
    ]
    return f"; learning rates, chosen on validation clouds: {'; '.join(told)}" if told else ""


def in_percent(value: str) -> bool:
    """Whether a value is written in per cent: accuracies are."""
    return any(word in value for word in ("accuracy", "miou", "final.per_class."))


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


# ------------------------------------------------------------------------------------------------------------ runs


def run_folders(paths: Iterable[str | Path]) -> list[Path]:
    """Run directories: those given, and the finished ones in folders that are none themselves.

    Raises:
        InputError: where a folder is missing or has no finished run.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if (path / "config.yaml").is_file():
            found.append(path)
            continue
        inside = sorted(p.parent for p in path.glob("*/summary.json"))
        if not inside:
            raise InputError(f"{path} is neither a run nor a folder with finished runs")
        found += inside
    return found


def select(runs: Iterable[Record], conditions: Sequence[str]) -> list[Record]:
    """The runs for which every `setting=value` holds, the value as YAML.

    Raises:
        InputError: where a condition is none, or no run is left.
    """
    kept = list(runs)
    for text in conditions:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--where {text!r} should be setting=value, for example network.rule=repeat")
        wanted = yaml.safe_load(value)
        kept = [run for run in kept if run.settings.get(name, _MISSING) == wanted]
    if not kept:
        raise InputError(f"no run has {' and '.join(conditions) or 'been given'}")
    return kept


_MISSING = object()
