"""Train a 2D network on images, so that one knows, and can vary, what the weights that are lifted have learnt."""

from __future__ import annotations

from pathlib import Path

from image2point.config import Pretrain
from image2point.files import user_path
from image2point.jobs import lifecycle
from image2point.jobs.fingerprint import compare_fingerprint, store_fingerprint, take_fingerprint
from image2point.jobs.image_ingredients import images_root, load_images, make_image_network, make_image_recipe
from image2point.jobs.saving import save_summary, save_weights
from image2point.jobs.scoring import score
from image2point.networks.image_network import ImageNetwork
from image2point.runs import Run
from image2point.tasks.classification import Classification
from image2point.training import distributed
from image2point.training.interrupt import StopSignal
from image2point.training.job import Job, State
from image2point.training.loop import fit
from image2point.training.pausing import restore
from image2point.training.trackers import check_trackers


def run_pretraining(
    config: Pretrain, folder: Path = Path("runs"), resume: bool = False, overwrite: bool = False
) -> Run:
    """Do the run that `config` describes, in `folder / config.name`; `resume` and `overwrite` as for a transfer.

    The weights it leaves have timm's names: `network.weights=file:RUN/weights.safetensors` lifts them.

    Raises InputError for what the user gave wrong, Interrupted where the run was asked to stop.
    """
    check_trackers(config.training.trackers)
    run = Run(user_path(folder) / config.name)
    fabric = distributed.start(config.training)
    stands = distributed.together(fabric, lambda: lifecycle.standing(run, config, resume, overwrite))
    if stands == "finished":
        lifecycle.tidy(run)
        return run
    splits = load_images(config.images)
    fingerprint = take_fingerprint(splits, images_root(config.images), fabric)
    resumed = stands == "checkpoint"
    changed = [*lifecycle.moved(run, config), *compare_fingerprint(run, fingerprint)] if resumed else []
    weights = "random" if stands == "checkpoint" else None
    network = make_image_network(config, len(splits.train.classes), weights)
    recipe = make_image_recipe(config, network)
    with lifecycle.claimed(fabric, run, config, stands, resume, overwrite), StopSignal() as stop:
        if stands == "new" and fabric.is_global_zero:
            store_fingerprint(run, fingerprint)
        job = Job(fabric, Classification(), network, splits, recipe, config, run, stop)
        held_out = len(splits.validation) if splits.validation else 0
        job.journal.say(f"{'resuming' if stands == 'checkpoint' else 'run'} {run.path}: {config.label}")
        job.journal.say(
            f"images: {splits.train.name}, {len(splits.train.classes)} classes; {len(splits.train)} training, "
            f"{held_out} validation, {len(splits.test)} test images of {config.images.size} pixels"
        )
        job.journal.say(f"network: {config.network.arch}, weights {config.network.weights}")
        for change in changed:
            job.journal.say(f"warning: {change}")
        state = restore(job) if stands == "checkpoint" else State()
        fit(job, state)
        _finish(job, config, network, state)
    return run


def _finish(job: Job, config: Pretrain, network: ImageNetwork, state: State) -> None:
    splits, run = job.splits, job.run
    result, _ = score(job, state)
    if not job.fabric.is_global_zero:
        return
    save_weights(network.network, run.weights)
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
    save_summary(run, summary)
    job.journal.say(f"{job.task.statement(result['final'])}, everything is in {run.path}")
