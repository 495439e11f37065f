"""The unconstrained feature model, solved: how far its global minima are from the simplex frame.

With balanced classes the frame is reached, for any loss and number of classes; with unbalanced ones the minima are
others, which is why their distance is shown and not hidden. Each solution comes with the certificate that it is a
global minimum, and where a formula for the least value is known, with its distance from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from image2point import collapse
from image2point.collapse import UnconstrainedFeatures
from image2point.config.studies import UnconstrainedStudy
from image2point.errors import InputError
from image2point.experiments.study_rows import Row
from image2point.report.numbers import ABSENT
from image2point.report.plain import Table
from image2point.report.plots import Panel, curves
from image2point.units import ALONE, Crew

SHOWN = ("distance", "nc2_etf", "nc2_w_etf", "nc1_trace_ratio")


def unconstrained_rows(study: UnconstrainedStudy, base: Path, folder: Path, crew: Crew = ALONE) -> list[Row]:
    """Rows by loss, number of classes, ratio and seed."""
    if crew.workers:
        raise InputError("a study of the unconstrained model has no network that processes could run: leave them out")
    rows = []
    for loss in study.losses:
        for classes in study.classes:
            for ratio in study.ratios:
                counts = tuple(study.per_class * (ratio if c < classes // 2 else 1) for c in range(classes))
                width = classes + study.extra_width
                problem = UnconstrainedFeatures(counts, width, loss, study.decay, study.decay)
                case = {"loss": loss, "classes": classes, "ratio": ratio}
                rows += [{**case, "seed": seed, **solved(problem, seed)} for seed in study.seeds]
                print(f"{loss}, {classes} classes, 1:{ratio}: distance {rows[-1]['distance']:.2e}", flush=True)
    return rows


def solved(problem: UnconstrainedFeatures, seed: int) -> Row:
    """What came out from one starting point."""
    solution = collapse.solve(problem, seed)
    measured = solution.metrics()
    above = None if problem.minimum is None else solution.value / problem.minimum - 1
    keys = ("nc1_trace_ratio", "nc2_etf", "nc2_w_etf", "nc3")
    return {
        "distance": solution.etf_distance,
        "above_minimum": above,
        "certificate": solution.certificate,
        "slope": solution.slope,
        "steps": solution.steps,
        **{key: measured[key] for key in keys},
    }


def _cases(rows: Sequence[Row]) -> list[tuple[str, int, int]]:
    return list(dict.fromkeys((row["loss"], row["classes"], row["ratio"]) for row in rows))


def _of(rows: Sequence[Row], case: tuple[str, int, int]) -> list[Row]:
    return [row for row in rows if (row["loss"], row["classes"], row["ratio"]) == case]


def unconstrained_table(study: UnconstrainedStudy, rows: Sequence[Row]) -> Table:
    """A line for each case: the worst over the starting points."""
    lines = []
    for case in _cases(rows):
        own = _of(rows, case)
        above = [row["above_minimum"] for row in own if row["above_minimum"] is not None]
        lines.append(
            (
                *map(str, case),
                *(f"{max(row[key] for row in own):.2e}" for key in SHOWN),
                f"{max(above, key=abs):+.1e}" if above else ABSENT,
                f"{max(row['certificate'] for row in own):.6f}",
                str(max(row["steps"] for row in own)),
            )
        )
    return Table(
        ("loss", "classes", "ratio", "distance to the ETF", "means", "classifier", "tr Σ_W / tr Σ_B",
         "above the known minimum", "certificate", "steps"),
        tuple(lines),
        (
            f"The largest over {len(study.seeds)} starting points. Ratio: samples in the first half of the classes to "
            "those in the second. A certificate of at most 1 (up to the tolerance) proves a global minimum.",
        ),
    )  # fmt: skip


def unconstrained_figure(study: UnconstrainedStudy, rows: Sequence[Row]) -> Any:
    """Distance to the frame by number of classes, a curve for each loss and ratio."""
    panels = []
    for key, title in (("distance", "Distance to the simplex frame"), ("nc2_etf", "Class means, NC2")):
        drawn = {
            f"{loss}, 1:{ratio}": [
                collapse.mean_interval([row[key] for row in _of(rows, (loss, classes, ratio))])
                for classes in study.classes
            ]
            for ratio in study.ratios
            for loss in study.losses
        }
        panels.append(Panel(title, drawn, logarithmic=True))
    return curves(panels, list(map(str, study.classes)), "classes")
