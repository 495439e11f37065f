"""The tables of docs/results.md that compare arms on shapes, each from the rows of its experiment."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from result_cells import (
    NOTHING,
    beside_nulls,
    mean_in_percent,
    mean_of,
    noted,
    of_each_seed,
    one_by_one,
    points,
    share_of_all,
)
from result_rows import Row, by_seed, policies_of, stored

from image2point.report.plain import markdown_table
from image2point.sweeps.comparison import compared


def ten_shots(name: str, *more: str) -> str:
    """A line for each arm, and for those of `more`, once there are some: test accuracy over seeds, the learning rates
    that were chosen, collapse on test."""
    if not stored(name):
        return NOTHING
    rows = [row for each in (name, *more) for row in stored(each)]
    lines = []
    for arm, policy, control in dict.fromkeys((row["arm"], row["policy"], row["control"]) for row in rows):
        own = [row for row in rows if (row["arm"], row["policy"], row["control"]) == (arm, policy, control)]
        cdnv = ", ".join("undefined" if row["cdnv_median"] is None else f"{row['cdnv_median']:.3g}" for row in own)
        lines.append(
            [
                arm,
                policy,
                mean_in_percent(own, "test_accuracy"),
                of_each_seed(own, "test_accuracy"),
                ", ".join(f"{row['chosen_lr']:g}" for row in own),
                beside_nulls(own, "nc1"),
                cdnv,
                f"{median(row['seconds'] for row in own):.0f}",
            ]
        )
    headings = [
        "arm",
        "policy",
        "test accuracy (%)",
        "of each seed",
        "chosen rate",
        "null of NC1, test: share",
        "median CDNV",
    ]
    return noted(markdown_table([*headings, "seconds, median"], lines, [2, 7]), rows)


def shots() -> str:
    """A line for each arm, a column for each number of shapes per class; ten are those of fair_ten_shots."""
    if not stored("shots"):
        return NOTHING
    arms = policies_of(stored("shots"))
    rows = [row for row in [*stored("shots"), *stored("fair_ten_shots")] if (row["arm"], row["policy"]) in arms]
    counts = sorted({row["shots"] for row in rows})
    lines = []
    for arm, policy in arms:
        own = [row for row in rows if (row["arm"], row["policy"]) == (arm, policy)]
        cells = [[row for row in own if row["shots"] == count] for count in counts]
        rates = ("; ".join(f"{row['chosen_lr']:g}" for row in cell) or "–" for cell in cells)
        lines.append(
            [
                arm,
                policy,
                *(mean_in_percent(cell, "test_accuracy") + f" ({len(cell)})" if cell else "–" for cell in cells),
                ", ".join(rates),
            ]
        )
    headings = ["arm", "policy", *(f"{count} per class (%)" for count in counts), "chosen rates"]
    return noted(markdown_table(headings, lines, range(2, 2 + len(counts))), rows)


def full_modelnet40() -> str:
    """A line for each arm: test accuracy over seeds, and how soon its validation clouds were so often right."""
    rows = stored("full_modelnet40")
    if not rows:
        return NOTHING
    marks = (0.7, 0.8, 0.85, 0.9)
    own = policies_of(rows)
    lines = [
        [
            arm,
            policy,
            f"{runs[0]['trainable']:,}",
            share_of_all(own, arm, runs[0]),
            mean_in_percent(runs, "test_accuracy"),
            of_each_seed(runs, "test_accuracy"),
            ", ".join(f"{row['chosen_lr']:g}" for row in runs),
            ", ".join(f"{100 * best[2]:.2f} ({best[0]})" for row in runs for best in [_best(row)]),
            *("; ".join(_first(row, mark) for row in runs) for mark in marks),
            mean_of(runs, "seconds_per_step", 2),
        ]
        for (arm, policy), runs in own.items()
    ]
    headings = ["arm", "policy", "tuned", "of all (%)", "test accuracy (%)", "of each seed", "chosen rate"]
    headings += ["best validation (%), its epoch", *(f"to {100 * mark:.0f} %" for mark in marks), "seconds per step"]
    return noted(markdown_table(headings, lines, [2, 3, 4, 12]), rows)


def _best(row: Row) -> Sequence[float]:
    """Epoch, seconds and score where the validation clouds were most often right; the first of equals."""
    return max(row["validated"], key=lambda each: each[2])


def _first(row: Row, mark: float) -> str:
    """Epochs and seconds of training until the validation clouds were right so often."""
    there = [each for each in row["validated"] if each[2] >= mark]
    return f"{there[0][0]} ({there[0][1]:,.0f} s)" if there else "not reached"


def ending_early(name: str, whole: str, arms: Sequence[str]) -> str:
    """A line for each arm, policy and block with which the network ends, beside those of the whole one in another
    experiment with the same settings."""
    if not stored(name):
        return NOTHING
    rows = [*stored(name), *(row for row in stored(whole) if row["arm"] in arms)]
    keys = {(row["arm"], row["policy"], row.get("until") or "") for row in rows}

    def place(key: tuple[str, str, str]) -> tuple[int, bool, str, str]:
        arm, policy, until = key
        return arms.index(arm), policy != "io+norm", policy, until or "~"  # the whole comes last

    lines = []
    for arm, policy, until in sorted(keys, key=place):
        own = [row for row in rows if (row["arm"], row["policy"], row.get("until") or "") == (arm, policy, until)]
        lines.append(
            [
                arm,
                policy,
                f"`{until}`" if until else "the whole",
                f"{own[0]['trainable']:,}",
                f"{own[0]['parameters']:,}",
                mean_in_percent(own, "test_accuracy"),
                of_each_seed(own, "test_accuracy"),
                ", ".join(f"{row['chosen_lr']:g}" for row in own),
                beside_nulls(own, "nc1"),
                mean_of(own, "mebibytes"),
                mean_of(own, "seconds_per_step", 2),
            ]
        )
    headings = ["arm", "policy", "ends with", "tuned", "parameters", "test accuracy (%)", "of each seed", "chosen rate"]
    headings += ["null of NC1, test: share", "MiB", "seconds per step"]
    return noted(markdown_table(headings, lines, [3, 4, 5, 9, 10]), rows)


def inflation() -> str:
    """Each rule held against `mean`, which ran with the same settings in fair_ten_shots."""
    mean = [row for row in stored("fair_ten_shots") if (row["arm"], row["policy"]) == ("ImageNet", "io+norm")]
    return against("inflation", "mean", [{**row, "arm": "mean"} for row in mean])


def against(name: str, plain: str, more: Sequence[Row] = ()) -> str:
    """A line for each arm, and for those of `more`: accuracy, its difference to the arm `plain`, and what a teacher
    labelled for it."""
    if not stored(name):
        return NOTHING
    rows = [*stored(name), *more]
    first = sorted(rows, key=lambda row: row["arm"] != plain)
    arms = {row["arm"]: [other for other in rows if other["arm"] == row["arm"]] for row in first}
    alone = by_seed(rows, {"arm": plain}, "test_accuracy")
    others = [arm for arm in arms if arm != plain]
    tested = compared([(by_seed(rows, {"arm": arm}, "test_accuracy"), alone) for arm in others])
    effects = dict(zip(others, tested, strict=True))
    taught = any(row.get("labelled") for row in rows)
    lines = [
        [
            arm,
            mean_in_percent(own, "test_accuracy"),
            of_each_seed(own, "test_accuracy"),
            points(effects.get(arm)),
            *(["; ".join(_labelled(row) for row in own)] if taught else []),
            ", ".join(f"{row['chosen_lr']:g}" for row in own),
            beside_nulls(own, "nc1"),
            one_by_one(own, "nc1_trace_ratio_corrected"),
            mean_of(own, "mebibytes"),
            mean_of(own, "seconds_per_step", 2),
        ]
        for arm, own in arms.items()
    ]
    headings = ["arm", "test accuracy (%)", "of each seed", f"against {plain} (points)"]
    headings += [*(["labels taken, right (%)"] if taught else []), "chosen rate", "null of NC1, test: share"]
    headings += ["corrected scatter ratio, test", "MiB", "seconds per step"]
    return noted(markdown_table(headings, lines, [1, len(headings) - 2, len(headings) - 1]), rows)


def _labelled(row: Row) -> str:
    """How many labels of a teacher a run took, and which share of them is right."""
    if not row.get("labelled"):
        return "–"
    taken, right = row["labelled"]
    return f"{taken:,}, " + ("undefined" if right is None else f"{100 * right:.1f}")
