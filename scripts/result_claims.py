"""What docs/results.md claims: each claim of docs/results/claims.json with its verdict, from rows alone.

A claim's verdict is the paired comparison over seeds of one arm with another, or with the middle of several, corrected
by Holm over all claims of its batch that have rows. Claims that are written together make a batch (`batch`, `first`
unless given), so that those that come later change no verdict of the earlier ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import result_rows
from result_rows import Row, by_seed, learnt, stored

from image2point.collapse import fit_decay
from image2point.report.plain import markdown_table
from image2point.sweeps.comparison import Comparison, compared

NOT_YET = "undecided: not yet run"
SIDES = ("larger", "smaller")


def claims() -> str:
    """What we know: each claim with its source, verdict, effect and table."""
    listed = json.loads((result_rows.ROWS / "claims.json").read_text(encoding="utf-8"))
    pairs = []
    for claim in listed:
        rows = rows_of(claim)
        test = claim.get("larger") and claim.get("smaller")
        pairs.append(tuple(scores(rows, arms_of(claim, side), claim) if test else {} for side in SIDES))
    found: list[Comparison | None] = [None] * len(listed)
    tests: dict[str, int] = {}
    for batch in sorted(set(map(batch_of, listed))):
        own = [index for index, claim in enumerate(listed) if batch_of(claim) == batch]
        # With arms that learnt nothing: what came out does not decide what is corrected for.
        for index, each in zip(own, compared([pairs[index] for index in own]), strict=True):
            found[index] = each
        tests[batch] = sum((each := found[index]) is not None and each.tested for index in own)
    lines = []
    for claim, sides, each in zip(listed, pairs, found, strict=True):
        verdict, effect = judged(claim, sides, each, tests[batch_of(claim)])
        lines.append([claim["claim"], claim["source"], verdict, effect, f"[{claim['table']}](#{claim['anchor']})"])
    return markdown_table(["claim", "from", "verdict", "effect", "table"], lines)


def batch_of(claim: Row) -> str:
    """The claims with which a claim was written."""
    return str(claim.get("batch", "first"))


def rows_of(claim: Row) -> list[dict[str, Any]]:
    """The rows of a claim's experiment, or of several with the same settings; a row that two of them share once."""
    names = claim["rows"] if isinstance(claim["rows"], list) else [claim["rows"]]
    rows = [row for name in names for row in stored(name)]
    return list({json.dumps(row, sort_keys=True): row for row in rows}.values())


def arms_of(claim: Row, side: str) -> list[Row]:
    """The arms of a side of a claim: one, or several whose middle is meant."""
    arms = claim.get(side, [])
    return arms if isinstance(arms, list) else [arms]


def scores(rows: Sequence[Row], arms: Sequence[Row], claim: Row) -> dict[int, float]:
    """By seed, the mean over arms, of the seeds that all of them have; the logarithm of what is compared by ratio."""
    each = [by_seed(rows, arm, claim["value"]) for arm in arms]
    shared = set.intersection(*map(set, each))
    means = {seed: sum(found[seed] for found in each) / len(each) for seed in sorted(shared)}
    if not claim.get("ratio"):
        return means
    return {seed: math.log(value) if value > 0 else math.nan for seed, value in means.items()}


def said(claim: Row, *effects: float) -> list[str]:
    """Effects as they are shown: differences of shares in points, or ratios."""
    return [f"{math.exp(effect):.2f}" if claim.get("ratio") else f"{100 * effect:+.1f}" for effect in effects]


def named(claim: Row, effect: float) -> str:
    """An effect with its unit."""
    (value,) = said(claim, effect)
    return f"{value} times" if claim.get("ratio") else f"{value} points"


def idle(claim: Row, rows: Sequence[Row]) -> list[str]:
    """The arms of a claim with a run that learnt nothing."""
    sides = [arm for side in SIDES for arm in arms_of(claim, side) if "arm" in arm]
    own = [[row for row in rows if all(row.get(key) == value for key, value in side.items())] for side in sides]
    return [f"the arm {side['arm']}" for side, found in zip(sides, own, strict=True) if not all(map(learnt, found))]


def judged(claim: Row, sides: tuple[Mapping[int, float], ...], found: Comparison | None, tests: int) -> tuple[str, str]:
    """Verdict and effect of a claim, from rows alone; tests: of how many it is one."""
    if "rule" in claim:
        return RULES[claim["rule"]](rows_of(claim))
    larger, smaller = sides
    if not larger or not smaller:
        return NOT_YET, "–"
    if found is None:
        shared = sorted(set(larger) & set(smaller))
        if not shared:
            return NOT_YET, "–"
        undefined = [seed for seed in shared if math.isnan(larger[seed] - smaller[seed])]
        if undefined:
            return f"undecided: undefined in seed {', '.join(map(str, undefined))}", "–"
        verdict, effect = "undecided: one seed", named(claim, larger[shared[0]] - smaller[shared[0]])
    else:
        effect = named(claim, found.effect.value)
        verdict = {"larger": "supported", "smaller": "contradicted", "undecided": "undecided"}[found.verdict]
    if arms := idle(claim, rows_of(claim)):
        verdict = f"undecided: {' and '.join(arms)} learnt nothing, which proves nothing"
    if found is None or not found.tested:
        few = "" if found is None else f" over {found.seeds} seeds"
        return verdict, f"{effect}{few}, no interval"
    low, high = said(claim, found.effect.low, found.effect.high)
    effect += f" [{low}, {high}] over {found.seeds} seeds"
    if found.seeds < (planned := claim.get("seeds", 0)):  # a look on the way decides nothing
        return f"undecided: {found.seeds} of {planned} planned seeds", effect
    return verdict, effect if arms else f"{effect}, p = {found.p:.3g} (Holm of {tests})"


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


PUBLISHED = ("galanti", "directional", "finite_shot")
"""The bounds of few-shot rows that others have published."""


def _foretold(rows: Sequence[Row]) -> tuple[str, str]:
    """The error of the nearest mean beside what the moments of the classes give, in every kind of episode."""
    own = [row for row in rows if row["classifier"] == "ncc"]
    gaps = [abs(1 - row["accuracy"] - row["predicted"]) for row in own if row.get("predicted") is not None]
    if not gaps:
        return NOT_YET, "–"
    effect = f"largest difference {100 * max(gaps):.1f} points, mean {100 * sum(gaps) / len(gaps):.1f}, of {len(gaps)}"
    return ("supported" if max(gaps) <= 0.05 else "contradicted"), effect


def _vacuous(rows: Sequence[Row]) -> tuple[str, str]:
    """Whether any published bound is below 1 in any kind of episode."""
    own = [row for row in rows if row["classifier"] == "ncc"]
    found = [(row[name], name, row) for row in own for name in PUBLISHED if row.get(name) is not None]
    if not found:
        return NOT_YET, "–"
    value, name, row = min(found, key=lambda each: each[0])
    useful = sum(each[0] < 1 for each in found)
    effect = (
        f"smallest {value:.2g} (`{name}`, {row['ways']} ways, {row['shots']} shots); {useful} of {len(found)} below 1"
    )
    return ("contradicted" if useful else "supported"), effect


def _decay(rows: Sequence[Row]) -> tuple[str, str]:
    """Whether tr Σ_W / tr Σ_B of training clouds falls by a constant factor from layer to layer, everything trained."""
    own = [row for row in rows if (row["stage"], row["split"]) == ("all", "train")]
    if not own:
        return NOT_YET, "–"
    falls: dict[int, list[float]] = {}
    for row in own:
        value = row["nc1_trace_ratio"]
        falls.setdefault(row.get("seed", 0), []).append(math.nan if value is None else value)
    fits = list(map(fit_decay, falls.values()))
    rate, explained = (sum(values) / len(fits) for values in zip(*((f.rate, f.explained) for f in fits), strict=True))
    if not math.isfinite(explained):
        return "undecided: undefined", "–"
    straight = all(fit.high < 1 and fit.explained >= 0.9 for fit in fits)
    effect = f"factor {rate:.3f} per layer, R² {explained:.2f}, mean of {len(fits)} seeds, everything trained"
    return ("supported" if straight else "contradicted"), effect


def _unrun(rows: Sequence[Row]) -> tuple[str, str]:
    return NOT_YET, "–"


RULES: dict[str, Callable[[Sequence[Row]], tuple[str, str]]] = {
    "frames": _frames,
    "unequal": _unequal,
    "foretold": _foretold,
    "vacuous": _vacuous,
    "decay": _decay,
    "unrun": _unrun,
    "noise": _noise,
}
