"""The figures of the page as files for paper: SVG and PDF, one figure a file, by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from image2point.errors import InputError
from image2point.report import maps
from image2point.report.arms import Arm, group
from image2point.report.figures import bar_ticks, colour, log_ticks
from image2point.report.plots import pyplot, save
from image2point.report.quantities import PLOTTED, SPLITS, Quantity
from image2point.report.read import read_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEARNING = (
    Quantity("accuracy", "Accuracy", "", percent=True),
    Quantity("loss", "Loss", ""),
)
STYLES: dict[str, Any] = {"train": "-", "validation": ":", "test": "--"}
WIDTH = 7.0
"""Of a figure, in inches: the text width of most papers in one column."""


def write(runs: Iterable[str | Path], folder: str | Path) -> list[Path]:
    """Write every figure that the runs have the numbers for, each as FOLDER/NAME.svg and .pdf; return the paths.

    learning, collapse: curves over epochs, means over the runs of an arm and ± 1 s.d. layers: heat maps, where layers
    were followed. cosines, plane: where the classes lie. Raises InputError as `report.build` does, and where
    matplotlib is missing.
    """
    arms = group(read_runs(runs))
    drawn = {
        "learning": curves(arms, LEARNING, "{split}_{key}", ("train", "validation", "test")),
        "collapse": curves(arms, PLOTTED, "collapse_{split}/{key}", SPLITS),
        "layers": heat_maps(maps.depth(arms)),
        "cosines": heat_maps(maps.cosines(arms)),
        "plane": plane_views(maps.planes(arms)),
    }
    written = []
    for name, figure in drawn.items():
        if figure is not None:
            for suffix in (".svg", ".pdf"):
                path = Path(folder) / f"{name}{suffix}"
                try:
                    save(figure, path)
                except OSError as error:
                    raise InputError(f"cannot write the figure {path}: {error.strerror or error}") from None
                written.append(path)
    return written


def curves(arms: Sequence[Arm], kinds: Sequence[Quantity], column: str, splits: Sequence[str]) -> Figure | None:
    """A panel for each quantity that any run has, over epochs; None where there is none."""
    found = {
        kind: [
            (index, split, curve)
            for index, arm in enumerate(arms)
            for split in splits
            if (curve := arm.curve(column.format(split=split, key=kind.key))) is not None
        ]
        for kind in kinds
    }
    shown = {kind: lines for kind, lines in found.items() if lines}
    if not shown:
        return None
    last = max(1.0, *(curve.epochs[-1] for lines in shown.values() for *_, curve in lines))
    figure, axes = _grid(len(shown), columns=min(3, len(shown)), height=2.1)
    for axis, (kind, lines) in zip(axes, shown.items(), strict=True):
        scale = 100.0 if kind.percent else 1.0
        for index, split, curve in lines:
            sd = np.nan_to_num(curve.sd)
            style: dict[str, Any] = {"color": colour(index), "linestyle": STYLES[split], "linewidth": 1.1}
            style |= {"marker": "o" if len(curve.epochs) < 20 else "", "markersize": 2.5}
            style |= {"markerfacecolor": colour(index) if split == "train" else "white", "markeredgewidth": 0.8}
            axis.plot(curve.epochs, scale * curve.mean, **style)
            if sd.any():
                low, high = scale * (curve.mean - sd), scale * (curve.mean + sd)
                axis.fill_between(curve.epochs, low, high, color=colour(index), alpha=0.14, linewidth=0)
        axis.set_xlim(-0.03 * last, 1.03 * last)
        means = np.concatenate([curve.mean for *_, curve in lines])
        if kind.logarithmic and means.min() > 0 and means.max() > 8 * means.min():
            axis.set_yscale("log")
            limits, ticks = axis.get_ylim(), log_ticks(float(means.min()), float(means.max()))
            axis.set_yticks(ticks["tickvals"], ticks["ticktext"])
            axis.minorticks_off()
            axis.set_ylim(limits)
        axis.set_title(kind.title + (" (%)" if kind.percent else ""), fontsize=8, loc="left")
        axis.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("epoch", fontsize=7)
    _legend(figure, arms, [s for s in splits if any(s == split for lines in shown.values() for _, split, _ in lines)])
    return figure


def _legend(figure: Figure, arms: Sequence[Arm], splits: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour(i), label=arm.label) for i, arm in enumerate(arms) if len(arms) > 1]
    handles += [Line2D([], [], color="#333333", linewidth=1.1, linestyle=STYLES[s], label=s) for s in splits]
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
        colours = LinearSegmentedColormap.from_list("cosine", ["#2166ac", "#f7f7f7", "#b2182b"])
    # Cells as shapes, not as an embedded picture: they stay sharp, and nothing smooths them.
    edges = [np.arange(length + 1) - 0.5 for length in (len(heat.columns), len(heat.rows))]
    cells = np.ma.masked_invalid(scale * heat.values.astype(float))
    lines = "face" if len(heat.rows) > 25 else "white"  # white ones would swallow small cells
    mesh = axis.pcolormesh(*edges, cells, norm=norm, cmap=colours, edgecolors=lines, linewidth=0.15)
    axis.invert_yaxis()
    if heat.scale == "cosine":
        axis.set_aspect("equal")
    else:
        axis.set_xlabel("epoch", fontsize=7)
    if len(heat.rows) <= 60:
        axis.set_yticks(range(len(heat.rows)), heat.rows, fontsize=size)
        turn = 90 if heat.scale == "cosine" else 0
        axis.set_xticks(range(len(heat.columns)), heat.columns, fontsize=size, rotation=turn)
    else:
        axis.set_xticks([])
        axis.set_yticks([])
    axis.tick_params(length=0, pad=1.5)
    axis.spines[:].set_visible(False)
    axis.set_title(heat.title, fontsize=7.5, loc="left")
    bar = figure.colorbar(mesh, ax=axis, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)
    if heat.scale == "logarithmic":
        ticks = bar_ticks(heat.low, heat.high)
        bar.set_ticks(ticks["tickvals"], labels=ticks["ticktext"])
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
                axis.text(place[0], place[1], mark, fontsize=5.5, ha="center", va="center", zorder=4, bbox=halo)
        axis.set_xlim(view.corner[0], view.corner[0] + view.side)
        axis.set_ylim(view.corner[1], view.corner[1] + view.side)
        axis.set_aspect("equal")
        axis.tick_params(labelsize=6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_title(view.title, fontsize=7.5, loc="left")
        axis.set_xlabel(f"first axis, {100 * view.shares[0]:.0f} % of the means' variance", fontsize=6.5)
        axis.set_ylabel(f"second axis, {100 * view.shares[1]:.0f} %", fontsize=6.5)
    first = views[0]
    if first.marks != first.names:
        _key(figure, first)
    return figure


def _key(figure: Figure, view: maps.PlaneView, columns: int = 6) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=3.5, color=colour, label=f"{mark} {name}")
        for colour, mark, name in zip(maps.class_colours(len(view.names)), view.marks, view.names, strict=True)
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, fontsize=6, frameon=False, handletextpad=0.1
    )


def _grid(panels: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of the text width with so many panels, each of this height in inches."""
    plt = pyplot()
    rows = -(-panels // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height * rows + 0.4), squeeze=False)
    figure.set_layout_engine("constrained")
    for axis in axes.flat[panels:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:panels])
