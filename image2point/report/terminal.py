"""Measures of collapse by layer, as tables on the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from image2point.collapse.layers import LayerMeasures
from image2point.report.numbers import ABSENT, UNDEFINED, beside_null
from image2point.report.plain import Table

if TYPE_CHECKING:
    from rich.console import Console

SHARES = {"ncc_accuracy", "nc4"}
HIDDEN_IF_ZERO = {"cdnv_corrected_undefined", "absent", "singletons"}


def print_measured(
    measured: Sequence[tuple[str, int, int, Mapping[str, LayerMeasures]]], console: Console | None = None
) -> None:
    """One table for each (split, samples, classes, measures by layer)."""
    for split, samples, classes, layers in measured:
        names = list(dict.fromkeys(name for each in layers.values() for name in each.values))
        names = [n for n in names if n not in HIDDEN_IF_ZERO or any(each.values.get(n) for each in layers.values())]
        rows = []
        for layer, each in layers.items():
            rows.append((layer, str(each.means.shape[1]), *(_cell(each, name) for name in names)))
            if each.nulls:
                rows.append(("  null", "", *(_null(each, name) for name in names)))
        title = f"{split}: {samples:,} samples of {classes} classes{_contributing(layers)}"
        over = {i.over for each in layers.values() for i in each.intervals.values()}
        if over:
            title += f"; ± standard error over {' and '.join(sorted(over))}"
        if any(each.nulls for each in layers.values()):
            title += "; null: of permuted labels, ± s.d. over permutations, and the value as a share of it"
        Table(("layer", "dim", *names), tuple(rows), title=title).show(console)


def _cell(measures: LayerMeasures, name: str) -> str:
    """The value with its standard error; shares in per cent."""
    if name not in measures.values:
        return ABSENT
    scale, unit = (100, " %") if name in SHARES else (1, "")
    value, interval = measures.values[name], measures.intervals.get(name)
    if math.isnan(value):
        return UNDEFINED
    text = f"{scale * value:.4g}{unit}"
    return text if interval is None or math.isnan(interval.error) else f"{text} ± {scale * interval.error:.2g}"


def _null(measures: LayerMeasures, name: str) -> str:
    """The null of a measure, and the share of it that the value is."""
    if name not in measures.nulls:
        return ""
    return beside_null(measures.values[name], *measures.nulls[name], percent=name in SHARES)


def _contributing(layers: Mapping[str, LayerMeasures]) -> str:
    """Which classes measures of variability speak for, where these are not all that occur."""
    count = next(iter(layers.values())).count
    several = int((count > 1).sum())
    return "" if several == int((count > 0).sum()) else f", {several} of them with two or more (NC1, CDNV)"
