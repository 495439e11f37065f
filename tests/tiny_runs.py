"""The smallest runs that still do everything: a tiny timm network on a few synthetic shapes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from image2point import config as configuration
from image2point.config import Config

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


def tiny(*overrides: str) -> Config:
    """The config of a tiny run."""
    return configuration.from_values(VALUES, overrides)


def rows(run: Path) -> list[dict[str, str]]:
    """metrics.csv, without the time that everything took."""
    with open(run / "metrics.csv", encoding="utf-8") as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]
