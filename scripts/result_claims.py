"""What docs/results.md claims: each claim of docs/results/claims.json with its verdict, from rows alone.

A claim's verdict is the paired comparison over seeds of one arm with another, or with the middle of several, corrected
by Holm over all claims of its batch that have rows. Claims that are written together make a batch (`batch`, the first
unless given), so that those that come later change no verdict of the earlier ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence

import result_tables
from result_tables import Row, by_seed, learnt, stored

from image2point.report.plain import markdown_table
from image2point.sweeps.comparison import Comparison, compared

NOT_YET = "undecided: not yet run"
SIDES = ("larger", "smaller")


def claims() -> str:
    """What we know: each claim with its source, verdict, effect and table."""
    listed = json.loads((result_tables.ROWS / "claims.json").read_text(encoding="utf-8"))
    pairs = []
    for claim in listed:
        rows = stored(claim["rows"])
        test = claim.get("larger") and claim.get("smaller")
        pairs.append(tuple(scores(rows, arms_of(claim, side), claim) if test else {} for side in SIDES))
    found: list[Comparison | None] = [None] * len(listed)
    tests: dict[int, int] = {}
    for batch in sorted({claim.get("batch", 1) for claim in listed}):
        own = [index for index, claim in enumerate(listed) if claim.get("batch", 1) == batch]
        # With arms that learnt nothing: what came out does not decide what is corrected for.
        for index, each in zip(own, compared([pairs[index] for index in own]), strict=True):
            found[index] = each
        tests[batch] = sum((each := found[index]) is not None and each.tested for index in own)
    lines = []
    for claim, sides, each in zip(listed, pairs, found, strict=True):
        verdict, effect = judged(claim, sides, each, tests[claim.get("batch", 1)])
        lines.append([claim["claim"], claim["source"], verdict, effect, f"[{claim['table']}](#{claim['anchor']})"])
    return markdown_table(["claim", "from", "verdict", "effect", "table"], lines)


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
        return RULES[claim["rule"]](stored(claim["rows"]))
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
    if arms := idle(claim, stored(claim["rows"])):
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


def _unrun(rows: Sequence[Row]) -> tuple[str, str]:
    return NOT_YET, "–"


RULES: dict[str, Callable[[Sequence[Row]], tuple[str, str]]] = {
    "frames": _frames,
    "unequal": _unequal,
    "unrun": _unrun,
    "noise": _noise,
}
