"""Do scores without fine-tuning foretell which checkpoint fine-tunes best? Scores and accuracies of the same networks.

Candidates are checkpoints, controls of them that lack what was learnt, and a network caught on its way through
pre-training. For every score: how well it orders them, and what choosing by it would have cost.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from image2point.collapse import Interval, mean_interval
from image2point.collapse.scores import SCORES
from image2point.config import Pretrain, load_config, load_config_as
from image2point.config.studies import RankStudy
from image2point.errors import InputError
from image2point.experiments import rank
from image2point.experiments.agreement import Agreement, agreement
from image2point.experiments.study_rows import Row, select
from image2point.jobs.pretrain import run_pretraining
from image2point.jobs.transfer import run_transfer
from image2point.report.numbers import duration
from image2point.report.plain import Table, ranged
from image2point.report.plots import Point, Scatter, scatter
from image2point.units import ALONE, Crew

CHECKPOINT, PARTLY = "checkpoint", "partly trained"


def rank_study_rows(study: RankStudy, base: Path, folder: Path, crew: Crew = ALONE) -> list[Row]:
    """Rows by seed and candidate: its scores before, and its test accuracy after fine-tuning."""
    path = base / study.transfer
    candidates = rank.with_controls(study.candidates, study.controls) | _partly_trained(study, base, folder)
    if len(candidates) < 3:
        raise InputError(f"a study of rank needs 3 candidates or more to put in order, found {len(candidates)}")
    for settings in candidates.values():  # a mistake in the last one is said before the first one is trained
        load_config(path, [*study.settings, *settings])
    planned = []
    for seed in study.seeds:
        for name, settings in candidates.items():
            label = f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}_seed{seed}"
            changes = [*study.settings, *settings, f"seed={seed}", f"data.shot_seed={seed}", f"name={label}"]
            planned.append((seed, name, changes))
    scored = rank.scores_of(path, [(name, changes) for _, name, changes in planned], study.norms, study.folds, crew)
    rows = []
    for (seed, name, changes), found in zip(planned, scored, strict=True):
        summary = run_transfer(load_config(path, changes), folder / "runs", resume=True).read_summary()
        rows.append(
            {"candidate": name, "kind": _kind(study, name), "seed": seed, **found.scores,
             "accuracy": summary["final"]["test_accuracy"], "seconds": found.seconds,
             "training_seconds": summary["seconds"]["training"]}
        )  # fmt: skip
    return rows


def _partly_trained(study: RankStudy, base: Path, folder: Path) -> dict[str, list[str]]:
    """The pre-trained network after each number of epochs, as candidates."""
    found = {}
    for epochs in study.pretrain_epochs if study.pretrain else ():
        changes = [*study.pretrain_settings, f"training.epochs={epochs}", f"name=pretrain_{epochs}"]
        config = load_config_as(Pretrain, base / str(study.pretrain), changes)
        place = run_pretraining(config, folder / "runs", resume=True)
        name = f"{config.network.arch}, epoch {epochs} of {config.images.name}"
        found[name] = [f"network.arch={config.network.arch}", f"network.weights=file:{place.weights}"]
    return found


def _kind(study: RankStudy, name: str) -> str:
    if name in study.candidates:
        return CHECKPOINT
    control = name.rpartition(", ")[2]
    return control if control in study.controls else PARTLY


def _names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["candidate"] for row in rows))


def _mean(rows: Sequence[Row], name: str, key: str) -> float:
    """Of a candidate, over seeds."""
    values = [float(row[key]) for row in select(rows, candidate=name)]
    return math.fsum(values) / len(values)


def rank_study_table(study: RankStudy, rows: Sequence[Row]) -> Table:
    """A line for each candidate, the most accurate first; below, how each score orders them."""
    names = sorted(_names(rows), key=lambda name: -_mean(rows, name, "accuracy"))
    lines = [
        (
            name,
            *(rank.shown(score, _mean(rows, name, score)) for score in SCORES),
            ranged(_accuracy(rows, name), percent=True),
            duration(_mean(rows, name, "seconds")),
            duration(_mean(rows, name, "training_seconds")),
        )
        for name in names
    ]
    notes = [
        f"Mean over {len(study.seeds)} seeds, of accuracy with its 95 % interval. Bigger is better for every score. "
        "Correlations are over candidates, together and within those of a kind (checkpoints, each control, one network "
        "partly trained) where there are three; intervals are a bootstrap's over candidates, 95 %.",
        *(_verdict(rows, names, score) for score in SCORES),
    ]
    return Table(
        ("candidate", *map(rank.headline, SCORES), "accuracy (%)", "to score", "to fine-tune"),
        tuple(lines),
        tuple(notes),
    )


def _accuracy(rows: Sequence[Row], name: str) -> Interval:
    """Of a candidate, over seeds."""
    return mean_interval([row["accuracy"] for row in select(rows, candidate=name)])


def _verdict(rows: Sequence[Row], names: Sequence[str], score: str) -> str:
    """How a score orders the candidates, and what choosing by it gives up."""
    values, accuracies = _both(rows, names, score)
    found = agreement(values, accuracies)
    defined = [(value, name) for value, name in zip(values, names, strict=True) if not math.isnan(value)]
    text = f"{rank.TITLES[score]}: Spearman {ranged(found.spearman)}, Kendall {ranged(found.kendall)}"
    text += _of(found, names) + _within(rows, names, score)
    if not defined:
        return text + "; undefined for every candidate"
    chosen = max(defined)[1]
    lost = max(accuracies) - accuracies[list(names).index(chosen)]
    return f"{text}; it would choose {chosen}, {100 * lost:.1f} points below the best"


def _within(rows: Sequence[Row], names: Sequence[str], score: str) -> str:
    """The same within each kind of candidates, where it has three or more and is not all there is."""
    kind_of = {row["candidate"]: row["kind"] for row in rows}
    kinds = {kind: [name for name in names if kind_of[name] == kind] for kind in kind_of.values()}
    said = [
        f"{kind} {ranged(agreement(*_both(rows, own, score)).spearman)}"
        for kind, own in kinds.items()
        if 3 <= len(own) < len(names)
    ]
    return f"; Spearman within {', '.join(said)}" if said else ""


def _both(rows: Sequence[Row], names: Sequence[str], score: str) -> tuple[list[float], list[float]]:
    """A score and the accuracy of candidates, means over seeds."""
    return [_mean(rows, name, score) for name in names], [_mean(rows, name, "accuracy") for name in names]


def _of(found: Agreement, names: Sequence[str]) -> str:
    """Over how many candidates a correlation is, where an undefined score left some out."""
    return f" over {found.count} of {len(names)} candidates" if found.count < len(names) else ""


def rank_study_figure(study: RankStudy, rows: Sequence[Row]) -> Any:
    """Accuracy against each score, a point for each candidate."""
    names = _names(rows)
    panels = []
    for score in SCORES:
        points: dict[str, list[Point]] = {}
        for name in names:
            kind = select(rows, candidate=name)[0]["kind"]
            points.setdefault(kind, []).append(Point(_mean(rows, name, score), _accuracy(rows, name)))
        found = agreement(*_both(rows, names, score))
        told = f"ρ = {found.spearman.value:.2f}, τ = {found.kendall.value:.2f}{_of(found, names)}"
        panels.append(Scatter(told, rank.headline(score), points, x_percent=score in rank.SHARES))
    return scatter(panels, "accuracy (%)", columns=3, y_percent=True)
