"""docs/results.md holds no number that a person typed: its tables are written from the rows in docs/results/*.json.

    python scripts/results.py                               # write the tables again
    python scripts/results.py --check                       # exit code 1 where the page is not what the rows give
    python scripts/results.py --take fair_ten_shots runs/fair_ten_shots     # rows of finished runs, or of a study
    python scripts/results.py --take unconstrained studies/unconstrained

A table stands between `<!-- results: NAME -->` and `<!-- end -->`, NAME a function of `TABLES`. Outside of tables,
commands and code, the page may say no decimal and no per cent: a number belongs into a table, where rows give it.
A claim's verdict is the paired comparison over seeds, corrected by Holm over all claims that have rows.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from image2point import __version__
from image2point.collapse.intervals import mean_interval
from image2point.config.studies import FollowStudy, UnconstrainedStudy
from image2point.experiments.follow import follow_table
from image2point.experiments.unconstrained import unconstrained_table
from image2point.files import write_text
from image2point.report.numbers import beside_null
from image2point.report.plain import markdown_table
from image2point.report.read import Record, read_runs
from image2point.sweeps.comparison import Comparison, compared
from image2point.sweeps.selection import run_folders

ROOT = Path(__file__).resolve().parent.parent
PAGE, ROWS = ROOT / "docs" / "results.md", ROOT / "docs" / "results"
BLOCK = re.compile(r"(<!-- results: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", re.DOTALL)
TYPED = re.compile(r"\d+\.\d+|\d+\s?%")
NOTHING = "Not yet run again.\n"
NOT_YET = "undecided: not yet run again"
Row = Mapping[str, Any]


def stored(name: str) -> list[dict[str, Any]]:
    """The rows of an experiment; none where it has not been run."""
    path = ROWS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []


# ------------------------------------------------------------------------------------------------------------- rows


def take(name: str, folder: Path) -> None:
    """Store the rows of a study, or of the finished runs in a folder."""
    study = folder / "rows.json"
    measured = sorted(folder.glob("*.json"))
    if study.is_file():
        rows = json.loads(study.read_text(encoding="utf-8"))
    elif measured:
        rows = [row for path in measured for row in layers_in(json.loads(path.read_text(encoding="utf-8")))]
    else:
        rows = runs_in(folder)
    content = {"taken": date.today().isoformat(), "image2point": __version__, "rows": rows}
    write_text(ROWS / f"{name}.json", json.dumps(content, indent=1) + "\n")
    print(f"{len(rows)} rows in {(ROWS / name).relative_to(ROOT)}.json")


def runs_in(folder: Path) -> list[dict[str, Any]]:
    return [row_of(run) for run in read_runs(run_folders([folder]))]


def layers_in(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each split and layer of what `image2point measure RUN --json` wrote."""
    run = Path(measured["target"]).name
    return [
        {
            "run": run,
            "split": split,
            "layer": layer,
            "values": found["values"],
            "errors": {name: interval["error"] for name, interval in found["intervals"].items()},
            "shares": {name: null["share"] for name, null in found["nulls"].items()},
            "closest": each.get("closest", {}).get(layer),
        }
        for split, each in measured["on"].items()
        for layer, found in each["layers"].items()
    ]


def row_of(run: Record) -> dict[str, Any]:
    """What the tables need of a run, and nothing about the machine's folders."""
    summary, settings = run.summary, run.settings
    test = summary.collapse.get("test", {})
    measured = {key: value for key, value in test.items() if key.partition("_null")[0] in ("nc1", "cdnv")}
    corrected = {key: test.get(key) for key in ("nc1_trace_ratio_corrected", "cdnv_median")}
    keys = (
        *("network.arch", "network.rule", "network.control", "network.decoder"),
        *("finetune.policy", "data.shots", "training.epochs"),
    )
    return {
        "arm": summary.arm,
        "seed": summary.seed,
        **{key.partition(".")[2]: settings[key] for key in keys},
        "trainable": summary.parameters.trainable,
        "parameters": summary.parameters.total,
        "chosen_lr": summary.chosen_lr,
        "trials": [[trial.lr, trial.epochs, trial.order[0] if trial.order else None] for trial in summary.trials],
        **{key: value for key, value in summary.final.items() if key.startswith("test_")},
        **({"per_class": summary.per_class} if summary.task == "segmentation" else {}),
        **measured,
        **corrected,
        "learnt": not any("nothing was learnt" in warning for warning in summary.warnings),
        "seconds": round(summary.seconds.total),
        "seconds_per_step": summary.seconds_per_step,
        "mebibytes": summary.mebibytes.training,
    }


# ----------------------------------------------------------------------------------------------------------- tables


def by_seed(rows: Sequence[Row], wanted: Row, key: str) -> dict[int, float]:
    """A number of the rows that have the wanted values, by seed; NaN where it is undefined."""
    own = [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]
    return {row["seed"]: math.nan if row[key] is None else row[key] for row in own}


def mean_in_percent(shares: Sequence[float]) -> str:
    """The mean of shares over runs in per cent, with its interval where there are several."""
    found = mean_interval(shares)
    interval = "" if math.isnan(found.low) else f" [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    return f"{100 * found.value:.1f}{interval}"


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
    """The mean of a number over the runs; a dash where one has none."""
    values = [row.get(name) for row in rows]
    there = [value for value in values if value is not None]
    return f"{sum(there) / len(there):,.{digits}f}" if len(there) == len(values) else "–"


def fair_ten_shots() -> str:
    """A line for each arm: test accuracy over seeds, the learning rates that were chosen, collapse on test."""
    rows = stored("fair_ten_shots")
    if not rows:
        return NOTHING
    arms = list(dict.fromkeys((row["arm"], row["policy"], row["control"]) for row in rows))
    lines = []
    for arm, policy, control in arms:
        own = [row for row in rows if (row["arm"], row["policy"], row["control"]) == (arm, policy, control)]
        median = ", ".join("undefined" if row["cdnv_median"] is None else f"{row['cdnv_median']:.3g}" for row in own)
        lines.append(
            [
                arm,
                policy,
                ", ".join(str(row["seed"]) for row in own),
                mean_in_percent([row["test_accuracy"] for row in own]) + ("" if all(map(learnt, own)) else " †"),
                ", ".join(f"{row['chosen_lr']:g}" for row in own),
                beside_nulls(own, "nc1"),
                median,
                f"{sum(row['seconds'] for row in own) / len(own):.0f}",
            ]
        )
    headings = ["arm", "policy", "seeds", "test accuracy (%)", "chosen rate", "null of NC1, test: share", "median CDNV"]
    table = markdown_table([*headings, "seconds"], lines, [3, 7])
    return table + (
        ""
        if all(map(learnt, rows))
        else "\n† Some or all of these runs learnt nothing: their loss is that of guessing.\n"
    )


def learnt(row: Row) -> bool:
    """Whether a run came away from guessing; rows taken before that was stored are taken to have."""
    return bool(row.get("learnt", True))


def tune_less(name: str = "tune_less", score: str = "test_accuracy", heading: str = "test accuracy (%)") -> str:
    """A line for each policy and control, fewest parameters first: its score, and how much of the gap it closes."""
    rows = stored(name)
    if not rows:
        return NOTHING
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = {}
        for row in sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["trainable"]):
            own.setdefault(row["policy"], []).append(row)
        means = {policy: sum(row[score] for row in runs) / len(runs) for policy, runs in own.items()}
        low, high = means.get("io+norm", math.nan), means.get("all", math.nan)
        every = own["all"][0]["parameters"] if "all" in own else math.nan
        for policy, runs in own.items():
            closed = (means[policy] - low) / (high - low) if high != low else math.nan
            share = runs[0]["trainable"] / every
            lines.append(
                [
                    arm,
                    policy,
                    f"{runs[0]['trainable']:,}",
                    f"{100 * share:.3g}" if math.isfinite(share) else "undefined",
                    ", ".join(str(row["seed"]) for row in runs),
                    mean_in_percent([row[score] for row in runs]),
                    f"{round(100 * closed)}" if math.isfinite(closed) else "undefined",
                    ", ".join(f"{row['chosen_lr']:g}" for row in runs),
                    beside_nulls(runs, "nc1"),
                    one_by_one(runs, "nc1_trace_ratio_corrected"),
                    mean_of(runs, "mebibytes"),
                    mean_of(runs, "seconds_per_step", 2),
                ]
            )
    headings = ["arm", "policy", "tuned", "of all (%)", "seeds", heading, "of the gap (%)", "chosen rate"]
    headings += ["null of NC1, test: share", "corrected scatter ratio, test", "MiB", "seconds per step"]
    return markdown_table(headings, lines, [2, 3, 5, 6, 10, 11])


def regularised() -> str:
    """A line for each arm of regularised transfer: accuracy, and its difference to the arm without any."""
    rows = stored("regularised")
    if not rows:
        return NOTHING
    first = sorted(rows, key=lambda row: row["arm"] != "none")
    arms = {row["arm"]: [other for other in rows if other["arm"] == row["arm"]] for row in first}
    plain = by_seed(rows, {"arm": "none"}, "test_accuracy")
    others = [arm for arm in arms if arm != "none"]
    tested = compared([(by_seed(rows, {"arm": arm}, "test_accuracy"), plain) for arm in others])
    effects = dict(zip(others, tested, strict=True))
    lines = [
        [
            arm,
            ", ".join(str(row["seed"]) for row in own),
            mean_in_percent([row["test_accuracy"] for row in own]),
            _points(effects.get(arm)),
            ", ".join(f"{row['chosen_lr']:g}" for row in own),
            beside_nulls(own, "nc1"),
            one_by_one(own, "nc1_trace_ratio_corrected"),
            mean_of(own, "mebibytes"),
            mean_of(own, "seconds_per_step", 2),
        ]
        for arm, own in arms.items()
    ]
    headings = ["arm", "seeds", "test accuracy (%)", "against none (points)", "chosen rate", "null of NC1, test: share"]
    headings += ["corrected scatter ratio, test", "MiB", "seconds per step"]
    return markdown_table(headings, lines, [2, 3, 7, 8])


def _points(found: Comparison | None) -> str:
    """A difference of shares in points, its interval and its p; a dash where too few seeds are shared."""
    if found is None:
        return "–"
    value, low, high = (f"{100 * number:+.1f}" for number in (found.effect.value, found.effect.low, found.effect.high))
    return f"{value} [{low}, {high}], p = {found.p:.2g}"


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
                mean_in_percent([row["test_miou"] for row in own]),
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
    return markdown_table(headings, lines, list(range(3, len(headings))))


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
            *(_mean_share([value]) for value in (row["test_miou"], *(row["per_class"][name] for name in classes))),
            f"{row['epochs']}",
            f"{row['chosen_lr']:g}",
            f"{row['seconds']}",
        ]
        for row in rows
    ]
    headings = ["arm", "network", "decoder", "policy", "trained", "mIoU (%)", *classes, "epochs", "rate", "seconds"]
    return markdown_table(headings, lines, list(range(4, len(headings))))


def lidar_collapse() -> str:
    """A line for each layer on test points: measures with errors over scenes, shares of their nulls, who is close."""
    lines = []
    for row in stored("lidar_collapse"):
        if row["split"] != "test":
            continue
        named = dict(part.split("=", 1) for part in row["run"].split(",") if "=" in part)
        nc1, frame, orthogonal = (_with_error(row, name) for name in ("nc1", "nc2_etf", "nc2_orthogonal"))
        first, second, cosine = row["closest"]
        shares = (f"{row['shares'][name]:.3f}" for name in ("nc1", "cdnv", "nc2_etf"))
        decided = f"{100 * row['values']['ncc_accuracy']:.1f}"
        closest = f"{first}, {second} ({cosine:+.2f})"
        lines.append([named["arm"], named["policy"], row["layer"], nc1, *shares, frame, orthogonal, decided, closest])
    headings = [
        "arm", "policy", "layer", "NC1", "NC1 / null", "CDNV / null", "simplex / null", "NC2: simplex",
        "NC2: orthogonal", "nearest mean (%)", "closest means (cosine)",
    ]  # fmt: skip
    return markdown_table(headings, lines, list(range(3, 10))) if lines else NOTHING


def _with_error(row: Row, name: str) -> str:
    value, error = row["values"][name], row["errors"].get(name)
    return f"{value:.3g}" if error is None else f"{value:.3g} ± {error:.2g}"


def _mean_share(shares: Sequence[float | None]) -> str:
    there = [share for share in shares if share is not None]
    return f"{100 * sum(there) / len(there):.1f}" if there else "undefined"


def follow() -> str:
    """The table of the study, of test: a line for each stage."""
    rows = [row for row in stored("follow_lite0") if row["split"] == "test"]
    if not rows:
        return NOTHING
    return follow_table(FollowStudy(images="", arms={}, splits=("test",)), rows).markdown()


def unconstrained() -> str:
    """The table of the study."""
    rows = stored("unconstrained")
    if not rows:
        return NOTHING
    study = UnconstrainedStudy(seeds=tuple(sorted({row["seed"] for row in rows})))
    return unconstrained_table(study, rows).markdown()


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


def claims() -> str:
    """What we know: each claim with its source, verdict, effect and table."""
    listed = json.loads((ROWS / "claims.json").read_text(encoding="utf-8"))
    pairs = []
    for claim in listed:
        rows = stored(claim["rows"])
        test = claim.get("larger") and claim.get("smaller") and not idle(claim, rows)
        first, second = (by_seed(rows, claim[side], claim["value"]) if test else {} for side in ("larger", "smaller"))
        pairs.append((first, second))
    found = compared(pairs)
    lines = []
    for claim, sides, each in zip(listed, pairs, found, strict=True):
        verdict, effect = judged(claim, sides, each)
        lines.append([claim["claim"], claim["source"], verdict, effect, f"[{claim['table']}](#{claim['anchor']})"])
    return markdown_table(["claim", "from", "verdict", "effect", "table"], lines)


def idle(claim: Row, rows: Sequence[Row]) -> list[str]:
    """The arms of a claim with a run that learnt nothing."""
    sides = [claim[side] for side in ("larger", "smaller") if side in claim]
    own = [[row for row in rows if all(row.get(key) == value for key, value in side.items())] for side in sides]
    return [f"the arm {side['arm']}" for side, found in zip(sides, own, strict=True) if not all(map(learnt, found))]


def judged(claim: Row, sides: tuple[Mapping[int, float], ...], found: Comparison | None) -> tuple[str, str]:
    """Verdict and effect of a claim, from rows alone."""
    if "rule" in claim:
        return RULES[claim["rule"]](stored(claim["rows"]))
    larger, smaller = sides
    if arms := idle(claim, stored(claim["rows"])):
        return f"undecided: {' and '.join(arms)} learnt nothing, which proves nothing", "–"
    if not larger or not smaller:
        return NOT_YET, "–"
    if found is None:
        shared = sorted(set(larger) & set(smaller))
        if not shared:
            return NOT_YET, "–"
        return "undecided: one seed", f"{100 * (larger[shared[0]] - smaller[shared[0]]):+.1f} points, no interval"
    effect = found.effect
    verdict = {"larger": "supported", "smaller": "contradicted", "undecided": "undecided"}[found.verdict]
    text = f"{100 * effect.value:+.1f} points [{100 * effect.low:+.1f}, {100 * effect.high:+.1f}]"
    return verdict, f"{text} over {found.seeds} seeds, p = {found.p:.2g} (Holm)"


def _frames(rows: Sequence[Row]) -> tuple[str, str]:
    balanced = [row["distance"] for row in rows if row["ratio"] == 1]
    if not balanced:
        return NOT_YET, "–"
    return ("supported" if max(balanced) < 1e-4 else "contradicted"), f"distance at most {max(balanced):.1e}"


def _unequal(rows: Sequence[Row]) -> tuple[str, str]:
    own = [row["distance"] for row in rows if row["ratio"] > 1]
    if not own:
        return NOT_YET, "–"
    return ("supported" if min(own) > 0.01 else "contradicted"), f"distance at least {min(own):.2f}"


def _noise(rows: Sequence[Row]) -> tuple[str, str]:
    """A measure of noise is its null: no difference beyond what Bonferroni's 5 % over the table allows."""
    if not rows:
        return NOT_YET, "–"
    from scipy.stats import t

    far = max(abs(row["mean"] - row["null"]) / row["error"] for row in rows)
    bound = float(t.ppf(1 - 0.025 / len(rows), rows[0]["draws"] - 1))
    verdict = "not contradicted" if far < bound else "contradicted"
    return verdict, f"largest of {len(rows)} differences {far:.1f} standard errors, chance allows {bound:.1f}"


def _unrun(rows: Sequence[Row]) -> tuple[str, str]:
    return NOT_YET, "–"


RULES: dict[str, Callable[[Sequence[Row]], tuple[str, str]]] = {
    "frames": _frames,
    "unequal": _unequal,
    "unrun": _unrun,
    "noise": _noise,
}
TABLES: dict[str, Callable[[], str]] = {
    "claims": claims,
    "fair_ten_shots": fair_ten_shots,
    "tune_less": tune_less,
    "regularised": regularised,
    "label_noise": label_noise,
    **{f"lidar_{split}": partial(lidar, split) for split in ("same_town", "other_sites", "km")},
    "lidar_same_town_networks": lidar_networks,
    "lidar_tune_less": partial(tune_less, "lidar_tune_less", "test_miou", "mIoU (%)"),
    "lidar_collapse": lidar_collapse,
    "unconstrained": unconstrained,
    "follow_lite0": follow,
}


# ------------------------------------------------------------------------------------------------------------- page


def written(page: str) -> str:
    """The page with its tables as the rows give them."""
    return BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[4]}", page)


def typed_numbers(page: str) -> list[str]:
    """Numbers that stand outside of tables, commands and code, with their lines."""

    def blank(found: re.Match[str]) -> str:
        return "\n" * found[0].count("\n")

    rest = CODE.sub(blank, BLOCK.sub(blank, page))
    return [
        f"line {number}: {found[0]}"
        for number, line in enumerate(rest.splitlines(), start=1)
        for found in TYPED.finditer(line)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 where the page is not right")
    parser.add_argument("--take", nargs=2, metavar=("NAME", "FOLDER"), help="store the rows of runs, or of a study")
    given = parser.parse_args(arguments)
    if given.take:
        take(given.take[0], Path(given.take[1]))
    page = PAGE.read_text(encoding="utf-8")
    right = written(page)
    typed = typed_numbers(page)
    for each in typed:
        print(f"{PAGE.name} has a number that no row gives, {each}")
    if given.check:
        lines = difflib.unified_diff(page.splitlines(), right.splitlines(), "the page", "its rows", lineterm="", n=0)
        print("\n".join(lines))
        return int(right != page or bool(typed))
    write_text(PAGE, right)
    return int(bool(typed))


if __name__ == "__main__":
    sys.exit(main())
