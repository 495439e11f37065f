"""Heat maps and planes as plain plotly descriptions, for the page."""

from __future__ import annotations

import math
from html import escape
from typing import Any

import numpy as np

from image2point.report.charts import DIVERGING, Ticks, bar_ticks
from image2point.report.figures import FONT, Figure, Panel, axis_title, plain_layout, scatter, tick_array
from image2point.report.maps import Heat, PlaneView, class_colours

LABEL = 9  # pixels: forty names in a column are still read
MOST_NAMED = 60
"""Rows of a map that have their names beside them."""


def heat_panel(heat: Heat) -> Panel:
    """The map with the names of its rows and columns; the number itself is under the mouse."""
    shown, low, high = heat.values, heat.low, heat.high
    bar: dict[str, Any] = {}
    if heat.scale == "logarithmic":
        shown, low, high = np.log10(heat.values), math.log10(heat.low), math.log10(heat.high)
        ticks = bar_ticks(heat.low, heat.high)
        bar = tick_array(Ticks([math.log10(value) for value in ticks.values], ticks.labels))
    elif heat.scale == "percent":
        shown, low, high = 100 * heat.values, 0.0, 100.0
    named = len(heat.rows) <= MOST_NAMED
    trace: dict[str, Any] = {
        "type": "heatmap",
        "z": [[None if math.isnan(v) else round(v, 4) for v in row] for row in shown.astype(float).tolist()],
        "text": [[_value(heat, v) for v in row] for row in heat.values.astype(float).tolist()],
        "customdata": [[f"{escape(row)}, {escape(column)}" for column in heat.columns] for row in heat.rows],
        "hovertemplate": "%{customdata}: %{text}<extra></extra>",
        "colorscale": [list(stop) for stop in zip((0.0, 0.5, 1.0), DIVERGING, strict=True)]
        if heat.scale == "cosine"
        else "Viridis",
        "zmin": low,
        "zmax": high if high > low else low + 1,
        "colorbar": {"thickness": 9, "outlinewidth": 0, "tickfont": {"size": LABEL + 1}, "xpad": 6, **bar},
        "xgap": 0.5,
        "ygap": 0.5,
        "meta": {"arm": heat.arm},
    }
    layout = plain_layout()
    for axis, names in (("xaxis", heat.columns), ("yaxis", heat.rows)):
        layout[axis] |= {
            **tick_array(Ticks(list(range(len(names))), [escape(name) for name in names])),
            "tickfont": {"size": LABEL if len(names) > 12 else LABEL + 2},
            "showticklabels": named,
            "showgrid": False,
            "showline": False,
            "ticks": "",
            "title": {"text": ""},
            "automargin": True,
        }
    layout["yaxis"] |= {"autorange": "reversed"}
    layout["margin"] = {"l": 10, "r": 4, "t": 6, "b": 10}
    least = 0
    if heat.scale == "cosine":
        layout["xaxis"] |= {"tickangle": 90}
        _square(layout)
        height = 470 if len(heat.rows) > 12 else 360
        least = 120 + 9 * len(heat.rows) if 12 < len(heat.rows) <= MOST_NAMED else 0
    else:
        title = "slice of the depth" if heat.scale == "plain" else "epoch"
        layout["xaxis"] |= {"title": axis_title(title), "tickangle": 0}
        height = 80 + 14 * max(len(heat.rows), 6)
    return Panel(heat.title, "", {"data": [trace], "layout": layout}, height, least)


def _value(heat: Heat, value: float) -> str:
    if math.isnan(value):
        return "no such slice" if heat.scale == "plain" else "undefined"
    return f"{100 * value:.1f} %" if heat.scale == "percent" else f"{value:.3g}"


def plane_panel(view: PlaneView) -> Panel:
    """Points in the colour of their class, and on them the class means with their marks."""
    colours, names = class_colours(len(view.names)), [escape(name) for name in view.names]
    there = np.flatnonzero(np.isfinite(view.means).all(1))
    means, places = view.means[there].astype(float), view.places[there]
    lines = np.stack([means, places, np.full_like(means, np.nan)], axis=1).reshape(-1, 2)  # NaN ends each of them
    labels = view.labels.tolist()
    traces = [
        scatter(
            view.arm, "markers", *np.round(view.points.T.astype(float), 4).tolist(),
            text=[names[label] for label in labels],
            marker={"color": [colours[label] for label in labels], "size": 3.5, "opacity": 0.45},
            hovertemplate="%{text}<extra></extra>",
        ),
        scatter(view.arm, "lines", *lines.T.tolist(), line={"color": "#777", "width": 0.7}),
        scatter(
            view.arm, "markers", *means.T.tolist(),
            text=[names[c] for c in there],
            marker={"color": [colours[c] for c in there], "size": 7, "line": {"color": "#111", "width": 1}},
            hovertemplate="mean of %{text}<extra></extra>",
        ),
        scatter(
            view.arm, "text", *places.T.tolist(),
            text=[escape(view.marks[c]) for c in there],
            textfont={"family": FONT, "size": 10.5, "color": "#111"},
            cliponaxis=False,
        ),
    ]  # fmt: skip
    layout = plain_layout()
    for axis, title, start in zip(("xaxis", "yaxis"), view.axis_titles, view.corner, strict=True):
        layout[axis] |= {"range": [start, start + view.side], "showgrid": False, "title": axis_title(title)}
    _square(layout)
    meaning = f"{view.outside:,} of {view.samples:,} samples lie outside" if view.outside else ""
    return Panel(view.title, meaning, {"data": traces, "layout": layout}, 470)


def _square(layout: Figure) -> None:
    """Equal scales along both axes."""
    layout["xaxis"] |= {"constrain": "domain"}
    layout["yaxis"] |= {"constrain": "domain", "scaleanchor": "x"}


def plane_key(view: PlaneView) -> str:
    """The numbers of the classes as HTML, in their colours; '' where the plane has their names."""
    if view.marks == view.names:
        return ""
    colours = class_colours(len(view.names))
    items = (
        f'<span><i style="background: {colour}"></i>{mark} {escape(name)}</span>'
        for colour, mark, name in zip(colours, view.marks, view.names, strict=True)
    )
    return f'<div class="key">{"".join(items)}</div>'
