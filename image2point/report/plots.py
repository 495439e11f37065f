"""Figures for paper: matplotlib, written as vector files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Panel:
    """Curves over the same places: label → one interval for each place, None where there is nothing."""

    title: str
    curves: Mapping[str, Sequence[Interval | None]]
    logarithmic: bool = False
    percent: bool = False


def pyplot() -> Any:
    """matplotlib.pyplot without a screen; InputError where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("figures need matplotlib: pip install 'image2point[figures]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def curves(panels: Sequence[Panel], places: Sequence[str], xlabel: str, columns: int = 2) -> Figure:
    """Panels of curves with error bars over named places; the colour of a label is the same in every panel."""
    plt = pyplot()
    rows = -(-len(panels) // columns)
    columns = min(columns, len(panels))
    width = max(3.4, 0.17 * len(places))
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, 2.7 * rows), squeeze=False)
    labels = list(dict.fromkeys(label for panel in panels for label in panel.curves))
    for axis, panel in zip(axes.flat, panels, strict=False):
        for label, values in panel.curves.items():
            style = {"color": PALETTE[labels.index(label) % len(PALETTE)]}
            style |= {"marker": MARKERS[labels.index(label) % len(MARKERS)]}
            _curve(axis, values, label, style, 100.0 if panel.percent else 1.0)
        axis.set_title(panel.title + (" (%)" if panel.percent else ""), fontsize=9, loc="left")
        if panel.logarithmic:
            axis.set_yscale("log")
        axis.set_xticks(range(len(places)), places, rotation=90 if len(places) > 6 else 0, fontsize=7)
        axis.tick_params(axis="y", labelsize=7)
        axis.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel(xlabel, fontsize=8)
    handles, names = axes.flat[0].get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(handles, names, loc="outside upper center", ncols=min(4, len(names)), fontsize=8, frameon=False)
    figure.set_layout_engine("constrained")
    return figure


def _curve(axis: Axes, values: Sequence[Interval | None], label: str, style: dict[str, Any], scale: float) -> None:
    there = [(place, value) for place, value in enumerate(values) if value is not None]
    x = [place for place, _ in there]
    y = [scale * value.value for _, value in there]
    reach = [[scale * abs(v.value - v.low) for _, v in there], [scale * abs(v.high - v.value) for _, v in there]]
    axis.plot(x, y, label=label, linewidth=1.2, markersize=3.5, **style)
    bars = [[0.0 if bar != bar else bar for bar in side] for side in reach]
    axis.errorbar(x, y, bars, fmt="none", ecolor=style["color"], elinewidth=0.8, capsize=2)


def save(figure: Figure, path: Path) -> None:
    """Write the figure as SVG or PDF, by the suffix of `path`; the same figure gives the same bytes."""
    plt = pyplot()
    path.parent.mkdir(parents=True, exist_ok=True)
    undated = {"Date": None} if path.suffix == ".svg" else {"CreationDate": None}
    with files.writing(path) as temporary, plt.rc_context({"svg.hashsalt": "image2point", "svg.fonttype": "none"}):
        figure.savefig(temporary, format=path.suffix[1:], metadata=undated)
    plt.close(figure)
