"""Scenes in 3D and confusion matrices, as plain plotly descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from image2point.report.arms import Arm
from image2point.report.cloud_figures import cloud_figure
from image2point.report.figures import Figure, Panel, axis_title
from image2point.report.map_figures import MOST_NAMED, heat_panel
from image2point.report.maps import Heat, class_colours
from image2point.report.read_scenes import Scene

IGNORED, RIGHT, WRONG = "#dcdcdc", "#a9c9de", "#b2182b"
VIEWS = ("truth", "prediction", "error")
MOST_PLOTS = 12
"""Browsers draw no more than some sixteen WebGL plots on a page."""


def shown_scenes(arms: Sequence[Arm], most: int = 4) -> list[list[Scene | None]]:
    """Up to `most` test scenes of the first run, each with what the first run of every arm says; None where an arm has
    kept another draw of its points or none."""
    kept = [{scene.number: scene for scene in arm.first.scenes} for arm in arms]
    rows = []
    for number, first in list(kept[0].items())[: max(1, min(most, MOST_PLOTS // len(arms)))]:
        others = [each.get(number) for each in kept]
        rows.append([s if s is not None and np.array_equal(s.points, first.points) else None for s in others])
    return rows


def scene_figure(scene: Scene, classes: int) -> Figure:
    """The points in the colours of their true classes; under `views`, the markers of every view by its name."""
    figure = cloud_figure(scene.points, digits=2)
    known = scene.labels >= 0
    colours = (IGNORED, *class_colours(classes))
    by_class = {"colorscale": steps(colours), "cmin": -1.5, "cmax": classes - 0.5}
    wrong = np.where(known, (scene.labels != scene.predictions).astype(int), -1)
    figure["views"] = {
        "truth": {"color": scene.labels.tolist(), **by_class},
        "prediction": {"color": scene.predictions.tolist(), **by_class},
        "error": {"color": wrong.tolist(), "colorscale": steps((IGNORED, RIGHT, WRONG)), "cmin": -1.5, "cmax": 1.5},
    }
    figure["data"][0]["marker"] |= {"size": 1.9, **figure["views"]["truth"]}
    return figure


def steps(colours: Sequence[str]) -> list[list[Any]]:
    """A colour scale of plotly in which each colour has an equal share, without anything between them.

    >>> steps(["#fff", "#000"])
    [[0.0, '#fff'], [0.5, '#fff'], [0.5, '#000'], [1.0, '#000']]
    """
    count = len(colours)
    return [[(k + end) / count, colour] for k, colour in enumerate(colours) for end in (0, 1)]


def view_key(classes: Sequence[str]) -> str:
    """The colours of all views as HTML; the script shows those of one."""

    def items(names: Sequence[str], colours: Sequence[str]) -> str:
        return "".join(
            f'<span><i style="background: {colour}"></i>{escape(name)}</span>'
            for name, colour in zip(names, colours, strict=True)
        )

    of_classes = items((*classes, "ignored"), (*class_colours(len(classes)), IGNORED))
    of_errors = items(("right", "wrong", "ignored"), (RIGHT, WRONG, IGNORED))
    return (
        f'<div class="key" data-of="truth prediction">{of_classes}</div>'
        f'<div class="key" data-of="error" hidden>{of_errors}</div>'
    )


def confusion_panels(arms: Sequence[Arm]) -> list[Panel]:
    """Of each arm, what became of the clouds or points of each class, in per cent, over all its runs; none without
    counts."""
    panels = []
    for index, arm in enumerate(arms):
        found = [run.confusion for run in arm.runs if run.confusion is not None]
        if not found:
            continue
        total = sum(found[1:], found[0])
        with np.errstate(invalid="ignore"):
            shares = total.counts / total.support[:, None]  # NaN for a class without any
        names = arm.first.summary.data.classes
        count = len(names)
        panel = heat_panel(Heat(arm.label, index, shares, names, names, "percent", 0.0, 1.0))
        layout, trace = panel.figure["layout"], panel.figure["data"][0]
        layout["xaxis"] |= {
            "title": axis_title("predicted"),
            "tickangle": 90 if count > 13 else -45 if count > 4 else 0,
        }
        layout["yaxis"] |= {"title": axis_title("true")}
        if written := count <= 13:
            trace |= {"texttemplate": "%{z:.0f}", "textfont": {"size": 10}}
        trace["customdata"] = [[f"{escape(row)} taken for {escape(column)}" for column in names] for row in names]
        trace["text"] = [
            [f"{n:,} of {of:,}" + (f", {100 * n / of:.1f} %" if of else "") for n in row]
            for row, of in zip(total.counts.tolist(), total.support.tolist(), strict=True)
        ]
        row, column = (24, 26) if written else (13, 9)
        height, least = 130 + row * max(count, 4), 130 + column * count
        panels.append(Panel(panel.title, "", panel.figure, *((height, least) if count <= MOST_NAMED else (700, 0))))
    return panels
