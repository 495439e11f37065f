"""The smallest runs that still do everything: a tiny timm network on a few synthetic shapes, or clouds it can learn.

What the tests of runs need of the package's inside is imported here.
"""

from __future__ import annotations

import csv
import itertools
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image2point import config as configuration
from image2point.config import Config
from image2point.jobs.ingredients import load_splits
from image2point.jobs.transfer import run_transfer
from image2point.tasks.classification import Classification, ClassOutputs
from image2point.training.images import ImageRecipe
from image2point.training.journal import Journal

__all__ = ["ClassOutputs", "ImageRecipe", "load_splits", "rows", "run_transfer", "scores", "separable", "tiny"]

scores = Classification().scores

VALUES: dict[str, Any] = {
    "name": "tiny",
    "network": {"arch": "test_resnet", "weights": "random"},
    "finetune": {"policy": "io+norm"},
    "data": {
        "name": "synthetic",
        "voxel_size": 0.3,
        "synthetic": {"train_per_class": 5, "test_per_class": 2, "points": 64, "classes": ["box", "cone", "torus"]},
    },
    "training": {"epochs": 3, "batch_size": 4, "lr": 0.02, "accelerator": "cpu", "threads": 1},
    "collapse": {"every": 2},
    "report": {"html": False, "examples": 3},
}
PLACES = {"east": (0.8, 0.0, 0.0), "north": (0.0, 0.8, 0.0), "top": (0.0, 0.0, 0.8)}
"""Where the clouds of `separable` lie, by class."""


def tiny(*overrides: str) -> Config:
    """The config of a tiny run. Its shapes are hard to tell apart: the network stays near chance."""
    return configuration.from_values(VALUES, overrides)


def separable(folder: Path, *overrides: str) -> Config:
    """The config of a run on clouds that a tiny network learns to tell apart, since each class has a place of its own.

    `folder` gets them as files: 6 training and 4 test clouds of 48 points in each of 3 classes.
    """
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 4)):
        for name, place in PLACES.items():
            home = folder / split / name
            home.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                centre = np.array(place) + rng.normal(0, 0.1, 3)
                np.save(home / f"{number}.npy", (centre + rng.uniform(-0.5, 0.5, (48, 3))).astype(np.float32))
    data = ("data.name=folder", f"data.root={folder}", "data.normalise=false", "data.validation=0.34")
    return tiny(*data, "training.lr=0.1", *overrides)


def interrupt_at(patch: pytest.MonkeyPatch, place: str) -> None:
    """Ctrl-C at a place of the runs that follow: `step 3`, counted over all of them, or a line of the log."""
    steps = itertools.count(1)

    def step(*_: Any) -> None:
        if place == f"step {next(steps)}":
            signal.raise_signal(signal.SIGINT)

    def say(_: Journal, text: str) -> None:
        if text.startswith(place):
            signal.raise_signal(signal.SIGINT)

    patch.setattr(Journal, "step", step)
    patch.setattr(Journal, "say", say)


def rows(run: Path) -> list[dict[str, str]]:
    """metrics.csv, without the time that everything took."""
    with open(run / "metrics.csv", encoding="utf-8") as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]
