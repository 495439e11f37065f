"""The curves and points of the page, as plain plotly descriptions (`data` and `layout`) made from arms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from image2point.report.arms import Arm, Curve, Spread
from image2point.report.charts import INK, RULE, Chart, Ticks, Tuned, colour, count_ticks
from image2point.report.numbers import number, percent

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon")
DASHES = {"train": "solid", "validation": "dot", "test": "dash"}
FONT = '"Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif'

Figure = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """A figure with its heading, a line that says what is drawn, its height and the least width at which its words can
    be read, in pixels; what is narrower scrolls."""

    title: str
    meaning: str
    figure: Figure
    height: int = 250
    least: int = 0


def curve_panel(chart: Chart, height: int = 250) -> Panel:
    """A line per arm and split, with a band of ± 1 s.d. over the runs of the arm."""
    kind, ticks, lines = chart.quantity, chart.ticks, chart.lines
    layout = plain_layout()
    if chart.last_epoch <= 10:
        layout["xaxis"] |= {"tick0": 0, "dtick": 1}  # few epochs: plotly would put ticks between them
    if ticks is not None:
        layout["yaxis"] |= {"type": "log", **tick_array(ticks)}
    elif kind.percent:
        layout["yaxis"] |= {"rangemode": "tozero"}
    floor = -math.inf if ticks is None else chart.lowest
    traces = [band for line in lines for band in _bands(line.arm, line.curve, kind.scale, floor)]
    show = percent if kind.percent else number
    for line in lines:
        curve = line.curve
        spreads = zip(curve.mean.tolist(), curve.sd.tolist(), curve.n, strict=True)
        traces.append(
            scatter(
                line.arm,
                "lines+markers" if len(curve.epochs) <= 40 else "lines",
                curve.epochs.tolist(),
                (kind.scale * curve.mean).tolist(),
                text=[show(Spread(mean, None if math.isnan(sd) else sd, int(n))) for mean, sd, n in spreads],
                line={"color": colour(line.arm), "dash": DASHES[line.split], "width": 1.6},
                marker={"color": colour(line.arm), "size": 4.5, "symbol": _symbol(line.arm)},
                hovertemplate=f"{escape(line.label)}, {line.split}<br>epoch %{{x}}: %{{text}}<extra></extra>",
            )
        )
    return Panel(kind.heading, kind.meaning, {"data": traces, "layout": layout}, height)


def chosen_marks(arms: Sequence[Arm]) -> list[Figure]:
    """The score of the chosen weights on the test set at their epoch, one hollow mark per arm."""
    marks = []
    for index, arm in enumerate(arms):
        score = arm.score(arm.display.scores[0].key)
        epoch = arm.spread(lambda run: run.summary.chosen_epoch)
        if score is None or epoch is None:
            continue
        edge = {"color": colour(index), "width": 2}
        marks.append(
            scatter(
                index,
                "markers",
                [epoch.mean],
                [100 * score.mean],
                error_y=_bars(index, arm, [score], thickness=1.2, width=3),
                marker={"color": "white", "size": 9, "symbol": _symbol(index), "line": edge},
                text=[f"{percent(score)} % on test, chosen weights"],
                hovertemplate=f"{escape(arm.label)}<br>epoch %{{x:.4~g}}: %{{text}}<extra></extra>",
            )
        )
    return marks


def tuned_panel(marks: Sequence[Tuned], arms: Sequence[Arm]) -> Panel:
    """The test score of each arm over the number of parameters that it trained, on a logarithmic axis."""
    layout = plain_layout("parameters that train")
    layout["xaxis"] |= {"type": "log", **tick_array(count_ticks([mark.parameters for mark in marks]))}
    traces = [
        scatter(
            mark.arm,
            "markers",
            [mark.parameters],
            [100 * mark.score.mean],
            error_y=_bars(mark.arm, arms[mark.arm], [mark.score], thickness=1.2, width=3),
            marker={"color": colour(mark.arm), "size": 9, "symbol": _symbol(mark.arm)},
            hovertemplate=f"{escape(mark.label)}<br>{mark.parameters:,}: {percent(mark.score)} %<extra></extra>",
        )
        for mark in marks
    ]
    return Panel(f"{arms[0].display.scored} (%)", "chosen weights", {"data": traces, "layout": layout}, 320)


def class_panel(arms: Sequence[Arm]) -> Panel:
    """The test score by class, classes ordered by their mean over the arms; classes without test clouds are named."""
    classes = list(dict.fromkeys(name for arm in arms for name in arm.first.summary.data.classes))
    table: dict[str, list[Spread | None]] = {
        name: [arm.spread(lambda run, name=name: run.summary.per_class.get(name)) for arm in arms]  # type: ignore[misc]
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
        rows = [(row, value) for row, name in enumerate(shown) if (value := table[name][index]) is not None]
        beside = 0.5 * (0.5 - (index + 0.5) / len(arms))  # so that equal scores do not hide each other
        lowest = min([lowest, *(100 * (value.mean - (value.sd or 0)) for _, value in rows)])
        traces.append(
            scatter(
                index,
                "markers",
                [100 * value.mean for _, value in rows],
                [row + beside for row, _ in rows],
                error_x=_bars(index, arm, [value for _, value in rows], thickness=1, width=0),
                text=[f"{escape(shown[row])}: {percent(value)} %" for row, value in rows],
                marker={"color": colour(index), "size": 7, "symbol": _symbol(index)},
                hovertemplate=f"{escape(arm.label)}<br>%{{text}}<extra></extra>",
            )
        )
    score = arms[0].display.by_class
    layout = plain_layout(f"{score[0].lower()}{score[1:]} (%)")
    layout["xaxis"] |= {"range": [max(-1.0, 10 * math.floor(lowest / 10) - 1), 101], "side": "bottom"}
    names = Ticks(list(range(len(shown))), [escape(name) for name in shown])
    layout["yaxis"] |= {**tick_array(names), "range": [-0.7, len(shown) - 0.3], "automargin": True}
    meaning = f"{arms[0].display.absent}: {', '.join(absent)}." if absent else ""
    return Panel("", meaning, {"data": traces, "layout": layout}, 60 + (16 + 2 * min(len(arms), 4)) * len(shown))


def scatter(arm: int, mode: str, x: list[Any], y: list[Any], **settings: Any) -> Figure:
    """A trace of points, lines or words, hidden and shown with its arm; without a text, the mouse passes over it."""
    hover = {} if "hovertemplate" in settings else {"hoverinfo": "skip"}
    return {"type": "scatter", "mode": mode, "x": x, "y": y, "meta": {"arm": arm}, **hover, **settings}


def _bars(index: int, arm: Arm, spreads: Sequence[Spread], **style: float) -> Figure:
    """Error bars of ± 1 s.d. of shares, in per cent; none where the arm has one run."""
    reach = [100 * (spread.sd or 0) for spread in spreads]
    return {"type": "data", "array": reach, "color": colour(index), "visible": len(arm.runs) > 1, **style}


def _bands(index: int, curve: Curve, scale: float, floor: float) -> list[Figure]:
    """Mean ± s.d. as closed outlines, one per stretch of epochs in which at least two runs measured."""
    some = np.isfinite(curve.sd)
    bands = []
    for stretch in np.split(np.arange(len(some)), np.flatnonzero(np.diff(some.astype(int))) + 1):
        if len(stretch) < 2 or not some[stretch[0]]:
            continue
        mean, sd, epochs = curve.mean[stretch], curve.sd[stretch], curve.epochs[stretch]
        low, high = scale * np.maximum(mean - sd, floor), scale * (mean + sd)
        x = [*epochs.tolist(), *epochs[::-1].tolist()]
        y = [*low.tolist(), *high[::-1].tolist()]
        fill = {"fill": "toself", "fillcolor": _translucent(colour(index)), "line": {"width": 0}}
        bands.append(scatter(index, "lines", x, y, **fill))
    return bands


def tick_array(ticks: Ticks) -> Figure:
    """Properties of an axis, or of a colour bar, with these ticks and no others."""
    return {"tickmode": "array", "tickvals": ticks.values, "ticktext": ticks.labels}


def axis_title(text: str) -> Figure:
    return {"text": text, "standoff": 6, "font": {"size": 11.5}}


def _symbol(arm: int) -> str:
    return SYMBOLS[arm % len(SYMBOLS)]


def _translucent(hexadecimal: str) -> str:
    red, green, blue = (int(hexadecimal[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.14)"


def plain_layout(below: str = "epoch") -> Figure:
    """White, thin axes, a title below: what every figure of the page begins with."""
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
        "xaxis": {**axis, "title": axis_title(below), "showgrid": False},
        "yaxis": {**axis, "showgrid": True},
    }
