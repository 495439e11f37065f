"""The tables of docs/results.md, each from the rows of its experiment in docs/results/*.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from image2point.collapse.intervals import mean_interval
from image2point.config.studies import STUDIES
from image2point.experiments.follow import layers_table
from image2point.experiments.study import KINDS
from image2point.report.numbers import beside_null
from image2point.report.plain import markdown_table
from image2point.sweeps.comparison import Comparison, compared

ROWS = Path(__file__).resolve().parent.parent / "docs" / "results"
NOTHING = "Not yet run.\n"
Row = Mapping[str, Any]


def content_of(name: str) -> dict[str, Any]:
    """What is stored of an experiment: its rows, and the study that made them if it is one."""
    path = ROWS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": []}


def stored(name: str) -> list[dict[str, Any]]:
    """The rows of an experiment; none where it has not been run."""
    return content_of(name)["rows"]


def by_seed(rows: Sequence[Row], wanted: Row, key: str) -> dict[int, float]:
    """A number of the rows that have the wanted values, by seed; NaN where it is undefined. ValueError where a seed has
    several such rows: more has to be wanted."""
    own = [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]
    if len({row["seed"] for row in own}) < len(own):
        raise ValueError(f"{len(own)} rows of {len({row['seed'] for row in own})} seeds have {wanted}")
    return {row["seed"]: math.nan if row[key] is None else row[key] for row in own}


def mean_in_percent(rows: Sequence[Row], score: str) -> str:
    """The mean of a share over runs in per cent, with its interval where there are several, cut where shares end;
    marked if one is dead."""
    found = mean_interval([row[score] for row in rows])
    low, high = 100 * max(found.low, 0), 100 * min(found.high, 1)
    interval = "" if math.isnan(found.low) else f" [{low:.1f}, {high:.1f}]"
    return f"{100 * found.value:.1f}{interval}{'' if all(map(learnt, rows)) else ' †'}"


def of_each_seed(rows: Sequence[Row], score: str) -> str:
    """A share of each run in per cent, by its seed; those that learnt nothing are marked."""
    ordered = sorted(rows, key=lambda row: row["seed"])
    return ", ".join(f"{row['seed']}: {100 * row[score]:.1f}{'' if learnt(row) else ' †'}" for row in ordered)


def learnt(row: Row) -> bool:
    """Whether a run came away from guessing; rows taken before that was stored are taken to have."""
    return bool(row.get("learnt", True))


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
            _share_of_all(own, arm, runs[0]),
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


def tune_less(names: Sequence[str] = ("fair_ten_shots", "tune_less"), score: str = "test_accuracy") -> str:
    """A line for each policy of experiments with the same settings, fewest parameters first: its score, the share of
    the gap that it closes, and its difference to what it adds to, `io+norm` or `io`."""
    return policies([row for name in names for row in stored(name)], score) if stored(names[-1]) else NOTHING


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
            _share_of_all(own, arm, runs[0]),
            mean_in_percent(runs, score),
            of_each_seed(runs, score),
            f"{round(100 * gaps[arm, policy])}" if math.isfinite(gaps[arm, policy]) else "undefined",
            _points(effect_of.get((arm, policy))),
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


def policies_of(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of each arm and policy, arms in their order and policies by the number of parameters that train."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    found: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (arms.index(row["arm"]), row["trainable"])):
        found.setdefault((row["arm"], row["policy"]), []).append(row)
    return found


def _share_of_all(own: Mapping[tuple[str, str], Sequence[Row]], arm: str, row: Row) -> str:
    """What trains in a run, in per cent of what trains in `all`: the arm's, or another's, whose network is the same."""
    every = own.get((arm, "all")) or next((runs for (_, policy), runs in own.items() if policy == "all"), None)
    return f"{100 * row['trainable'] / every[0]['trainable']:.3g}" if every else "undefined"


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


def ends() -> str:
    """For each block with which the network may end, the cross-validated probe of each draw of training clouds; the
    best of each draw in bold."""
    rows = stored("ends")
    if not rows:
        return NOTHING
    draws = sorted({row["shot_seed"] for row in rows})
    best = {draw: max(row["probe"] for row in rows if row["shot_seed"] == draw) for draw in draws}
    lines = []
    for until in dict.fromkeys(row["until"] for row in rows):
        own = {row["shot_seed"]: row["probe"] for row in rows if row["until"] == until}
        cells = [f"{100 * own[d]:.1f}" if own[d] < best[d] else f"**{100 * own[d]:.1f}**" for d in draws]
        lines.append([f"`{until}`" if until else "the whole", *cells, f"{100 * sum(own.values()) / len(own):.1f}"])
    return markdown_table(["ends with", *(f"shots {draw}" for draw in draws), "mean"], lines, range(1, len(draws) + 2))


def inflation() -> str:
    """Each rule held against `mean`, which ran with the same settings in fair_ten_shots."""
    mean = [row for row in stored("fair_ten_shots") if (row["arm"], row["policy"]) == ("ImageNet", "io+norm")]
    return against("inflation", "mean", [{**row, "arm": "mean"} for row in mean])


def one_block() -> str:
    """Policies that train one block, between those of fair_ten_shots with ImageNet's kernels."""
    ends = [row for row in stored("fair_ten_shots") if row["arm"] == "ImageNet"]
    return policies([*ends, *own]) if (own := stored("collapse_guided")) else NOTHING


def shots() -> str:
    """A line for each arm, a column for each number of shapes per class; ten are those of fair_ten_shots."""
    if not stored("shots"):
        return NOTHING
    arms = policies_of(stored("shots"))
    rows = [*stored("shots"), *stored("fair_ten_shots")]
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
            _points(effects.get(arm)),
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


def _points(found: Comparison | None) -> str:
    """A difference of shares in points, its interval and its p, if seeds are enough; a dash where one is shared."""
    if found is None:
        return "–"
    if not found.tested:
        return f"{100 * found.effect.value:+.1f}, {found.seeds} seeds"
    value, low, high = (f"{100 * number:+.1f}" for number in (found.effect.value, found.effect.low, found.effect.high))
    return f"{value} [{low}, {high}], p = {found.p:.3g}"


def lidar(split: str) -> str:
    """A line for each arm of a split of airborne lidar, scored at the points, and one for features made by hand."""
    rows, hand = stored(f"lidar_{split}"), [row for row in stored("lidar_baseline") if row["data"] == split]
    if not rows:
        return NOTHING
    classes = list(rows[0]["per_class"])
    lines = []
    for arm, policy, control in dict.fromkeys((row["arm"], row["policy"], row["control"]) for row in rows):
        own = [row for row in rows if (row["arm"], row["policy"], row["control"]) == (arm, policy, control)]
        lines.append(
            [
                arm,
                policy,
                ", ".join(str(row["seed"]) for row in own),
                mean_in_percent(own, "test_miou"),
                ", ".join(_mean_share([row["test_miou"]]) for row in own),
                *(_mean_share([row["per_class"][name] for row in own]) for name in classes),
                _mean_share([row["test_accuracy"] for row in own]),
                ", ".join(f"{row['chosen_lr']:g}" for row in own),
                f"{sum(row['seconds'] for row in own) / len(own):.0f}",
            ]
        )
    for row in hand:
        shares = [*(row["per_class"][name] for name in classes), row["test_accuracy"]]
        score = _mean_share([row["test_miou"]])
        by_hand = ["features made by hand", "–", "–", score, "–", *(_mean_share([s]) for s in shares), "–"]
        lines.append([*by_hand, f"{row['seconds']}"])
    headings = [
        "arm",
        "policy",
        "seeds",
        "mIoU (%)",
        "of each seed",
        *classes,
        "accuracy (%)",
        "chosen rate",
        "seconds",
    ]
    return noted(markdown_table(headings, lines, list(range(3, len(headings)))), rows)


def lidar_networks() -> str:
    """Other decoders and networks in the same town, a run each, with what trains in it."""
    rows = stored("lidar_same_town_networks")
    if not rows:
        return NOTHING
    classes = list(rows[0]["per_class"])
    lines = [
        [
            row["arm"],
            f"`{row['arch']}`",
            f"`{row['decoder']}`",
            row["policy"],
            f"{row['trainable']:,}",
            mean_in_percent([row], "test_miou"),
            *(_mean_share([row["per_class"][name]]) for name in classes),
            f"{row['epochs']}",
            f"{row['chosen_lr']:g}",
            f"{row['seconds']}",
        ]
        for row in rows
    ]
    headings = ["arm", "network", "decoder", "policy", "trained", "mIoU (%)", *classes, "epochs", "rate", "seconds"]
    return noted(markdown_table(headings, lines, list(range(4, len(headings)))), rows)


def lidar_collapse() -> str:
    """Measures with errors over scenes, shares of their nulls, who is close: of test points by layer, and of the
    features on training points."""
    lines = []
    for row in stored("lidar_collapse"):
        if row["split"] != "test" and row["layer"] != "features":
            continue
        named = dict(part.split("=", 1) for part in row["run"].split(",") if "=" in part)
        nc1, frame, orthogonal = (_with_error(row, name) for name in ("nc1", "nc2_etf", "nc2_orthogonal"))
        first, second, cosine = row["closest"]
        shares = (f"{row['shares'][name]:.3f}" for name in ("nc1", "cdnv", "nc2_etf"))
        decided = f"{100 * row['values']['ncc_accuracy']:.1f}"
        closest = f"{first}, {second} ({cosine:+.2f})"
        where = [named["arm"], named["policy"], row["split"], row["layer"]]
        lines.append([*where, nc1, *shares, frame, orthogonal, decided, closest])
    headings = [
        "arm", "policy", "split", "layer", "NC1", "NC1 / null", "CDNV / null", "simplex / null", "NC2: simplex",
        "NC2: orthogonal", "nearest mean (%)", "closest means (cosine)",
    ]  # fmt: skip
    return markdown_table(headings, lines, list(range(4, 11))) if lines else NOTHING


def _with_error(row: Row, name: str) -> str:
    value, error = row["values"][name], row["errors"].get(name)
    return f"{value:.3g}" if error is None else f"{value:.3g} ± {error:.2g}"


def _mean_share(shares: Sequence[float | None]) -> str:
    there = [share for share in shares if share is not None]
    return f"{100 * sum(there) / len(there):.1f}" if there else "undefined"


def study(name: str) -> str:
    """The table of a study, as the study prints it."""
    rows = stored(name)
    return KINDS[asked.kind].table(asked, rows).markdown() if rows and (asked := asked_of(name)) else NOTHING


def asked_of(name: str) -> Any:
    """The study that made the rows."""
    asked = content_of(name)["study"]
    return STUDIES[asked["kind"]].model_validate(asked)


def follow_layers() -> str:
    """The classes layer by layer on both sides of the transfer."""
    rows = stored("follow_lite0")
    return layers_table(asked_of("follow_lite0"), rows).markdown() if rows else NOTHING


def label_noise() -> str:
    """Of noise, each measure and its null, at several sizes."""
    lines = [
        [
            f"{row['classes']} × {row['each']}",
            f"`{row['measure']}`",
            f"{row['mean']:.3g}",
            f"{row['null']:.3g}",
            f"{(row['mean'] - row['null']) / row['error']:+.1f}",
        ]
        for row in stored("label_noise")
    ]
    headings = ["classes × samples", "measure", "value", "null", "difference / its standard error"]
    return markdown_table(headings, lines, [2, 3, 4]) if lines else NOTHING
