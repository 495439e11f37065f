"""Tiny labelled scenes that a tiny network learns: a floor, a wall and a ball in a room."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from tiny_runs import VALUES

from image2point import config as configuration
from image2point.config import Config
from image2point.datasets import Cloud, Splits
from image2point.jobs import ingredients

CLASSES = ("floor", "wall", "ball")


class Rooms:
    """Scenes of 310 points, some of them ignored. Drawn when asked for, by seed and number."""

    of_points = True

    def __init__(self, name: str, count: int, seed: int) -> None:
        self.name, self.classes, self.seed = f"rooms/{name}", CLASSES, seed
        self.labels = np.zeros(count, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Cloud:
        rng = np.random.default_rng((self.seed, index))
        floor = np.c_[rng.uniform(0, 4, (150, 2)), rng.normal(0, 0.03, 150)]
        wall = np.c_[rng.uniform(0, 4, 100), rng.normal(0, 0.03, 100), rng.uniform(0, 2.5, 100)]
        ways = rng.normal(size=(60, 3))
        ball = rng.uniform([1, 1, 0.5], [3, 3, 1]) + 0.4 * ways / np.linalg.norm(ways, axis=1, keepdims=True)
        labels = np.repeat([0, 1, 2], [150, 100, 60])
        labels[rng.random(310) < 0.05] = -1
        return Cloud(np.concatenate([floor, wall, ball]).astype(np.float32), labels=labels)


def furnish(patch: pytest.MonkeyPatch, train: Any = None, test: Any = None) -> Splits:
    """Let runs load these scenes, whatever dataset they name."""
    splits = Splits(train or Rooms("train", 8, 0), None, test or Rooms("test", 4, 1))
    patch.setattr(ingredients, "_load", lambda data: splits)
    return splits


def segmenting(*overrides: str) -> Config:
    """The config of a tiny run on them."""
    values = copy.deepcopy(VALUES)
    values["task"] = "segmentation"
    values["data"] = {"name": "synthetic", "voxel_size": 0.15, "features": ["xyz", "height"], "up": "z",
                      "validation": 0.25, "augmentation": {"rotate": "z", "flip": 0.5}}  # fmt: skip
    values["training"] |= {"epochs": 3, "lr": 0.05, "batch_size": 3}
    return configuration.from_values(values, overrides)
