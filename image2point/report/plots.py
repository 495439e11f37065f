"""Figures for paper: matplotlib, written as vector files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from image2point import files
from image2point.collapse.intervals import Interval
from image2point.errors import InputError, one_line
from image2point.report.charts import PALETTE, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vPX*"
WIDE = 30.0
"""Numbers that span more than this factor have a logarithmic axis."""


@dataclass(frozen=True)
class Panel:
    """Curves over the same positions: label → one interval for each, None where there is nothing."""

    title: str
    curves: Mapping[str, Sequence[Interval | None]]
    logarithmic: bool = False
    percent: bool = False


@dataclass(frozen=True)
class Point:
    """Two numbers, the second with its interval."""

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


def grid(panels: int, columns: int, width: float, height: float, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure of this size in inches with so many panels, and the axes of each."""
    rows = -(-panels // columns)
    figure, axes = pyplot().subplots(rows, columns, figsize=(width, height), squeeze=False, **shared)
    figure.set_layout_engine("constrained")
    for axis in axes.flat[panels:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:panels])


def tidy(axis: Axes, lines: Literal["x", "y", "both"] = "y", labels: Literal["x", "y", "both"] = "both") -> None:
    """Pale grid lines, small labels, and no frame on the far sides."""
    axis.grid(axis=lines, color=RULE, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(axis=labels, labelsize=7)


def words(text: str) -> str:
    """Text from a run as matplotlib shall write it: no formula, and no character that XML does not allow."""
    return one_line(text, 200).replace("$", r"\$")


def curves(panels: Sequence[Panel], places: Sequence[str] | Sequence[float], xlabel: str, columns: int = 2) -> Figure:
    """Panels of curves with error bars over named places, or over numbers in rising order; the colour of a label is
    the same in every panel. Numbers that span more than `WIDE` are on a logarithmic axis."""
    numbers = [float(place) for place in places if not isinstance(place, str)]
    x = numbers or [float(i) for i in range(len(places))]
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = grid(len(panels), columns, max(3.4, 0.17 * len(places)) * columns, 2.7 * rows)
    labels = list(dict.fromkeys(label for panel in panels for label in panel.curves))
    for axis, panel in zip(axes, panels, strict=True):
        for label, values in panel.curves.items():
            there = [(place, value) for place, value in zip(x, values, strict=True) if value is not None]
            style = {"linewidth": 1.2, "markersize": 3.5, **_style(labels, label)}
            _with_bars(axis, label, [place for place, _ in there], [v for _, v in there], panel.percent, style)
        axis.set_title(words(panel.title) + (" (%)" if panel.percent else ""), fontsize=9, loc="left")
        if panel.logarithmic:
            axis.set_yscale("log")
        if numbers:
            _scale(axis, numbers)
        else:
            names = [words(str(place)) for place in places]
            axis.set_xticks(x, names, rotation=90 if len(places) > 6 else 0, fontsize=7)
        tidy(axis, labels="both" if numbers else "y")
    for axis in axes[-columns:]:  # nothing stands below these
        axis.set_xlabel(words(xlabel), fontsize=8)
    _legend(figure, axes)
    return figure


def scatter(panels: Sequence[Scatter], ylabel: str, columns: int = 3, y_percent: bool = False) -> Figure:
    """Panels of points with error bars, on one vertical axis; the colour of a label is the same in every panel."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = grid(len(panels), columns, 3.0 * columns, 2.7 * rows, sharey=True)
    labels = list(dict.fromkeys(label for panel in panels for label in panel.points))
    for axis, panel in zip(axes, panels, strict=True):
        wide = 100.0 if panel.x_percent else 1.0
        for label in labels:
            there = [p for p in panel.points.get(label, ()) if isfinite(p.x) and isfinite(p.y.value)]
            style = {"linestyle": "none", "markersize": 4.5, **_style(labels, label)}
            _with_bars(axis, label, [wide * p.x for p in there], [p.y for p in there], y_percent, style)
        axis.set_title(words(panel.title), fontsize=9, loc="left")
        axis.set_xlabel(words(panel.xlabel), fontsize=8)
        tidy(axis, "both")
    for axis in axes[::columns]:
        axis.set_ylabel(words(ylabel), fontsize=8)
    _legend(figure, axes)
    return figure


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One above all panels, where there is more than one label."""
    handles, names = axes[0].get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(handles, names, loc="outside upper center", ncols=min(4, len(names)), fontsize=8, frameon=False)


def _style(labels: Sequence[str], label: str) -> dict[str, Any]:
    number = labels.index(label)
    return {"color": PALETTE[number % len(PALETTE)], "marker": MARKERS[number % len(MARKERS)]}


def _with_bars(
    axis: Axes, label: str, x: Sequence[float], values: Sequence[Interval], percent: bool, style: dict[str, Any]
) -> None:
    """A curve or points, and how far each interval reaches below and above; an undefined one has no bar."""
    scale = 100.0 if percent else 1.0
    y = [scale * v.value for v in values]
    reach = [[scale * abs(v.value - v.low) for v in values], [scale * abs(v.high - v.value) for v in values]]
    bars = [[0.0 if bar != bar else bar for bar in side] for side in reach]
    axis.plot(x, y, label=words(label), **style)
    axis.errorbar(x, y, bars, fmt="none", ecolor=style["color"], elinewidth=0.8, capsize=2)


def _scale(axis: Axes, x: Sequence[float]) -> None:
    """A numeric axis whose ticks are the numbers themselves."""
    if min(x) > 0 and max(x) > WIDE * min(x):
        axis.set_xscale("log")
    axis.set_xticks(x, [f"{number:g}" for number in x])
    axis.set_xticks([], minor=True)


FORMATS: dict[str, dict[str, Any]] = {
    ".svg": {"metadata": {"Date": None}},
    ".pdf": {"metadata": {"CreationDate": None}},
    ".png": {"metadata": {"Software": None}, "dpi": 200},
}
"""What a file of this suffix is written with: no date, so that the same figure gives the same bytes."""


def check_suffix(path: Path) -> None:
    """InputError unless a figure can be written to `path`."""
    if path.suffix not in FORMATS:
        raise InputError(f"a figure should end in one of {', '.join(FORMATS)}, found {path}")


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure as SVG, PDF or PNG, by the suffix of `path`."""
    check_suffix(path)
    plt = pyplot()
    with files.writing(path) as temporary, plt.rc_context({"svg.hashsalt": "image2point", "svg.fonttype": "none"}):
        figure.savefig(temporary, format=path.suffix[1:], **FORMATS[path.suffix])
    plt.close(figure)
