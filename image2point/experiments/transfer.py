"""The main job: lift a 2D network, fine-tune what the policy allows, measure, and leave a run directory."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from image2point import files
from image2point.config import Config
from image2point.experiments import block_choice, lifecycle
from image2point.experiments.ingredients import (
    calibration_batch,
    check_features,
    load_splits,
    make_blank_network,
    make_network,
    make_recipe,
)
from image2point.finetune import count, count_by_role
from image2point.runs import Run
from image2point.training import distributed, loop
from image2point.training.batches import Recipe, prepare
from image2point.training.interrupt import StopSignal

if TYPE_CHECKING:
    from image2point.finetune import Counts
    from image2point.lifting import LiftedNetwork


def run(config: Config, folder: Path = Path("runs"), resume: bool = False, overwrite: bool = False) -> Run:
    """Do the run that `config` describes, in `folder / config.name`.

    resume: go on from the last checkpoint (or from the start, where there is none yet); the result is the same, bit
    for bit, as without the interruption. A finished run is left as it is. overwrite: replace an existing run.

    Raises InputError for what the user gave wrong, Interrupted where the run was asked to stop.
    """
    place = Run(folder / config.name)
    fabric = distributed.start(config.training)
    found = distributed.together(fabric, lambda: lifecycle.standing(place, config, resume, overwrite))
    if found == "finished":
        return place
    # Whatever may be wrong with data or weights is found before an existing run directory is replaced.
    splits, recipe = load_splits(config.data), make_recipe(config)
    check_features(splits, recipe)
    classes = len(splits.train.classes)
    if found == "checkpoint":
        network = make_blank_network(config, classes)
    else:
        network = make_network(config, classes, calibration_batch(config, splits.train))
    open_choice = found == "new" and block_choice.is_open(config)
    if open_choice:
        block_choice.check(config, fabric, network)
    else:
        network, counts = block_choice.apply(network, block_choice.resolved(config, place))
    with lifecycle.claimed(fabric, place, config, found, resume, overwrite), StopSignal() as stop:
        if open_choice:
            block_choice.choose(config, place, fabric, network, splits, recipe, stop)
            network, counts = block_choice.apply(network, block_choice.resolved(config, place))
        job = loop.Job(fabric, network, splits, recipe, config, place, stop)
        _announce(job, config, network, counts, resumed=found == "checkpoint")
        state = loop.restore(job) if found == "checkpoint" else loop.State()
        loop.fit(job, state)
        _finish(job, config, recipe, network, state)
    return place


def _announce(job: loop.Job, config: Config, network: LiftedNetwork, counts: Counts, resumed: bool) -> None:
    """Say what is about to be trained on what, and store where each parameter came from."""
    splits, say = job.splits, job.journal.say
    held_out = len(splits.validation) if splits.validation else 0
    say(f"{'resuming' if resumed else 'run'} {job.run.path}: {config.label}")
    say(
        f"data: {splits.train.name}, {len(splits.train.classes)} classes; "
        f"{len(splits.train)} training, {held_out} validation, {len(splits.test)} test clouds"
    )
    if job.fabric.is_global_zero and not resumed:
        files.write_text(job.run.lifting, network.lifting.to_json())
    if job.fabric.is_global_zero:
        say(f"network: {config.network.arch}, {_provenance(job.run.read_lifting())}")
    say(f"policy {block_choice.resolved(config, job.run)}: {counts.trainable:,} of {counts.total:,} parameters train")


def _provenance(lifting: dict[str, Any]) -> str:
    """Where the weights came from and where they went, in one line."""
    weights, source, target = lifting["weights"], lifting["counts"]["source"], lifting["counts"]["target"]
    sha256 = f" (sha256 {weights['sha256'][:12]})" if weights["sha256"] else ""
    return (
        f"weights {weights['source']}{sha256}: of {source['total']} 2D tensors {source['used']} used, "
        f"{source['replaced']} replaced, {source['skipped']} skipped; of {target['total']} 3D tensors "
        f"{target['inflated']} inflated, {target['copied']} copied, {target['fresh']} fresh"
    )


def _finish(job: loop.Job, config: Config, recipe: Recipe, network: LiftedNetwork, state: loop.State) -> None:
    """Score the chosen weights on the test set, once, and write everything that a finished run has."""
    place, splits = job.run, job.splits
    result, tested = lifecycle.score(job, network, state)
    if not job.fabric.is_global_zero:
        return
    lifecycle.save_weights(network, place.weights)
    _save_examples(job, config, recipe, tested.logits.argmax(1).numpy())
    lifting = place.read_lifting()
    summary = {
        "name": config.name,
        "status": "finished",
        "arm": config.label,
        "network": {"name": config.network.arch, **config.network.model_dump(mode="json", exclude={"arch"})},
        "policy": block_choice.resolved(config, place),
        "seed": config.seed,
        "data": {
            "name": config.data.name,
            "classes": list(splits.test.classes),
            "shots": config.data.shots,
            "voxel_size": config.data.voxel_size,
            "train_clouds": len(splits.train),
            "validation_clouds": len(splits.validation) if splits.validation else 0,
            "test_clouds": len(splits.test),
        },
        "parameters": _parameters(network),
        "weights": {**lifting["weights"], "counts": lifting["counts"]},
        **result,
    }
    files.write_text(place.summary, json.dumps(summary, indent=1))
    shutil.rmtree(place.checkpoint, ignore_errors=True)  # nothing is left to resume
    if config.report.html:
        from image2point import report

        report.build([place.path], place.report)
    lifecycle.announce_end(job, result)


def _save_examples(job: loop.Job, config: Config, recipe: Recipe, predictions: np.ndarray) -> None:
    """A few test clouds, the same whatever the run's seed, so that arms can be compared; cut to the smallest."""
    test, rng = job.splits.test, np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(test))[: config.report.examples])
    clouds = [prepare(test[i], f"{test.name} cloud {i}", recipe, None, i) for i in chosen.tolist()]
    size = min((len(cloud) for cloud in clouds), default=0)
    points = [cloud.points[np.sort(rng.permutation(len(cloud))[:size])] for cloud in clouds]
    content = io.BytesIO()
    np.savez_compressed(
        content,
        points=np.array(points, dtype=np.float32).reshape(len(points), size, 3),
        labels=test.labels[chosen],
        predictions=predictions[chosen],
    )
    files.write_bytes(job.run.examples, content.getvalue())


def _parameters(network: LiftedNetwork) -> dict[str, Any]:
    """Numbers of parameters, all and trainable, in total and by role."""
    by_role = {role: asdict(counts) for role, counts in count_by_role(network).items()}
    return {**asdict(count(network)), "by_role": by_role}
