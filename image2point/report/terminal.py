"""Measures of collapse by layer, as tables on the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from image2point.collapse.layers import LayerMeasures
from image2point.report.numbers import ABSENT, UNDEFINED

if TYPE_CHECKING:
    from rich.console import Console

SHARES = {"ncc_accuracy", "nc4"}
PLAIN_WIDTH = 250
HIDDEN_IF_ZERO = {"cdnv_corrected_undefined", "absent", "singletons"}


def print_measured(
    found: Sequence[tuple[str, int, int, Mapping[str, LayerMeasures]]], console: Console | None = None
) -> None:
    """One table for each (split, samples, classes, measures by layer)."""
    from rich import box
    from rich.table import Table

    console = console or wide_console()
    for split, samples, classes, layers in found:
        names = list(dict.fromkeys(name for each in layers.values() for name in each.values))
        names = [n for n in names if n not in HIDDEN_IF_ZERO or any(each.values.get(n) for each in layers.values())]
        title = f"{split}: {samples:,} samples of {classes} classes{_contributing(layers)}"
        if any(each.intervals for each in layers.values()):
            title += "; ± standard error over samples"
        table = Table("layer", "dim", *names, title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
        for layer, each in layers.items():
            table.add_row(layer, str(each.means.shape[1]), *(cell(each, name) for name in names))
        console.print(table)


def wide_console() -> Console:
    """A console; where it is no terminal (a file, a pipe), wide enough that no table is folded."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def cell(measures: LayerMeasures, name: str) -> str:
    """The value with its standard error; shares in per cent."""
    if name not in measures.values:
        return ABSENT
    scale = 100 if name in SHARES else 1
    value = scale * measures.values[name]
    if math.isnan(value):
        return UNDEFINED
    text = f"{value:.4g}" + (" %" if name in SHARES else "")
    interval = measures.intervals.get(name)
    return text if interval is None or math.isnan(interval.error) else f"{text} ± {scale * interval.error:.2g}"


def _contributing(layers: Mapping[str, LayerMeasures]) -> str:
    """Which classes measures of variability speak for, where these are not all that occur."""
    count = next(iter(layers.values())).count
    several = int((count > 1).sum())
    return "" if several == int((count > 0).sum()) else f", {several} of them with two or more (NC1, CDNV)"
