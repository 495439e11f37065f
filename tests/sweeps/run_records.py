"""Finished runs as the report reads them, with the numbers that a test gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from image2point.report.read import Examples, Record
from image2point.report.summary import Summary


def record(test_accuracy: float, settings: dict[str, Any]) -> Record:
    """A run with these settings (by dotted name) and this test accuracy."""
    counts = {"total": 10, "trainable": 5}
    summary = {
        "name": "run", "status": "finished", "arm": "arm", "policy": "io+norm", "seed": 0, "chosen_epoch": 1,
        "network": {"name": "resnet50", "weights": "timm", "rule": "repeat", "axis": "z", "substrate": "sparse",
                    "stem": "paper"},
        "data": {"name": "synthetic", "classes": ["a"], "voxel_size": 0.1, "train_clouds": 1, "test_clouds": 1},
        "parameters": {**counts, "by_role": {"body": counts}},
        "weights": {}, "chosen_by": "last epoch", "environment": {}, "collapse": {"test": {"nc1": 2.5}},
        "final": {"test_accuracy": test_accuracy, "test_mean_class_accuracy": test_accuracy, "per_class": {}},
        "seconds": {"training": 1.0, "test": 1.0, "total": 2.0},
    }  # fmt: skip
    nothing = Examples(np.zeros((0, 1, 3), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))
    path = Path("runs") / "_".join(str(value) for value in settings.values())
    return Record(path, "", settings, Summary.model_validate(summary), {}, {}, nothing)
