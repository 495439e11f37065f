"""Curves over epochs before they are drawn, made from arms; with the colours and ticks that all figures share.

The page draws them with plotly (`figures`), files for paper with matplotlib (`vector`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from image2point.report.arms import Arm, Curve, Spread
from image2point.report.quantities import PLOTTED, SPLITS
from image2point.tasks.display import Quantity

# Okabe and Ito's palette, told apart with any common colour blindness; without its yellow, hard to see on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
DIVERGING = ("#2166ac", "#f7f7f7", "#b2182b")
INK, RULE = "#333333", "#e6e6e6"


class Ticks(NamedTuple):
    """Where the ticks of an axis are, and what is written at them."""

    values: list[float]
    labels: list[str]


@dataclass(frozen=True)
class Line:
    """The curve of one arm, by its index and label, on one split."""

    arm: int
    label: str
    split: str
    curve: Curve


@dataclass(frozen=True)
class Chart:
    """All lines of one quantity; there is at least one."""

    quantity: Quantity
    lines: tuple[Line, ...]

    @property
    def last_epoch(self) -> float:
        return max(float(line.curve.epochs[-1]) for line in self.lines)

    @property
    def lowest(self) -> float:
        return min(float(line.curve.mean.min()) for line in self.lines)

    @property
    def ticks(self) -> Ticks | None:
        """Those of a logarithmic axis, where values span more than a factor of 8; None where the axis is linear."""
        highest = max(float(line.curve.mean.max()) for line in self.lines)
        if not self.quantity.logarithmic or self.lowest <= 0 or highest <= 8 * self.lowest:
            return None
        return log_ticks(self.lowest, highest)


def learning_charts(arms: Sequence[Arm]) -> list[Chart]:
    """The scores of the task and its loss over epochs."""
    return _charts(arms, arms[0].display.curves, "{split}_{key}", ("train", "validation", "test"))


def collapse_charts(arms: Sequence[Arm]) -> list[Chart]:
    """Every quantity of collapse that any run followed over epochs."""
    return _charts(arms, PLOTTED, "collapse_{split}/{key}", SPLITS)


@dataclass(frozen=True)
class Tuned:
    """The test score of an arm, a share in 0..1, and the number of parameters that it trained."""

    arm: int
    label: str
    parameters: int
    score: Spread


def tuned(arms: Sequence[Arm]) -> list[Tuned]:
    """What each arm made of what it trained; nothing where all train equally many parameters."""
    key = arms[0].display.scores[0].key
    found = [
        Tuned(index, arm.label, arm.first.summary.parameters.trainable, score)
        for index, arm in enumerate(arms)
        if (score := arm.score(key)) is not None and arm.first.summary.parameters.trainable
    ]
    return found if len({each.parameters for each in found}) > 1 else []


def splits_of(charts: Iterable[Chart]) -> list[str]:
    """The splits of their lines, train before validation before test."""
    drawn = {line.split for chart in charts for line in chart.lines}
    return [split for split in ("train", "validation", "test") if split in drawn]


def colour(arm: int) -> str:
    """The colour of the arm with this index, the same in every figure and table."""
    return PALETTE[arm % len(PALETTE)]


def log_ticks(lowest: float, highest: float) -> Ticks:
    """1, 2, 5 in each decade, or powers of ten alone where those would crowd; plotly's own labels drop the power.

    They go beyond the ends, to where an axis may reach.

    >>> log_ticks(0.5, 3.0).labels
    ['0.01', '0.02', '0.05', '0.1', '0.2', '0.5', '1', '2', '5', '10', '20', '50']
    """
    steps = (1, 2, 5) if highest / lowest < 300 else (1,)
    powers = range(math.floor(math.log10(lowest)) - 1, math.ceil(math.log10(highest)) + 1)
    values = [step * 10.0**power for power in powers for step in steps]
    return Ticks(values, [f"{value:g}" for value in values])


def count_ticks(counts: Sequence[int]) -> Ticks:
    """Those of `log_ticks` on an axis of numbers of parameters.

    >>> count_ticks([40_000, 90_000]).labels[3:7]
    ['10,000', '20,000', '50,000', '100,000']
    """
    values = log_ticks(min(counts), max(counts)).values
    return Ticks(values, [f"{value:,.0f}" for value in values])


def bar_ticks(lowest: float, highest: float) -> Ticks:
    """Those of `log_ticks` on a colour bar that ends at these values, or its ends where fewer than two lie between.

    >>> bar_ticks(0.5, 3.0).labels
    ['0.5', '1', '2']
    """
    inside = [value for value in log_ticks(lowest, highest).values if lowest <= value <= highest]
    values = inside if len(inside) > 1 else [lowest, highest]
    return Ticks(values, [f"{value:.3g}" for value in values])


def _charts(arms: Sequence[Arm], kinds: Sequence[Quantity], column: str, splits: Sequence[str]) -> list[Chart]:
    """A chart for each quantity that any run has in its metrics.csv, in the column of that pattern."""
    charts = []
    for kind in kinds:
        lines = [
            Line(index, arm.label, split, curve)
            for index, arm in enumerate(arms)
            for split in splits
            if (curve := arm.curve(column.format(split=split, key=kind.key))) is not None
        ]
        if lines:
            charts.append(Chart(kind, tuple(lines)))
    return charts
