"""Test clouds in 3D as plain plotly descriptions, and what the runs called them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from image2point.report.arms import Arm
from image2point.report.figures import Figure
from image2point.report.read import Record


@dataclass(frozen=True)
class Cloud:
    """A test cloud in 3D, its class, and per arm (in order) what the arm's runs called it: [(class, runs), …]."""

    figure: Figure
    label: str
    verdicts: tuple[tuple[tuple[str, int], ...], ...]


def clouds(arms: Sequence[Arm], most: int = 6) -> list[Cloud]:
    """Up to `most` test clouds of the first run, different classes first; what every run that kept one says."""
    shown = arms[0].first
    labels = shown.examples.labels.tolist()
    times_before = [labels[:row].count(label) for row, label in enumerate(labels)]
    order = sorted(range(len(labels)), key=lambda row: (times_before[row], row))[:most]
    said = [[_predictions(run) for run in arm.runs] for arm in arms]
    result = []
    for row in order:
        key = _key(shown, row)
        verdicts = []
        for runs in said:
            names = [run[key] for run in runs if key in run]
            counts = {name: names.count(name) for name in names}
            verdicts.append(tuple(sorted(counts.items(), key=lambda item: -item[1])))
        result.append(Cloud(cloud_figure(shown.examples.points[row]), key[0], tuple(verdicts)))
    return result


def _key(run: Record, row: int) -> tuple[str, bytes]:
    return run.summary.data.classes[run.examples.labels[row]], run.examples.points[row].tobytes()


def _predictions(run: Record) -> dict[tuple[str, bytes], str]:
    classes = run.summary.data.classes
    return {_key(run, row): classes[prediction] for row, prediction in enumerate(run.examples.predictions)}


def cloud_figure(points: np.ndarray, digits: int = 4) -> Figure:
    """Points [P, 3] in a cube that just holds them, without axes; shading by z (in most datasets up) gives form.

    digits: after the point, of the coordinates that the page holds.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    centre, reach = (low + high) / 2, max(float((high - low).max()) / 2, 1e-6)
    axes = {
        f"{name}axis": {"visible": False, "showspikes": False, "range": [middle - reach, middle + reach]}
        for name, middle in zip("xyz", centre.tolist(), strict=True)
    }
    x, y, z = np.round(points.T.astype(np.float64), digits).tolist()
    shades = [[0, "#1b3a57"], [0.5, "#4f86ad"], [1, "#9fc4dd"]]
    trace = {
        "type": "scatter3d",
        "mode": "markers",
        "x": x,
        "y": y,
        "z": z,
        "marker": {"size": 2.2, "color": z, "colorscale": shades, "showscale": False},
        "hoverinfo": "skip",
    }
    scene = {
        **axes,
        "aspectmode": "manual",
        "aspectratio": {"x": 1.45, "y": 1.45, "z": 1.45},
        "dragmode": "orbit",
        "camera": {"eye": {"x": 1.2, "y": -1.2, "z": 0.7}, "projection": {"type": "orthographic"}},
    }
    return {
        "data": [trace],
        "layout": {"margin": {"l": 0, "r": 0, "t": 0, "b": 0}, "paper_bgcolor": "white", "scene": scene},
    }
