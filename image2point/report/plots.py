"""Figures for paper: matplotlib, written as vector files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image2point import files
from image2point.collapse.intervals import Interval
from image2point.errors import InputError
from image2point.report.figures import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vPX*"
WIDE = 30.0
"""Ratio of the largest to the smallest number from which on their axis is logarithmic."""


@dataclass(frozen=True)
class Panel:
    """Curves over the same places: label → one interval for each place, None where there is nothing."""

    title: str
    curves: Mapping[str, Sequence[Interval | None]]
    logarithmic: bool = False
    percent: bool = False


@dataclass(frozen=True)
class Point:
    """A thing with two numbers, the second with its interval."""

    x: float
    y: Interval


@dataclass(frozen=True)
class Scatter:
    """Points by label."""

    title: str
    xlabel: str
    points: Mapping[str, Sequence[Point]]
    x_percent: bool = False


def pyplot() -> Any:
    """matplotlib.pyplot without a screen; InputError where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("figures need matplotlib: pip install 'image2point[figures]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def curves(panels: Sequence[Panel], places: Sequence[str] | Sequence[float], xlabel: str, columns: int = 2) -> Figure:
    """Panels of curves with error bars over named places, or over numbers in rising order; the colour of a label is
    the same in every panel. Numbers that span more than `WIDE` are on a logarithmic axis."""
    plt = pyplot()
    numeric = bool(places) and not isinstance(places[0], str)
    x = [float(place) for place in places] if numeric else [float(i) for i in range(len(places))]
    rows = -(-len(panels) // columns)
    columns = min(columns, len(panels))
    width = max(3.4, 0.17 * len(places))
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, 2.7 * rows), squeeze=False)
    labels = list(dict.fromkeys(label for panel in panels for label in panel.curves))
    for axis, panel in zip(axes.flat, panels, strict=False):
        for label, values in panel.curves.items():
            _curve(axis, x, values, label, _style(labels, label), 100.0 if panel.percent else 1.0)
        axis.set_title(panel.title + (" (%)" if panel.percent else ""), fontsize=9, loc="left")
        if panel.logarithmic:
            axis.set_yscale("log")
        if numeric:
            _scale(axis, x)
        else:
            axis.set_xticks(x, places, rotation=90 if len(places) > 6 else 0, fontsize=7)
        axis.tick_params(axis="y" if not numeric else "both", labelsize=7)
        axis.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel(xlabel, fontsize=8)
    _finish(figure, axes, len(panels))
    return figure


def scatter(panels: Sequence[Scatter], ylabel: str, columns: int = 3, y_percent: bool = False) -> Figure:
    """Panels of points with error bars, on one vertical axis; the colour of a label is the same in every panel."""
    plt = pyplot()
    rows, columns = -(-len(panels) // columns), min(columns, len(panels))
    figure, axes = plt.subplots(rows, columns, figsize=(3.0 * columns, 2.7 * rows), squeeze=False, sharey=True)
    labels = list(dict.fromkeys(label for panel in panels for label in panel.points))
    tall = 100.0 if y_percent else 1.0
    for axis, panel in zip(axes.flat, panels, strict=False):
        wide = 100.0 if panel.x_percent else 1.0
        for label in labels:
            there = [p for p in panel.points.get(label, ()) if isfinite(p.x) and isfinite(p.y.value)]
            style = _style(labels, label)
            x, (y, bars) = [wide * p.x for p in there], _bars([p.y for p in there], tall)
            axis.plot(x, y, label=label, linestyle="none", markersize=4.5, **style)
            axis.errorbar(x, y, bars, fmt="none", ecolor=style["color"], elinewidth=0.8, capsize=2)
        axis.set_title(panel.title, fontsize=9, loc="left")
        axis.set_xlabel(panel.xlabel, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(color="#e6e6e6", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel(ylabel, fontsize=8)
    _finish(figure, axes, len(panels))
    return figure


def _finish(figure: Figure, axes: Any, used: int) -> None:
    """Hide the panels that nothing is in, and put one legend above all."""
    for axis in axes.flat[used:]:
        axis.set_visible(False)
    handles, names = axes.flat[0].get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(handles, names, loc="outside upper center", ncols=min(4, len(names)), fontsize=8, frameon=False)
    figure.set_layout_engine("constrained")


def _style(labels: Sequence[str], label: str) -> dict[str, Any]:
    number = labels.index(label)
    return {"color": PALETTE[number % len(PALETTE)], "marker": MARKERS[number % len(MARKERS)]}


def _bars(values: Sequence[Interval], scale: float) -> tuple[list[float], list[list[float]]]:
    """Heights, and how far the error bars reach below and above; an undefined interval has none."""
    reach = [[scale * abs(v.value - v.low) for v in values], [scale * abs(v.high - v.value) for v in values]]
    return [scale * v.value for v in values], [[0.0 if bar != bar else bar for bar in side] for side in reach]


def _scale(axis: Axes, x: Sequence[float]) -> None:
    """A numeric axis whose ticks are the numbers themselves."""
    if min(x) > 0 and max(x) > WIDE * min(x):
        axis.set_xscale("log")
    axis.set_xticks(x, [f"{number:g}" for number in x])
    axis.set_xticks([], minor=True)


def _curve(
    axis: Axes,
    places: Sequence[float],
    values: Sequence[Interval | None],
    label: str,
    style: dict[str, Any],
    scale: float,
) -> None:
    there = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
    x, (y, bars) = [place for place, _ in there], _bars([value for _, value in there], scale)
    axis.plot(x, y, label=label, linewidth=1.2, markersize=3.5, **style)
    axis.errorbar(x, y, bars, fmt="none", ecolor=style["color"], elinewidth=0.8, capsize=2)


FORMATS: dict[str, dict[str, Any]] = {
    ".svg": {"metadata": {"Date": None}},
    ".pdf": {"metadata": {"CreationDate": None}},
    ".png": {"metadata": {"Software": None}, "dpi": 200},
}
"""What is written by suffix, without a date."""


def check_suffix(path: Path) -> None:
    """InputError unless a figure can be written to `path`."""
    if path.suffix not in FORMATS:
        raise InputError(f"a figure should end in one of {', '.join(FORMATS)}, found {path}")


def save(figure: Figure, path: Path) -> None:
    """Write the figure as SVG, PDF or PNG, by the suffix of `path`; the same figure gives the same bytes."""
    check_suffix(path)
    plt = pyplot()
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.writing(path) as temporary, plt.rc_context({"svg.hashsalt": "image2point", "svg.fonttype": "none"}):
        figure.savefig(temporary, format=path.suffix[1:], **FORMATS[path.suffix])
    plt.close(figure)
