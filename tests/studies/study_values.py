"""The smallest configs of a pre-training and a transfer with novel classes."""

from __future__ import annotations

from typing import Any

TRAINING = {"epochs": 1, "batch_size": 8, "optimizer": "adamw", "lr": 0.003, "accelerator": "cpu", "threads": 1}
CLASSES = ["box", "cone", "torus", "cylinder", "tube", "ellipsoid"]

PRETRAIN: dict[str, Any] = {
    "network": {"arch": "test_resnet"},
    "images": {"size": 24, "train_per_class": 4, "test_per_class": 3, "class_split": {"novel": 20, "seed": 1}},
    "training": TRAINING,
}
TRANSFER: dict[str, Any] = {
    "network": {"arch": "test_resnet", "weights": "random"},
    "finetune": {"policy": "io+norm"},
    "data": {
        "name": "synthetic",
        "voxel_size": 0.3,
        "validation": 0,
        "class_split": {"novel": ["tube", "torus", "ellipsoid"]},
        "synthetic": {"train_per_class": 4, "test_per_class": 3, "points": 64, "classes": CLASSES},
    },
    "training": TRAINING,
    "collapse": {"every": 0},
    "report": {"html": False, "examples": 1},
}
