"""Score a finished run again: the same weights on the same test set, anywhere, any time later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image2point import config as configuration
from image2point import runs
from image2point.datasets.class_split import Labelled
from image2point.datasets.splits import short_names
from image2point.errors import InputError
from image2point.experiments.point_votes import PointVotes, vote_on_points
from image2point.experiments.robustness import Asked, Robustness, measure_robustness
from image2point.jobs.artefact import load
from image2point.jobs.fingerprint import other_samples
from image2point.jobs.ingredients import load_splits, make_recipe
from image2point.report.class_lines import MOST_PAIRS, class_lines, pair_lines
from image2point.report.plain import Table
from image2point.tasks.confusion import Confusion
from image2point.tasks.display import DISPLAYS, Display
from image2point.tasks.predictions import CloudAnswer, to_look_at
from image2point.tasks.registry import TASKS
from image2point.tasks.segmentation import Segmentation
from image2point.training import distributed, measure

LOSS_TOLERANCE = 1e-5
"""Relative; another machine or thread count rounds differently."""


@dataclass(frozen=True)
class Evaluation:
    """What scoring gave now, and what the run has stored: both as `final` of summary.json has them.

    headline: the score that counts, by its name there. confusion, answers: on the test set, of these classes.
    doubt: what is said of data that are not the run's.
    """

    now: Mapping[str, Any]
    stored: Mapping[str, Any]
    statement: str
    headline: str
    display: Display
    classes: tuple[str, ...]
    confusion: Confusion
    answers: tuple[CloudAnswer, ...]
    robustness: Robustness | PointVotes | None = None
    doubt: str = ""

    @property
    def agrees(self) -> bool:
        loss, before = self.now["test_loss"], self.stored["test_loss"]
        close = abs(loss - before) <= LOSS_TOLERANCE * abs(before)
        return bool(self.now[self.headline] == self.stored[self.headline] and close)

    @property
    def lines(self) -> list[str]:
        """For a terminal."""
        verdict, before = "the same as stored" if self.agrees else "NOT the same as stored", self.stored[self.headline]
        return [
            *([f"warning: {self.doubt}"] if self.doubt else ()),
            f"{self.statement}, loss {self.now['test_loss']:.6f}",
            f"{verdict}: {100 * before:.2f} %, loss {self.stored['test_loss']:.6f}",
            *(self.robustness.lines(self.now["test_accuracy"]) if self.robustness else ()),
        ]

    @property
    def tables(self) -> tuple[Table, ...]:
        """What stands below the lines."""
        found = (
            class_lines(self.confusion, self.classes, self.now["per_class"], self.display),
            pair_lines(self.confusion, self.classes, self.answers, self.display),
        )
        return tuple(filter(None, found))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = {name.removeprefix("test_"): v for name, v in self.now.items() if name.startswith("test_")}
        stored = {name.removeprefix("test_"): self.stored[name] for name in (self.headline, "test_loss")}
        more: dict[str, Any] = {} if self.robustness is None else {"robustness": self.robustness.to_dict()}
        counts = self.confusion.counts.tolist()
        by_class = {
            name: {"count": sum(row), "right": row[c], "score": self.now["per_class"][name]}
            for c, (name, row) in enumerate(zip(self.classes, counts, strict=True))
        }
        confused = [
            {
                "true": self.classes[true],
                "predicted": self.classes[predicted],
                "count": count,
                "clouds": list(to_look_at([self.answers], true, predicted, most=count)),
            }
            for true, predicted, count in self.confusion.pairs(MOST_PAIRS)
        ]
        more |= {"warning": self.doubt} if self.doubt else {}
        told = {"classes": by_class, "confusion": counts, "confused": confused}
        return {**plain, "stored": stored, "agrees": self.agrees, **told, **more}


def evaluate_run(path: Path, overrides: tuple[str, ...] = (), asked: Asked | None = None) -> Evaluation:
    """Re-score the run at `path`. `overrides`: what differs here, such as data.root=... or training.threads=2.

    asked: scores on damaged and turned clouds and by voting, besides.
    """
    run = runs.open_run(path)
    classes, final = run.read_classes(), run.read_summary().get("final")
    config = configuration.load_config(run.config, (*overrides, "training.devices=1", "training.nodes=1"))
    headline = DISPLAYS[config.task].scores[0].key
    if not isinstance(final, dict) or not all(isinstance(final.get(k), int | float) for k in (headline, "test_loss")):
        raise InputError(f"{run.summary}: expected numbers under final.{headline} and final.test_loss")
    splits = load_splits(config.data)
    test = splits.test
    if test.classes != classes:
        raise InputError(
            f"{config.data.root} has the classes {', '.join(test.classes)}, but {path} was trained on "
            f"{', '.join(classes)}"
        )
    task = TASKS[config.task]
    if asked and isinstance(task, Segmentation) and (asked.corruptions or asked.rotations):
        raise InputError(
            f"{path} is of the task {config.task}: damage and rotations in space are defined for single objects of "
            "about radius 1; scenes can be voted on (--votes)"
        )
    fabric = distributed.start(config.training)
    network = load(path)
    fabric.to_device(network)
    scorer, recipe, settings = task.for_scoring(config, test), make_recipe(config), config.training

    def outputs(clouds: Labelled) -> Any:
        return measure.outputs(fabric, scorer, network, clouds, recipe, settings.batch_size, settings.workers)

    plain = outputs(test)
    now = task.final(task.scores(plain), None, None, test.classes)
    more: Robustness | PointVotes | None = None
    if asked and isinstance(scorer, Segmentation):
        more = vote_on_points(network.eval(), test, recipe, scorer, asked.votes, asked.seed)
    elif asked:
        more = measure_robustness(outputs, test, plain, recipe, asked)
    answers = task.answers(plain, short_names(test, config.data.root))
    told = DISPLAYS[config.task], test.classes, task.confusion(plain), answers
    return Evaluation(now, final, task.statement(now), headline, *told, more, other_samples(run, splits))
