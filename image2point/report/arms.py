"""Runs that differ in nothing but the seed form an arm; an arm has means and standard deviations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from image2point.errors import InputError
from image2point.report.read import Record
from image2point.tasks.display import DISPLAYS, Display


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) of `n` values; `sd` is None for a single one."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Curve:
    """A measurement over epochs, [E] each: mean over the `n` runs that measured it, their s.d. (NaN where n is 1)."""

    epochs: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    n: np.ndarray


@dataclass(frozen=True)
class Arm:
    """One or more runs of the same experiment, one per seed, under the label by which the page calls them."""

    label: str
    runs: tuple[Record, ...]

    @property
    def first(self) -> Record:
        return self.runs[0]

    @property
    def display(self) -> Display:
        """How the results of its task are told."""
        return DISPLAYS[self.first.summary.task]

    def score(self, key: str) -> Spread | None:
        """A score of the chosen weights, by its name under `final` in summary.json."""
        return self.spread(lambda run: run.summary.final.get(key))

    def spread(self, value: Callable[[Record], float | None]) -> Spread | None:
        """Mean and s.d. of a number over the runs; None where any run has none (a mean over some would mislead)."""
        values = [value(run) for run in self.runs]
        numbers = [number for number in values if number is not None and math.isfinite(number)]
        return spread(numbers) if len(numbers) == len(values) else None

    def curve(self, column: str) -> Curve | None:
        """The column of metrics.csv over epochs, or None where no run measured it."""
        by_epoch: dict[float, list[float]] = {}
        for run in self.runs:
            if column in run.metrics:
                for epoch, value in zip(run.metrics["epoch"], run.metrics[column], strict=True):
                    if math.isfinite(value):
                        by_epoch.setdefault(float(epoch), []).append(float(value))
        if not by_epoch:
            return None
        spreads = [spread(by_epoch[epoch]) for epoch in sorted(by_epoch)]
        return Curve(
            epochs=np.array(sorted(by_epoch)),
            mean=np.array([item.mean for item in spreads]),
            sd=np.array([math.nan if item.sd is None else item.sd for item in spreads]),
            n=np.array([item.n for item in spreads]),
        )


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of at least one value."""
    array = np.asarray(values, dtype=np.float64)
    return Spread(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None, len(array))


def group(runs: Iterable[Record]) -> list[Arm]:
    """Group runs into arms, in order of first appearance.

    Runs belong together when arm label and settings agree but for seeds and names. Where one label covers several
    such groups (the same arm on two networks, say), what differs is appended to it.
    Raises InputError where two runs of one arm have the same seed: a spread over seeds would be wrong; and where runs
    are of different tasks, whose scores say nothing about each other.
    """
    groups: dict[str, list[Record]] = {}
    runs = list(runs)
    for run in runs:
        if run.summary.task != runs[0].summary.task:
            raise InputError(
                f"{runs[0].path} is a run of {runs[0].summary.task} and {run.path} one of {run.summary.task}; "
                "compare runs of one task"
            )
        groups.setdefault(repr(_identity(run)), []).append(run)
    for members in groups.values():
        seeds: dict[int, Record] = {}
        for run in members:
            if (other := seeds.setdefault(run.summary.seed, run)) is not run:
                raise InputError(
                    f"{other.path} and {run.path} are both arm {run.summary.arm!r} with seed {run.summary.seed}; "
                    "runs of one arm must differ in seed: give one of them another arm label, or leave it out"
                )
    collections = list(groups.values())
    return [Arm(label, tuple(members)) for label, members in zip(_labels(collections), collections, strict=True)]


IDLE = {"name", "arm", "data.root", "network.engine", "training.checkpoint_every_minutes"}
"""Settings that do not change the result of a run."""
IDLE |= {f"training.{name}" for name in ("accelerator", "devices", "nodes", "sharding", "workers", "threads")}
# Those, and what else may differ between the runs of an arm. The arm's own name is compared as the summary has it,
# where a run without one goes by the name of the run; weights are compared by content.
_FREE = IDLE | {"seed", "data.shot_seed", "data.synthetic.seed", "network.weights"}
_TELLING = ("network.arch", "finetune.policy", "data.shots")  # the first settings to tell two arms apart by


def _identity(run: Record) -> dict[str, object]:
    """What the runs of one arm have in common, most telling first."""
    settings = {
        name: value
        for name, value in run.settings.items()
        if name not in _FREE and not name.startswith(("report.", "collapse."))
    }
    weights = run.summary.weights.get("sha256") or run.summary.network.weights
    first = {name: settings.get(name) for name in _TELLING}
    return {"arm": run.summary.arm, **first, "weights": weights, **settings}


def _labels(groups: list[list[Record]]) -> list[str]:
    """The arm's own name, and where several groups share it, the fewest settings that tell them apart."""
    identities = [_identity(members[0]) for members in groups]
    labels = []
    for identity in identities:
        label = str(identity["arm"])
        rivals = [other for other in identities if other["arm"] == identity["arm"] and other is not identity]
        for name, value in identity.items():
            same = [other for other in rivals if other.get(name) == value]
            if len(same) < len(rivals):
                label += f", {value}" if name in ("network.arch", "finetune.policy") else f", {name} {value}"
                rivals = same
        labels.append(label)
    return labels
