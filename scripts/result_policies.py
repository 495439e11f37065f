"""The tables of docs/results.md that set scores beside the parameters that train."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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
from result_rows import Row, learnt, policies_of, stored

from image2point.report.plain import markdown_table
from image2point.sweeps.comparison import compared


def tune_less(names: Sequence[str] = ("fair_ten_shots", "tune_less"), score: str = "test_accuracy") -> str:
    """A line for each policy of experiments with the same settings, fewest parameters first: its score, the share of
    the gap that it closes, and its difference to what it adds to, `io+norm` or `io`."""
    return policies([row for name in names for row in stored(name)], score) if stored(names[-1]) else NOTHING


def one_block() -> str:
    """Policies that train one block, between those of fair_ten_shots with ImageNet's kernels."""
    ends = [row for row in stored("fair_ten_shots") if row["arm"] == "ImageNet"]
    return policies([*ends, *own]) if (own := stored("collapse_guided")) else NOTHING


def policies(rows: Sequence[Row], score: str = "test_accuracy") -> str:
    """The table of `tune_less`; where a policy chose a block, with the block of each seed."""
    own = policies_of(rows)
    added = [
        (arm, policy)
        for arm, policy in own
        if (base := base_of(policy)) and all(map(learnt, [*own[arm, policy], *own.get((arm, base), [])]))
    ]
    scores = {key: {row["seed"]: row[score] for row in runs} for key, runs in own.items()}
    effects = compared([(scores[arm, policy], scores.get((arm, base_of(policy)), {})) for arm, policy in added])
    effect_of = dict(zip(added, effects, strict=True))
    gaps = of_the_gap(own, score)
    lines = [
        [
            arm,
            policy + _blocks(runs),
            _range([row["trainable"] for row in runs]),
            share_of_all(own, arm, runs[0]),
            mean_in_percent(runs, score),
            of_each_seed(runs, score),
            f"{round(100 * gaps[arm, policy])}" if math.isfinite(gaps[arm, policy]) else "undefined",
            points(effect_of.get((arm, policy))),
            ", ".join(f"{row['chosen_lr']:g}" for row in runs),
            beside_nulls(runs, "nc1"),
            one_by_one(runs, "nc1_trace_ratio_corrected"),
            mean_of(runs, "mebibytes"),
            mean_of(runs, "seconds_per_step", 2),
        ]
        for (arm, policy), runs in own.items()
    ]
    heading = {"test_accuracy": "test accuracy (%)", "test_miou": "mIoU (%)"}[score]
    headings = ["arm", "policy", "tuned", "of all (%)", heading, "of each seed", "of the gap (%)", "added (points)"]
    headings += ["chosen rate", "null of NC1, test: share", "corrected scatter ratio, test", "MiB", "seconds per step"]
    return noted(markdown_table(headings, lines, [2, 3, 4, 6, 11, 12]), rows)


def _blocks(runs: Sequence[Row]) -> str:
    """The blocks that runs chose, in the order of their seeds."""
    chosen = [row["block"] for row in sorted(runs, key=lambda row: row["seed"]) if row.get("block")]
    return f" ({', '.join(chosen)})" if chosen else ""


def _range(counts: Sequence[int]) -> str:
    """A number of parameters, or the smallest and the largest where runs differ."""
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))


def base_of(policy: str) -> str:
    """What a policy adds to: `io+norm+depth` to `io+norm`, `io+depth` to `io`; empty if it adds to neither."""
    bases = (base for base in ("io+norm", "io") if policy.startswith(f"{base}+") and policy != "io+norm")
    return next(bases, "")


def of_the_gap(own: Mapping[tuple[str, str], Sequence[Row]], score: str) -> dict[tuple[str, str], float]:
    """By mean scores, the share of the way from the arm's `io+norm` to its `all`; NaN without either."""
    means = {key: sum(row[score] for row in runs) / len(runs) for key, runs in own.items()}
    found = {}
    for arm, policy in own:
        low, high = means.get((arm, "io+norm"), math.nan), means.get((arm, "all"), math.nan)
        found[arm, policy] = (means[arm, policy] - low) / (high - low) if high != low else math.nan
    return found


def learnt_depth() -> str:
    """A line for each layer: the numbers that each policy with a depth learnt for its slices, over seeds."""
    rows = [row for row in stored("tune_less") if row["policy"].startswith("io+norm+depth")]
    own = policies_of(rows)
    if not own:
        return NOTHING
    lines = [[f"`{layer}`", *(_slices(runs, layer) for runs in own.values())] for layer in rows[0]["depth"]]
    return markdown_table(["layer", *(f"{arm}, {policy}" for arm, policy in own)], lines, [])


def _slices(runs: Sequence[Row], layer: str) -> str:
    """Slice by slice, the mean over seeds, and the range of seeds; where channels have their own, their deviation."""
    spreads = [row.get("depth_spread", {}).get(layer) for row in runs]
    slices = zip(*(row["depth"][layer] for row in runs), strict=True)
    if not all(spreads):
        return ", ".join(f"{sum(each) / len(each):.2f} [{min(each):.2f}, {max(each):.2f}]" for each in slices)
    deviations = zip(*spreads, strict=True)
    pairs = zip(slices, deviations, strict=True)
    return ", ".join(f"{sum(each) / len(each):.2f} ± {sum(sd) / len(sd):.2f}" for each, sd in pairs)
