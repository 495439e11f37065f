"""The figures of docs/results.md, each from the rows of its experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from result_rows import Row, asked_of, stored

from image2point.collapse import Interval, mean_interval
from image2point.collapse.labels_at_random import over_null
from image2point.experiments.study_rows import select
from image2point.report.plots import Panel, curves, save_figure

FIGURES = Path(__file__).resolve().parent.parent / "docs" / "figures"


def draw() -> None:
    """Draw the figures whose rows there are."""
    if stored("follow_lite0"):
        follow(FIGURES / "follow_lite0.png")


def follow(path: Path) -> None:
    """Over the layers of each stage, on test: the linear probe, and NC1 as a share of its null."""
    split = "test" if "test" in asked_of("follow_lite0").splits else "train"
    rows = [{**row, "share": _share(row)} for row in stored("follow_lite0") if row["split"] == split]
    layers, stages = (list(dict.fromkeys(row[key] for row in rows)) for key in ("layer", "stage"))

    def drawn(key: str) -> dict[str, list[Interval | None]]:
        return {
            stage: [_over_seeds(select(rows, stage=stage, layer=layer), key) for layer in layers] for stage in stages
        }

    panels = [
        Panel("Linear probe, accuracy", drawn("probe"), percent=True),
        Panel("NC1 / its null", drawn("share"), logarithmic=True),
    ]
    save_figure(curves(panels, layers, f"layer ({split})"), path)


def _share(row: Row) -> float | None:
    value, null = row["nc1"], row["nc1_null"]
    return None if value is None or null is None else over_null(value, null)


def _over_seeds(rows: Sequence[Row], key: str) -> Interval | None:
    values = [row[key] for row in rows]
    return mean_interval(values) if values and all(value is not None for value in values) else None
