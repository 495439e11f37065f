"""The figures of the page, as plain plotly descriptions (`data` and `layout`) made from arms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from image2point.report.arms import Arm, Curve, Spread
from image2point.report.numbers import number, percent
from image2point.report.quantities import PLOTTED
from image2point.report.read import Record

# Okabe and Ito's palette without its yellow, which white paper swallows: told apart with any common colour blindness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon")
DASHES = {"train": "solid", "validation": "dot", "test": "dash"}
FONT = '"Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif'
INK, RULE = "#333333", "#e6e6e6"

Figure = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """A figure with its heading, a line that says what is drawn, and its height in pixels."""

    title: str
    meaning: str
    figure: Figure
    height: int = 250


@dataclass(frozen=True)
class Cloud:
    """A test cloud in 3D, its class, and per arm (in order) what the arm's runs called it: [(class, runs), …]."""

    figure: Figure
    label: str
    verdicts: tuple[tuple[tuple[str, int], ...], ...]


def colour(arm: int) -> str:
    """The colour of the arm at this place, the same in every figure and table."""
    return PALETTE[arm % len(PALETTE)]


def learning(arms: Sequence[Arm]) -> list[Panel]:
    """Accuracy and loss over epochs; the chosen weights' accuracy on the test set as one hollow mark per arm."""
    splits = measured(arms, "{}_accuracy", ("train", "validation", "test"))
    accuracy = _curves(arms, {split: f"{split}_accuracy" for split in splits}, percent_axis=True)
    for index, arm in enumerate(arms):
        score = arm.spread(lambda run: run.summary.final.test_accuracy)
        epoch = arm.spread(lambda run: run.summary.chosen_epoch)
        if score is None or epoch is None:
            continue
        accuracy["data"].append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [epoch.mean],
                "y": [100 * score.mean],
                "error_y": {
                    "type": "data",
                    "array": [100 * (score.sd or 0)],
                    "color": colour(index),
                    "thickness": 1.2,
                    "width": 3,
                    "visible": len(arm.runs) > 1,
                },
                "marker": {
                    "color": "white",
                    "size": 9,
                    "symbol": _symbol(index),
                    "line": {"color": colour(index), "width": 2},
                },
                "text": [f"{percent(score)} % on test, chosen weights"],
                "hovertemplate": f"{escape(arm.label)}<br>epoch %{{x:.4~g}}: %{{text}}<extra></extra>",
                "meta": {"arm": index},
            }
        )
    loss = _curves(arms, {split: f"{split}_loss" for split in splits})
    return [
        Panel("Accuracy (%)", "hollow marks: the chosen weights on the test set", accuracy, 320),
        Panel("Loss", "cross-entropy", loss, 320),
    ]


def measured(arms: Sequence[Arm], column: str, splits: Sequence[str]) -> tuple[str, ...]:
    """The splits on which any run measured `column`, in which {} stands for the split."""
    return tuple(split for split in splits if any(arm.curve(column.format(split)) for arm in arms))


def collapse(arms: Sequence[Arm]) -> list[Panel]:
    """One panel per collapse quantity that any run followed over epochs."""
    panels = []
    for kind in PLOTTED:
        columns = {split: f"collapse_{split}/{kind.key}" for split in ("train", "test")}
        figure = _curves(arms, columns, percent_axis=kind.percent, logarithmic=kind.logarithmic)
        if figure["data"]:
            panels.append(Panel(kind.title + (" (%)" if kind.percent else ""), kind.meaning, figure))
    return panels


def per_class(arms: Sequence[Arm]) -> Panel:
    """Test accuracy by class, classes ordered by their mean over the arms; classes without test clouds are named."""
    classes = list(dict.fromkeys(name for arm in arms for name in arm.first.summary.data.classes))
    table: dict[str, list[Spread | None]] = {
        name: [arm.spread(lambda run, name=name: run.summary.final.per_class.get(name)) for arm in arms]  # type: ignore[misc]
        for name in classes
    }
    absent = [name for name in classes if not any(table[name])]
    shown = sorted(
        (name for name in classes if name not in absent),
        key=lambda name: float(np.mean([value.mean for value in table[name] if value])),
    )
    traces = []
    lowest = 100.0
    for index, arm in enumerate(arms):
        points = [(place, value) for place, name in enumerate(shown) if (value := table[name][index]) is not None]
        beside = 0.5 * (0.5 - (index + 0.5) / len(arms))  # so that equal accuracies do not hide each other
        lowest = min([lowest, *(100 * (value.mean - (value.sd or 0)) for _, value in points)])
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [100 * value.mean for _, value in points],
                "y": [place + beside for place, _ in points],
                "error_x": {
                    "type": "data",
                    "array": [100 * (value.sd or 0) for _, value in points],
                    "color": colour(index),
                    "thickness": 1,
                    "width": 0,
                    "visible": len(arm.runs) > 1,
                },
                "text": [f"{escape(shown[place])}: {percent(value)} %" for place, value in points],
                "marker": {"color": colour(index), "size": 7, "symbol": _symbol(index)},
                "hovertemplate": f"{escape(arm.label)}<br>%{{text}}<extra></extra>",
                "meta": {"arm": index},
            }
        )
    layout = plain_layout()
    layout["xaxis"] |= {
        "title": {"text": "test accuracy (%)", "standoff": 6, "font": {"size": 11.5}},
        "range": [max(-1.0, 10 * math.floor(lowest / 10) - 1), 101],
        "side": "bottom",
    }
    layout["yaxis"] |= {
        "tickmode": "array",
        "tickvals": list(range(len(shown))),
        "ticktext": [escape(name) for name in shown],
        "range": [-0.7, len(shown) - 0.3],
        "automargin": True,
    }
    meaning = f"No test cloud of: {', '.join(absent)}." if absent else ""
    return Panel("", meaning, {"data": traces, "layout": layout}, 60 + (16 + 2 * min(len(arms), 4)) * len(shown))


def clouds(arms: Sequence[Arm], most: int = 6) -> list[Cloud]:
    """Up to `most` test clouds of the first run, different classes first; what every run that kept one says."""
    shown = arms[0].first
    labels = shown.examples.labels.tolist()
    times_before = [labels[:place].count(label) for place, label in enumerate(labels)]
    order = sorted(range(len(labels)), key=lambda place: (times_before[place], place))[:most]
    said = [[_predictions(run) for run in arm.runs] for arm in arms]
    result = []
    for place in order:
        points = shown.examples.points[place]
        key = _key(shown, place)
        verdicts = []
        for runs in said:
            names = [run[key] for run in runs if key in run]
            counts = {name: names.count(name) for name in names}
            verdicts.append(tuple(sorted(counts.items(), key=lambda item: -item[1])))
        result.append(Cloud(_scene(points), key[0], tuple(verdicts)))
    return result


def _key(run: Record, place: int) -> tuple[str, bytes]:
    return run.summary.data.classes[run.examples.labels[place]], run.examples.points[place].tobytes()


def _predictions(run: Record) -> dict[tuple[str, bytes], str]:
    return {
        _key(run, place): run.summary.data.classes[prediction]
        for place, prediction in enumerate(run.examples.predictions)
    }


def _scene(points: np.ndarray) -> Figure:
    """Points [P, 3] in a cube that just holds them, without axes; shading by z (in most datasets up) gives form."""
    low, high = points.min(axis=0), points.max(axis=0)
    centre, reach = (low + high) / 2, max(float((high - low).max()) / 2, 1e-6)
    axes = {}
    for name, middle in zip("xyz", centre.tolist(), strict=True):
        axes[f"{name}axis"] = {"visible": False, "showspikes": False, "range": [middle - reach, middle + reach]}
    x, y, z = (np.round(points[:, axis].astype(np.float64), 4).tolist() for axis in range(3))
    return {
        "data": [
            {
                "type": "scatter3d",
                "mode": "markers",
                "x": x,
                "y": y,
                "z": z,
                "marker": {
                    "size": 2.2,
                    "color": z,
                    "colorscale": [[0, "#1b3a57"], [0.5, "#4f86ad"], [1, "#9fc4dd"]],
                    "showscale": False,
                },
                "hoverinfo": "skip",
            }
        ],
        "layout": {
            "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
            "paper_bgcolor": "white",
            "scene": {
                **axes,
                "aspectmode": "manual",
                "aspectratio": {"x": 1.45, "y": 1.45, "z": 1.45},
                "dragmode": "orbit",
                "camera": {"eye": {"x": 1.2, "y": -1.2, "z": 0.7}, "projection": {"type": "orthographic"}},
            },
        },
    }


def _curves(
    arms: Sequence[Arm], columns: dict[str, str], percent_axis: bool = False, logarithmic: bool = False
) -> Figure:
    """Lines over epochs: one per arm and split (split → column of metrics.csv), with a band of ± 1 s.d. over runs."""
    drawn = [
        (index, arm, split, curve)
        for index, arm in enumerate(arms)
        for split, column in columns.items()
        if (curve := arm.curve(column)) is not None
    ]
    scale = 100.0 if percent_axis else 1.0
    layout = plain_layout()
    if all(curve.epochs[-1] <= 10 for *_, curve in drawn):
        layout["xaxis"] |= {"tick0": 0, "dtick": 1}  # few epochs: plotly would put ticks between them
    lowest, highest = _extent([curve for *_, curve in drawn])
    logarithmic = logarithmic and lowest > 0 and highest / lowest > 8
    if logarithmic:
        layout["yaxis"] |= {"type": "log", "tickmode": "array", **log_ticks(lowest, highest)}
    elif percent_axis:
        layout["yaxis"] |= {"rangemode": "tozero"}
    traces: list[dict[str, Any]] = []
    for index, arm, _, curve in drawn:
        if len(arm.runs) > 1:
            traces += _bands(index, curve, scale, floor=lowest if logarithmic else -math.inf)
    for index, arm, split, curve in drawn:
        show = percent if percent_axis else number
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if len(curve.epochs) <= 40 else "lines",
                "x": curve.epochs.tolist(),
                "y": (scale * curve.mean).tolist(),
                "text": [
                    show(Spread(mean, None if math.isnan(sd) else sd, int(n)))
                    for mean, sd, n in zip(curve.mean.tolist(), curve.sd.tolist(), curve.n, strict=True)
                ],
                "line": {"color": colour(index), "dash": DASHES[split], "width": 1.6},
                "marker": {"color": colour(index), "size": 4.5, "symbol": _symbol(index)},
                "hovertemplate": f"{escape(arm.label)}, {split}<br>epoch %{{x}}: %{{text}}<extra></extra>",
                "meta": {"arm": index},
            }
        )
    return {"data": traces, "layout": layout}


def _bands(index: int, curve: Curve, scale: float, floor: float) -> list[dict[str, Any]]:
    """Mean ± s.d. as closed outlines, one per stretch of epochs in which at least two runs measured."""
    some = np.isfinite(curve.sd)
    stretches = np.split(np.arange(len(some)), np.flatnonzero(np.diff(some.astype(int))) + 1)
    bands = []
    for places in stretches:
        if len(places) < 2 or not some[places[0]]:
            continue
        mean, sd, epochs = curve.mean[places], curve.sd[places], curve.epochs[places]
        low, high = scale * np.maximum(mean - sd, floor), scale * (mean + sd)
        bands.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [*epochs.tolist(), *epochs[::-1].tolist()],
                "y": [*low.tolist(), *high[::-1].tolist()],
                "fill": "toself",
                "fillcolor": _translucent(colour(index)),
                "line": {"width": 0},
                "hoverinfo": "skip",
                "meta": {"arm": index},
            }
        )
    return bands


def _extent(curves: Sequence[Curve]) -> tuple[float, float]:
    means = np.concatenate([curve.mean for curve in curves]) if curves else np.array([0.0])
    return float(means.min()), float(means.max())


def log_ticks(lowest: float, highest: float) -> dict[str, list[Any]]:
    """1, 2, 5 in each decade, or powers of ten alone where those would crowd; plotly's own labels drop the power.

    They go beyond the ends, to where an axis may reach.
    """
    steps = (1, 2, 5) if highest / lowest < 300 else (1,)
    powers = range(math.floor(math.log10(lowest)) - 1, math.ceil(math.log10(highest)) + 1)
    values = [step * 10.0**power for power in powers for step in steps]
    return {"tickvals": values, "ticktext": [f"{value:g}" for value in values]}


def bar_ticks(lowest: float, highest: float) -> dict[str, list[Any]]:
    """Those of `log_ticks` on a colour bar that ends at these values, or its ends where hardly one lies between."""
    inside = [value for value in log_ticks(lowest, highest)["tickvals"] if lowest <= value <= highest]
    values = inside if len(inside) > 1 else [lowest, highest]
    return {"tickvals": values, "ticktext": [f"{value:.3g}" for value in values]}


def _symbol(arm: int) -> str:
    return SYMBOLS[arm % len(SYMBOLS)]


def _translucent(hexadecimal: str) -> str:
    red, green, blue = (int(hexadecimal[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.14)"


def plain_layout() -> Figure:
    """White, thin axes, epochs below: what every figure of the page begins with."""
    axis = {
        "showline": True,
        "linecolor": INK,
        "linewidth": 1,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": INK,
        "gridcolor": RULE,
        "zeroline": False,
    }
    return {
        "font": {"family": FONT, "size": 11.5, "color": INK},
        "margin": {"l": 52, "r": 10, "t": 8, "b": 40},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "showlegend": False,
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "white", "font": {"family": FONT, "size": 12, "color": INK}},
        "xaxis": {**axis, "title": {"text": "epoch", "standoff": 6, "font": {"size": 11.5}}, "showgrid": False},
        "yaxis": {**axis, "showgrid": True},
    }
