"""The figures of the page as files for paper: SVG and PDF, one figure a file, by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from image2point.errors import InputError
from image2point.report import charts, maps
from image2point.report.arms import Arm, group
from image2point.report.charts import DIVERGING, INK, Chart, Tuned, bar_ticks, colour, count_ticks
from image2point.report.plots import MARKERS, grid, save_figure, tidy, words
from image2point.report.read import read_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES: dict[str, Any] = {"train": "-", "validation": ":", "test": "--"}
WIDTH = 7.0
"""Of a figure, in inches: the text width of most papers in one column."""


def write_figures(runs: Iterable[str | Path], folder: str | Path) -> list[Path]:
    """Write every figure that the runs have the numbers for, each as FOLDER/NAME.svg and .pdf; return the paths.

    learning, collapse: curves over epochs, means over the runs of an arm and ± 1 s.d. layers: heat maps, where layers
    were followed. cosines, plane: where the classes lie. tuned: test scores over the parameters that train, where arms
    differ in them. filled: how kernels fill the depth, where that was learnt. Raises InputError as `report.build` does,
    and where matplotlib is missing.
    """
    arms = group(read_runs(runs))
    drawn = {
        "learning": curve_panels(charts.learning_charts(arms), arms),
        "collapse": curve_panels(charts.collapse_charts(arms), arms),
        "layers": heat_maps(maps.depth(arms)),
        "cosines": heat_maps(maps.cosines(arms)),
        "plane": plane_views(maps.planes(arms)),
        "tuned": tuned_points(charts.tuned(arms), arms),
        "filled": heat_maps(maps.filled(arms)),
    }
    written = []
    for name, figure in drawn.items():
        if figure is not None:
            for suffix in (".svg", ".pdf"):
                path = Path(folder) / f"{name}{suffix}"
                try:
                    save_figure(figure, path)
                except OSError as error:
                    raise InputError(f"cannot write the figure {path}: {error.strerror or error}") from None
                written.append(path)
    return written


def curve_panels(shown: Sequence[Chart], arms: Sequence[Arm]) -> Figure | None:
    """A panel for each chart; None where there is none."""
    if not shown:
        return None
    last = max(1.0, *(chart.last_epoch for chart in shown))
    figure, axes = _grid(len(shown), min(3, len(shown)), height=2.1)
    for axis, chart in zip(axes, shown, strict=True):
        for line in chart.lines:
            _line(axis, line, chart.quantity.scale)
        axis.set_xlim(-0.03 * last, 1.03 * last)
        if (ticks := chart.ticks) is not None:
            axis.set_yscale("log")
            limits = axis.get_ylim()
            axis.set_yticks(*ticks)
            axis.minorticks_off()
            axis.set_ylim(limits)
        axis.set_title(chart.quantity.heading, fontsize=8, loc="left")
        tidy(axis)
        axis.set_xlabel("epoch", fontsize=7)
    _legend(figure, arms, charts.splits_of(shown))
    return figure


def tuned_points(marks: Sequence[Tuned], arms: Sequence[Arm]) -> Figure | None:
    """A point for each arm, with a bar of ± 1 s.d. over its runs; None where there is none."""
    if not marks:
        return None
    figure, (axis,) = _grid(1, 1, height=2.6)
    for mark in marks:
        style: dict[str, Any] = {"marker": MARKERS[mark.arm % len(MARKERS)], "color": colour(mark.arm), "markersize": 5}
        sd = 100 * (mark.score.sd or 0)
        style |= {"linestyle": "none", "elinewidth": 0.8, "capsize": 2, "label": words(mark.label)}
        axis.errorbar(mark.parameters, 100 * mark.score.mean, sd or None, **style)
    axis.set_xscale("log")
    limits = axis.get_xlim()
    axis.set_xticks(*count_ticks([mark.parameters for mark in marks]))
    axis.minorticks_off()
    axis.set_xlim(limits)
    axis.set_xlabel("parameters that train", fontsize=7)
    axis.set_title(f"{arms[0].display.scored} (%)", fontsize=8, loc="left")
    tidy(axis, "both")
    figure.legend(loc="outside upper center", ncols=4, fontsize=7, frameon=False)
    return figure


def _line(axis: Axes, line: charts.Line, scale: float) -> None:
    curve, sd, hue = line.curve, np.nan_to_num(line.curve.sd), colour(line.arm)
    style: dict[str, Any] = {"color": hue, "linestyle": STYLES[line.split], "linewidth": 1.1}
    style |= {"marker": "o" if len(curve.epochs) < 20 else "", "markersize": 2.5}
    style |= {"markerfacecolor": hue if line.split == "train" else "white", "markeredgewidth": 0.8}
    axis.plot(curve.epochs, scale * curve.mean, **style)
    if sd.any():
        low, high = scale * (curve.mean - sd), scale * (curve.mean + sd)
        axis.fill_between(curve.epochs, low, high, color=hue, alpha=0.14, linewidth=0)


def _legend(figure: Figure, arms: Sequence[Arm], splits: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour(i), label=words(arm.label)) for i, arm in enumerate(arms) if len(arms) > 1]
    handles += [Line2D([], [], color=INK, linewidth=1.1, linestyle=STYLES[s], label=s) for s in splits]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)), fontsize=7, frameon=False)


def heat_maps(heats: Sequence[maps.Heat]) -> Figure | None:
    """Two in a row; cosines as squares, all names written."""
    if not heats:
        return None
    square = heats[0].scale == "cosine"
    most = max(len(heat.rows) for heat in heats)
    size = min(5.0, max(4.0, 6.5 * 40 / most)) if most > 12 else 7.0
    height = WIDTH / 2 - 0.3 if square else 0.9 + max(0.14 * most, 1.0)
    figure, axes = _grid(len(heats), 2, height)
    for axis, heat in zip(axes, heats, strict=True):
        _heat(figure, axis, heat, size)
    return figure


def _heat(figure: Figure, axis: Axes, heat: maps.Heat, size: float) -> None:
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize

    scale = 100.0 if heat.scale == "percent" else 1.0
    low, high = scale * heat.low, scale * (heat.high if heat.high > heat.low else heat.low * 1.01)
    norm = LogNorm(low, high) if heat.scale == "logarithmic" else Normalize(low, high)
    colours: Any = "viridis"
    if heat.scale == "cosine":
        colours = LinearSegmentedColormap.from_list("cosine", DIVERGING)
    # Cells as shapes, not as an embedded picture: they stay sharp, and nothing smooths them.
    edges = [np.arange(length + 1) - 0.5 for length in (len(heat.columns), len(heat.rows))]
    cells = np.ma.masked_invalid(scale * heat.values.astype(float))
    lines = "face" if len(heat.rows) > 25 else "white"  # white ones would swallow small cells
    mesh = axis.pcolormesh(*edges, cells, norm=norm, cmap=colours, edgecolors=lines, linewidth=0.15)
    axis.invert_yaxis()
    if heat.scale == "cosine":
        axis.set_aspect("equal")
    else:
        axis.set_xlabel("slice of the depth" if heat.scale == "plain" else "epoch", fontsize=7)
    if len(heat.rows) <= 60:
        axis.set_yticks(range(len(heat.rows)), [*map(words, heat.rows)], fontsize=size)
        turn = 90 if heat.scale == "cosine" else 0
        axis.set_xticks(range(len(heat.columns)), [*map(words, heat.columns)], fontsize=size, rotation=turn)
    else:
        axis.set_xticks([])
        axis.set_yticks([])
    axis.tick_params(length=0, pad=1.5)
    axis.spines[:].set_visible(False)
    axis.set_title(words(heat.title), fontsize=7.5, loc="left")
    bar = figure.colorbar(mesh, ax=axis, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)
    if heat.scale == "logarithmic":
        values, labels = bar_ticks(heat.low, heat.high)
        bar.set_ticks(values, labels=labels)
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=6, length=2)


def plane_views(views: Sequence[maps.PlaneView]) -> Figure | None:
    """Two in a row; names at the means, or numbers and a key of them at the foot."""
    if not views:
        return None
    figure, axes = _grid(len(views), 2, WIDTH / 2)
    for axis, view in zip(axes, views, strict=True):
        colours = np.array(maps.class_colours(len(view.names)))
        axis.scatter(view.points[:, 0], view.points[:, 1], c=colours[view.labels], s=3, alpha=0.45, linewidths=0)
        axis.scatter(
            view.means[:, 0], view.means[:, 1], c=colours, s=11, edgecolors="#111111", linewidths=0.4, zorder=3
        )
        for mean, place, mark in zip(view.means.tolist(), view.places.tolist(), view.marks, strict=True):
            if math.isfinite(mean[0]):
                axis.plot(*zip(mean, place, strict=True), color="#777777", linewidth=0.4, zorder=2)
                halo = {"boxstyle": "circle,pad=0.05", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
                axis.text(place[0], place[1], words(mark), fontsize=5.5, ha="center", va="center", zorder=4, bbox=halo)
        axis.set_xlim(view.corner[0], view.corner[0] + view.side)
        axis.set_ylim(view.corner[1], view.corner[1] + view.side)
        axis.set_aspect("equal")
        axis.tick_params(labelsize=6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_title(words(view.title), fontsize=7.5, loc="left")
        axis.set_xlabel(view.axis_titles[0], fontsize=6.5)
        axis.set_ylabel(view.axis_titles[1], fontsize=6.5)
    first = views[0]
    if first.marks != first.names:
        _key(figure, first)
    return figure


def _key(figure: Figure, view: maps.PlaneView, columns: int = 6) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=3.5, color=colour, label=words(f"{mark} {name}"))
        for colour, mark, name in zip(maps.class_colours(len(view.names)), view.marks, view.names, strict=True)
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, fontsize=6, frameon=False, handletextpad=0.1
    )


def _grid(panels: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of the text width with so many panels, each of this height in inches."""
    return grid(panels, columns, WIDTH, height * -(-panels // columns) + 0.4)
