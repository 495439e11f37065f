"""Train a 2D network on images, so that one knows, and can vary, what the weights that are lifted have learnt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from image2point import config as configuration
from image2point import files, pretrained, runs
from image2point.config import Pretrain
from image2point.experiments import lifecycle
from image2point.experiments.image_ingredients import load_images, make_image_network, make_image_recipe
from image2point.image_network import ImageNetwork
from image2point.runs import Run
from image2point.training import distributed, loop
from image2point.training.interrupt import StopSignal

if TYPE_CHECKING:
    pass


def run(config: Pretrain, folder: Path = Path("runs"), resume: bool = False, overwrite: bool = False) -> Run:
    """Do the run that `config` describes, in `folder / config.name`; `resume` and `overwrite` as for a transfer.

    The weights it leaves have timm's names: `network.weights=file:RUN/weights.safetensors` lifts them.

    Raises InputError for what the user gave wrong, Interrupted where the run was asked to stop.
    """
    place = Run(folder / config.name)
    fabric = distributed.start(config.training)
    begun = distributed.together(fabric, lambda: lifecycle.standing(place, config, resume, overwrite))
    if begun == "finished":
        return place
    splits = load_images(config.images)
    weights = "random" if begun == "checkpoint" else None
    network = make_image_network(config, len(splits.train.classes), weights)
    with lifecycle.claimed(fabric, place, config, begun, resume, overwrite), StopSignal() as stop:
        job = loop.Job(fabric, network, splits, make_image_recipe(config, network), config, place, stop)
        held_out = len(splits.validation) if splits.validation else 0
        job.journal.say(f"{'resuming' if begun == 'checkpoint' else 'run'} {place.path}: {config.label}")
        job.journal.say(
            f"images: {splits.train.name}, {len(splits.train.classes)} classes; {len(splits.train)} training, "
            f"{held_out} validation, {len(splits.test)} test images of {config.images.size} pixels"
        )
        job.journal.say(f"network: {config.network.arch}, weights {config.network.weights}")
        state = loop.restore(job) if begun == "checkpoint" else loop.State()
        loop.fit(job, state)
        _finish(job, config, network, state)
    return place


def _finish(job: loop.Job, config: Pretrain, network: ImageNetwork, state: loop.State) -> None:
    splits, place = job.splits, job.run
    result, _ = lifecycle.score(job, network, state)
    if not job.fabric.is_global_zero:
        return
    lifecycle.save_weights(network.network, place.weights)
    summary = {
        "name": config.name,
        "status": "finished",
        "arm": config.label,
        "network": {"name": config.network.arch, **config.network.model_dump(mode="json", exclude={"arch"})},
        "seed": config.seed,
        "images": {
            "name": config.images.name,
            "classes": list(splits.test.classes),
            "size": config.images.size,
            "train": len(splits.train),
            "validation": len(splits.validation) if splits.validation else 0,
            "test": len(splits.test),
        },
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        **result,
    }
    files.write_text(place.summary, json.dumps(summary, indent=1))
    shutil.rmtree(place.checkpoint, ignore_errors=True)
    lifecycle.announce_end(job, result)


def load(path: str | Path) -> ImageNetwork:
    """The network of a finished run with its chosen weights, in eval mode, on the CPU."""
    place = runs.open_run(path)
    classes = place.read_summary()["images"]["classes"]
    config = configuration.load_config_as(Pretrain, place.config)
    network = make_image_network(config, len(classes), weights="random")
    network.network.load_state_dict(pretrained.read_file(place.weights).tensors)
    return network.eval()
