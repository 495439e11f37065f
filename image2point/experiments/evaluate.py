"""Score a finished run again: the same weights on the same test set, anywhere, any time later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image2point import config as configuration
from image2point import runs
from image2point.datasets.class_split import Labelled
from image2point.errors import InputError
from image2point.experiments.robustness import Asked, Robustness, measure_robustness
from image2point.jobs.ingredients import load_splits, make_recipe
from image2point.jobs.reuse import load
from image2point.tasks.classification import Classification, ClassOutputs, ClassScores
from image2point.training import distributed, measure

LOSS_TOLERANCE = 1e-5
"""Relative; another machine or thread count rounds differently."""


@dataclass(frozen=True)
class Evaluation:
    """What scoring gave now, and what the run has stored."""

    scores: ClassScores
    classes: tuple[str, ...]
    stored_accuracy: float
    stored_loss: float
    robustness: Robustness | None = None

    @property
    def agrees(self) -> bool:
        close = abs(self.scores.loss - self.stored_loss) <= LOSS_TOLERANCE * abs(self.stored_loss)
        return self.scores.accuracy == self.stored_accuracy and close

    @property
    def lines(self) -> list[str]:
        """For a terminal."""
        scores, verdict = self.scores, "the same as stored" if self.agrees else "NOT the same as stored"
        return [
            f"test accuracy {100 * scores.accuracy:.2f} %, mean over classes {100 * scores.mean_class_accuracy:.2f} %, "
            f"loss {scores.loss:.6f}",
            f"{verdict}: {100 * self.stored_accuracy:.2f} %, loss {self.stored_loss:.6f}",
            *(self.robustness.lines(scores) if self.robustness else ()),
        ]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        scores = {name: getattr(self.scores, name) for name in ("accuracy", "mean_class_accuracy", "loss")}
        stored = {"accuracy": self.stored_accuracy, "loss": self.stored_loss}
        more = {} if self.robustness is None else {"robustness": self.robustness.to_dict()}
        return {**scores, "stored": stored, "agrees": self.agrees, **more}


def evaluate_run(path: Path, overrides: tuple[str, ...] = (), asked: Asked | None = None) -> Evaluation:
    """Re-score the run at `path`. `overrides`: what differs here, such as data.root=... or training.threads=2.

    asked: scores on damaged and turned clouds and by voting, besides.
    """
    run = runs.open_run(path)
    classes, final = run.read_classes(), run.read_summary().get("final")
    stored: list[Any] = [final.get(key) if isinstance(final, dict) else None for key in ("test_accuracy", "test_loss")]
    if not all(isinstance(value, int | float) for value in stored):
        raise InputError(f"{run.summary}: expected numbers under final.test_accuracy and final.test_loss")
    config = configuration.load_config(run.config, (*overrides, "training.devices=1", "training.nodes=1"))
    test = load_splits(config.data).test
    if test.classes != classes:
        raise InputError(
            f"{config.data.root} has the classes {', '.join(test.classes)}, but {path} was trained on "
            f"{', '.join(classes)}"
        )
    fabric = distributed.start(config.training)
    network = load(path)
    fabric.to_device(network)
    task, recipe, settings = Classification(), make_recipe(config), config.training

    def outputs(clouds: Labelled) -> ClassOutputs:
        found: ClassOutputs = measure.outputs(
            fabric, task, network, clouds, recipe, settings.batch_size, settings.workers
        )
        return found

    plain = outputs(test)
    more = measure_robustness(outputs, test, plain, recipe, asked) if asked else None
    return Evaluation(task.scores(plain), test.classes, stored[0], stored[1], more)
