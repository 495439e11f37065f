"""Few-shot accuracy on classes that nothing was trained on, before and after fine-tuning on the others.

Frozen features of all clouds of the novel classes (those of train and test: the network has seen neither), in N-way
K-shot episodes. Beside the measured error stands what the collapse of the same features predicts, and the bounds.
Before fine-tuning the norms have the statistics of the base classes' clouds. A fresh stem is still random there: to
compare the two, lift the stem too (`network.stem=inflate`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from image2point import collapse
from image2point.collapse import Interval, Statistics
from image2point.collapse.labels_at_random import over_null, with_nulls
from image2point.collapse.layers import gathered
from image2point.collapse.matrices import cdnv_matrix
from image2point.config import Config, load_config
from image2point.config.studies import Episodes, FewShotStudy
from image2point.errors import InputError
from image2point.experiments.measure import Subject, open_subject
from image2point.experiments.rank import settle
from image2point.experiments.study_rows import Row, over_seeds, select
from image2point.jobs.transfer import run_transfer
from image2point.report.numbers import ABSENT
from image2point.report.plain import Table, ranged
from image2point.report.plots import Panel, curves
from image2point.runs import Run
from image2point.units import ALONE, Crew

BEFORE, AFTER = "lifted, own statistics", "fine-tuned on base classes"
BOUNDS = ("galanti", "pairwise", "directional", "finite_shot", "moment")
CLASS_COVARIANCES = 2**28
"""Largest number of entries of all class covariances (2 GiB): beyond, no prediction that needs them."""


def few_shot_rows(study: FewShotStudy, base: Path, folder: Path, crew: Crew = ALONE) -> list[Row]:
    """Rows by seed, stage, ways, shots and classifier, with predicted error and bounds."""
    rows: list[Row] = []
    for seed in study.seeds:
        config = seeded(base / study.transfer, study.settings, seed)
        place = run_transfer(config, folder / "runs", resume=True)
        for stage in (BEFORE, AFTER):
            features, labels = _novel(place, stage, crew)
            kinds = len(study.episodes.ways) * len(study.episodes.shots)
            print(f"seed {seed}, {stage}: {kinds} kinds of episodes on {len(labels)} clouds", flush=True)
            found = episodes(features, labels, study.episodes, crew)
            rows += [{"seed": seed, "stage": stage, **row} for row in found]
    return rows


def _novel(place: Run, stage: str, crew: Crew) -> tuple[Tensor, Tensor]:
    """`novel_features` of a run, before or after its training."""
    if stage == AFTER:
        return novel_features(open_subject(place.path), crew)
    lifted = open_subject(place.path, before=True)
    settle(lifted, "io+stats")  # in this process, so that no other could measure it
    return novel_features(lifted)


def seeded(path: Path, settings: Sequence[str], seed: int) -> Config:
    """The config of one seed, for weights, order and shots alike."""
    config = load_config(path, settings)
    if not config.data.class_split.novel:
        raise InputError(f"{path}: data.class_split.novel should say which classes are kept for the few-shot episodes")
    return load_config(path, [*settings, f"seed={seed}", f"data.shot_seed={seed}", f"name={config.name}_seed{seed}"])


def novel_features(subject: Subject, crew: Crew = ALONE) -> tuple[Tensor, Tensor]:
    """Features before the classifier [n, p] and labels [n] of all samples of the novel classes."""
    features = gathered(subject.source_of("novel", ["features"], crew=crew))["features"]
    return features, torch.as_tensor(subject.samples("novel").labels)


def episodes(features: Tensor, labels: Tensor, settings: Episodes, crew: Crew = ALONE) -> list[Row]:
    """Accuracy of each kind of episode, and what collapse says about its error. Ways and shots make a unit."""
    nulls = collapse.null(features, labels, ["cdnv", "cdnv_directional"])
    beside = with_nulls(collapse.measure_features(features, labels, list(nulls)), nulls)
    places = [(ways, shots) for ways in settings.ways for shots in settings.shots]
    found = crew.results(partial(_episodes, features, labels, settings), places)
    return [{**row, **beside} for rows in found for row in rows]


def _episodes(features: Tensor, labels: Tensor, settings: Episodes) -> Callable[[tuple[int, int]], list[Row]]:
    """What plays the episodes of so many ways and shots: a row for each classifier."""
    classes = int(labels.max()) + 1
    detailed = classes * features.shape[1] ** 2 <= CLASS_COVARIANCES
    covariance, moments = ("class", 4) if detailed else ("none", 2)
    S = Statistics(classes, features.shape[1], covariance, moments=moments)
    S.update(features, labels)

    def play(place: tuple[int, int]) -> list[Row]:
        ways, shots = place
        told, rows = foretold(S, ways, shots), []
        for classifier in settings.classifiers:
            found = collapse.few_shot(
                features, labels, ways, shots, settings.queries, settings.episodes, classifier,
                unit=settings.unit, seed=settings.seed,
            )  # fmt: skip
            interval = found.interval()
            rows.append(
                {"ways": ways, "shots": shots, "classifier": classifier, "accuracy": interval.value,
                 "low": interval.low, "high": interval.high, "left_out": list(found.left_out), **told}
            )  # fmt: skip
        return rows

    return play


def foretold(S: Statistics, ways: int, shots: int) -> dict[str, float]:
    """What the collapse of the features says about the error of the nearest mean: a prediction, and five bounds."""
    known = collapse.metrics(S)
    kept = ("cdnv", "cdnv_corrected", "cdnv_directional")
    told: dict[str, float] = {str(name): known[name] for name in kept if name in known}
    told["galanti"] = collapse.galanti_bound(known["cdnv"], ways, shots).value
    told["pairwise"] = collapse.pairwise_bound(cdnv_matrix(S, "asymmetric"), shots, ways).value
    if S.covariance == "class":
        told["predicted"] = collapse.margin_error(S, shots, ways)
        told["directional"] = collapse.directional_bound(known["cdnv_directional"], known["cdnv"], shots, ways).value
        told["finite_shot"] = collapse.finite_shot_bound(S, shots, ways).value
        told["moment"] = collapse.moment_bound(S, shots, ways).value
    return told


def few_shot_table(study: FewShotStudy, rows: Sequence[Row]) -> Table:
    """A line for each stage, ways and shots."""
    kinds = study.episodes.classifiers
    lines = []
    for stage in (BEFORE, AFTER):
        for ways in study.episodes.ways:
            for shots in study.episodes.shots:
                own = select(rows, stage=stage, ways=ways, shots=shots)
                measured = [ranged(over_seeds(select(own, classifier=k), "accuracy"), percent=True) for k in kinds]
                one = select(own, classifier=kinds[0])
                predicted = over_seeds(one, "predicted")
                told = None if predicted is None else Interval(
                    1 - predicted.value, predicted.error, 1 - predicted.high, 1 - predicted.low
                )  # fmt: skip
                bounds = [_bound(over_seeds(one, name)) for name in BOUNDS]
                lines.append((stage, str(ways), str(shots), *measured, ranged(told, percent=True), *bounds))
    accuracies = tuple(f"{kind} (%)" for kind in kinds)
    return Table(
        ("features", "ways", "shots", *accuracies, "NCC predicted (%)", *(f"bound: {name}" for name in BOUNDS)),
        tuple(lines),
        (
            f"Accuracy over {study.episodes.episodes} episodes; mean and 95 % interval over {len(study.seeds)} seeds"
            + (" (over classes)" if len(study.seeds) == 1 else "")
            + ". Bounds are of the error of the nearest class mean; one of 1 or more says nothing (vacuous).",
            *(_spread(select(rows, stage=stage), stage) for stage in (BEFORE, AFTER)),
        ),
    )


def _spread(rows: Sequence[Row], stage: str) -> str:
    """CDNV of the novel classes, corrected, and the directional one as a share of its null, over seeds."""
    once = [select(rows, seed=seed)[0] for seed in dict.fromkeys(row["seed"] for row in rows)]
    shares = [{"share": _over_null(row, "cdnv_directional")} for row in once]
    return (
        f"CDNV of the novel classes, {stage}: {ranged(over_seeds(once, 'cdnv_corrected'))}, corrected for the number "
        f"of samples; directional CDNV as a share of its null: {ranged(over_seeds(shares, 'share'))}."
    )


def _over_null(row: Row, name: str) -> float | None:
    """A measure as a share of its null; None where it has none."""
    null = row.get(f"{name}_null")
    return None if null is None or row.get(name) is None else over_null(row[name], null)


def _bound(interval: Interval | None) -> str:
    if interval is None:
        return ABSENT
    return str(collapse.Bound(interval.value))


def few_shot_figure(study: FewShotStudy, rows: Sequence[Row]) -> Any:
    """Accuracy by ways and shots, a panel for each classifier, beside the prediction for the nearest mean."""
    places = [(ways, shots) for ways in study.episodes.ways for shots in study.episodes.shots]
    panels = []
    for kind in study.episodes.classifiers:
        drawn: dict[str, list[Interval | None]] = {}
        for stage in (BEFORE, AFTER):
            own = [select(rows, stage=stage, ways=w, shots=s, classifier=kind) for w, s in places]
            drawn[stage] = [over_seeds(each, "accuracy") for each in own]
            if kind == "ncc":
                foreseen = [over_seeds(each, "predicted") for each in own]
                drawn[f"{stage}, predicted"] = [
                    None if p is None else Interval(1 - p.value, p.error, 1 - p.high, 1 - p.low) for p in foreseen
                ]
        panels.append(Panel(f"Accuracy, {kind}", drawn, percent=True))
    return curves(panels, [f"{w}-way\n{s}-shot" for w, s in places], "", columns=len(panels))
