"""Any value of many runs against any of their settings: mean and spread over seeds, the best and what equals it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import numpy as np

from image2point.errors import InputError
from image2point.report.arms import IDLE
from image2point.report.read import Record
from image2point.sweeps.comparison import Comparison, compared

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
        """Keys of the cells that no test tells from the best, those that share too few seeds with it included.

        Where every cell has one run, nothing was to be tested.
        """
        if all(len(cell.values) == 1 for cell in self.cells.values()):
            return frozenset()
        defined = {key for key, cell in self.cells.items() if not math.isnan(cell.mean)}
        told = {key for key, each in self.comparisons.items() if each.told_apart}
        return frozenset(defined - told - {self.best}) if self.best else frozenset()


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
                near = near or get_close_matches(name, list(run.settings), 1)
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
            where = named((*rows, *columns), (*key[0], *key[1]))
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
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
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


def named(fields: Sequence[str], key: Key) -> str:
    """The settings of a row, a column or a cell, in words."""
    return ", ".join(f"{field}={value}" for field, value in zip(fields, key, strict=True))


def in_percent(value: str) -> bool:
    """Whether a value is written in per cent: accuracies are."""
    return any(word in value for word in ("accuracy", "miou", "final.per_class."))
