"""What stands in a cell of the tables of docs/results.md, from the rows of its runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from result_rows import Row, learnt

from image2point.collapse.intervals import mean_interval
from image2point.report.numbers import beside_null
from image2point.sweeps.comparison import Comparison

NOTHING = "Not yet run.\n"


def mean_in_percent(rows: Sequence[Row], score: str) -> str:
    """The mean of a share over runs in per cent, with its interval where there are several, cut where shares end;
    marked if one is dead."""
    found = mean_interval([row[score] for row in rows])
    low, high = 100 * max(found.low, 0), 100 * min(found.high, 1)
    interval = "" if math.isnan(found.low) else f" [{low:.1f}, {high:.1f}]"
    return f"{100 * found.value:.1f}{interval}{'' if all(map(learnt, rows)) else ' †'}"


def mean_share(shares: Sequence[float | None]) -> str:
    there = [share for share in shares if share is not None]
    return f"{100 * sum(there) / len(there):.1f}" if there else "undefined"


def of_each_seed(rows: Sequence[Row], score: str) -> str:
    """A share of each run in per cent, by its seed; those that learnt nothing are marked."""
    ordered = sorted(rows, key=lambda row: row["seed"])
    return ", ".join(f"{row['seed']}: {100 * row[score]:.1f}{'' if learnt(row) else ' †'}" for row in ordered)


def noted(table: str, rows: Sequence[Row]) -> str:
    """A table, and what its mark says if it has one."""
    mark = "\n† Learnt nothing, or a mean of runs of which one did: the loss is that of guessing.\n"
    return table if all(map(learnt, rows)) else table + mark


def beside_nulls(rows: Sequence[Row], measure: str) -> str:
    """The null of a measure on test, and which share of it the runs have, one by one."""
    there = [row for row in rows if row.get(measure)]
    return (
        "; ".join(beside_null(*(row[f"{measure}{end}"] for end in ("", "_null", "_null_sd"))) for row in there) or "–"
    )


def one_by_one(rows: Sequence[Row], measure: str) -> str:
    """A number of each run that may be undefined; a dash where no run has it."""
    values = [row.get(measure) for row in rows]
    return ", ".join("undefined" if value is None else f"{value:.3g}" for value in values) if any(values) else "–"


def mean_of(rows: Sequence[Row], name: str, digits: int = 0) -> str:
    """The mean of a number over the runs that kept it, and how many did if not all; a dash where none did."""
    values = [row.get(name) for row in rows]
    there = [value for value in values if value is not None]
    some = "" if len(there) == len(values) else f" ({len(there)} of {len(values)})"
    return f"{sum(there) / len(there):,.{digits}f}{some}" if there else "–"


def points(found: Comparison | None) -> str:
    """A difference of shares in points, its interval and its p, if seeds are enough; a dash where one is shared."""
    if found is None:
        return "–"
    if not found.tested:
        return f"{100 * found.effect.value:+.1f}, {found.seeds} seeds"
    value, low, high = (f"{100 * number:+.1f}" for number in (found.effect.value, found.effect.low, found.effect.high))
    return f"{value} [{low}, {high}], p = {found.p:.3g}"


def share_of_all(own: Mapping[tuple[str, str], Sequence[Row]], arm: str, row: Row) -> str:
    """What trains in a run, in per cent of what trains in `all`: the arm's, or another's, whose network is the same."""
    every = own.get((arm, "all")) or next((runs for (_, policy), runs in own.items() if policy == "all"), None)
    return f"{100 * row['trainable'] / every[0]['trainable']:.3g}" if every else "undefined"
