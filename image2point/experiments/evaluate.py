"""Score a finished run on its test set again, and hold the result against the stored one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from image2point import config as configuration
from image2point import runs, trained
from image2point.datasets.class_split import Labelled
from image2point.errors import InputError
from image2point.experiments import robustness
from image2point.experiments.ingredients import load_splits, make_recipe
from image2point.experiments.robustness import Asked, Robustness
from image2point.training import distributed, measure

LOSS_TOLERANCE = 1e-5
"""Relative; another machine or thread count rounds differently."""


@dataclass(frozen=True)
class Evaluation:
    """What scoring gave now, and what the run has stored."""

    scores: measure.Scores
    classes: tuple[str, ...]
    stored_accuracy: float
    stored_loss: float
    robustness: Robustness | None = None

    @property
    def agrees(self) -> bool:
        close = abs(self.scores.loss - self.stored_loss) <= LOSS_TOLERANCE * abs(self.stored_loss)
        return self.scores.accuracy == self.stored_accuracy and close


def run(path: Path, overrides: tuple[str, ...] = (), asked: Asked | None = None) -> Evaluation:
    """Re-score the run at `path`. `overrides`: what differs here, such as data.root=... or training.threads=2.

    asked: scores on damaged and turned clouds and by voting, besides.
    """
    place = runs.open_run(path)
    summary = place.read_summary()
    config = configuration.load_config(place.config, (*overrides, "training.devices=1", "training.nodes=1"))
    test = load_splits(config.data).test
    if list(test.classes) != summary["data"]["classes"]:
        raise InputError(
            f"{config.data.root} has the classes {', '.join(test.classes)}, but {path} was trained on "
            f"{', '.join(summary['data']['classes'])}"
        )
    fabric = distributed.start(config.training)
    network = fabric.to_device(trained.load(path))
    recipe, settings = make_recipe(config), config.training

    def outputs(clouds: Labelled) -> measure.Outputs:
        return measure.outputs(fabric, network, clouds, recipe, settings.batch_size, settings.workers)

    found, final = outputs(test), summary["final"]
    more = robustness.run(outputs, test, found, recipe, asked) if asked else None
    return Evaluation(measure.scores(found), test.classes, final["test_accuracy"], final["test_loss"], more)
