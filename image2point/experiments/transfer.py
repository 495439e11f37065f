"""The main job: lift a 2D network, fine-tune what the policy allows, measure, and leave a run directory."""

from __future__ import annotations

import io
import json
import platform
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

import image2point
from image2point import config as configuration
from image2point import files, runs
from image2point.config import Config
from image2point.datasets import CloudSet
from image2point.errors import InputError
from image2point.experiments.ingredients import (
    calibration_batch,
    load_splits,
    make_blank_network,
    make_network,
    make_recipe,
)
from image2point.finetune import count, count_by_role, freeze
from image2point.runs import Run
from image2point.training import checkpoint, distributed, loop, measure
from image2point.training.batches import prepare
from image2point.training.interrupt import StopSignal

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from image2point.finetune import Counts
    from image2point.lifting import LiftedNetwork

FREE_TO_CHANGE = ("training.workers:", "training.checkpoint_every_minutes:", "data.root:", "report.")
"""Settings that do not touch the result, and so may differ when a run is resumed."""


def run(config: Config, folder: Path = Path("runs"), resume: bool = False, overwrite: bool = False) -> Run:
    """Do the run that `config` describes, in `folder / config.name`.

    resume: go on from the last checkpoint (or from the start, where there is none yet); the result is the same, bit
    for bit, as without the interruption. A finished run is left as it is. overwrite: replace an existing run.

    Raises InputError for what the user gave wrong, Interrupted where the run was asked to stop.
    """
    place = Run(folder / config.name)
    fabric = distributed.start(config.training)
    standing = distributed.together(fabric, lambda: _standing(place, config, resume, overwrite))
    if standing == "finished":
        return place
    # Whatever may be wrong with data or weights is found before an existing run directory is replaced.
    splits = load_splits(config.data)
    classes = len(splits.train.classes)
    if standing == "checkpoint":
        network = make_blank_network(config, classes)
    else:
        network = make_network(config, classes, calibration_batch(config, splits.train))
    counts = freeze(network, config.finetune.policy)
    if standing == "new":
        distributed.together(fabric, lambda: runs.create(place.path, config.to_yaml()))
    with StopSignal() as stop:
        job = loop.Job(fabric, network, splits, make_recipe(config), config, place, stop)
        _announce(job, network, counts, resumed=standing == "checkpoint")
        state = loop.restore(job) if standing == "checkpoint" else loop.State()
        loop.fit(job, state)
        _finish(job, network, state)
    return place


def _standing(place: Run, config: Config, resume: bool, overwrite: bool) -> Literal["new", "checkpoint", "finished"]:
    """What there is to do. InputError where the directory exists and neither option is given, or where a run is to be
    resumed with another config than its own."""
    if not resume or not place.path.exists():
        runs.check_new(place.path, overwrite)
        return "new"
    stored = configuration.load(runs.open_run(place.path).config)
    changed = [line for line in configuration.changes(stored, config) if not line.startswith(FREE_TO_CHANGE)]
    if changed:
        raise InputError(
            f"{place.path} was started with another config and cannot be resumed with this one; changed (stored -> "
            f"given): {'; '.join(changed)}. Undo that, choose another name=..., or start again with --overwrite"
        )
    if place.finished:
        return "finished"
    return "checkpoint" if checkpoint.latest(place.checkpoint) else "new"


def _announce(job: loop.Job, network: LiftedNetwork, counts: Counts, resumed: bool) -> None:
    """Say what is about to be trained on what, and store where each parameter came from."""
    config, splits, say = job.config, job.splits, job.journal.say
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
    say(f"policy {config.finetune.policy}: {counts.trainable:,} of {counts.total:,} parameters train")


def _provenance(lifting: dict[str, Any]) -> str:
    """Where the weights came from and where they went, in one line."""
    weights, source, target = lifting["weights"], lifting["counts"]["source"], lifting["counts"]["target"]
    sha256 = f" (sha256 {weights['sha256'][:12]})" if weights["sha256"] else ""
    return (
        f"weights {weights['source']}{sha256}: of {source['total']} 2D tensors {source['used']} used, "
        f"{source['replaced']} replaced, {source['skipped']} skipped; of {target['total']} 3D tensors "
        f"{target['inflated']} inflated, {target['copied']} copied, {target['fresh']} fresh"
    )


def _finish(job: loop.Job, network: LiftedNetwork, state: loop.State) -> None:
    """Score the chosen weights on the test set, once, and write everything that a finished run has."""
    config, place, splits = job.config, job.run, job.splits
    by_validation = bool(state.best)
    if by_validation:
        network.load_state_dict(state.best)
    chosen = state.best_epoch if by_validation and state.best_epoch is not None else state.epoch
    job.journal.say(f"scoring {len(splits.test)} test clouds with the weights of epoch {chosen}")
    clock = time.monotonic()
    found = {"test": _outputs(job, splits.test)}
    tested, test_seconds = measure.scores(found["test"]), time.monotonic() - clock
    trained = None
    if "train" in config.collapse.final:
        found["train"] = _outputs(job, splits.train)
        trained = measure.scores(found["train"]).accuracy
    measured = {str(split): found[split] for split in config.collapse.final}
    collapse = measure.collapse(job.fabric, network, measured) if measured else {}
    row = next(row for row in state.rows if row["epoch"] == chosen)
    row |= {"test_loss": tested.loss, "test_accuracy": tested.accuracy, **loop.collapse_columns(collapse)}
    loop.write_rows(job, state)
    if not job.fabric.is_global_zero:
        return
    save_weights(network, place.weights)
    _save_examples(job, found["test"].logits.argmax(1).numpy())
    lifting = place.read_lifting()
    summary = {
        "name": config.name,
        "status": "finished",
        "arm": config.label,
        "network": {"name": config.network.arch, **config.network.model_dump(mode="json", exclude={"arch"})},
        "policy": config.finetune.policy,
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
        "chosen_epoch": chosen,
        "chosen_by": "validation" if by_validation else "last epoch",
        "final": {
            "test_accuracy": tested.accuracy,
            "test_mean_class_accuracy": tested.mean_class_accuracy,
            "test_loss": tested.loss,
            "train_accuracy": trained,
            "validation_accuracy": state.best_score[0] if by_validation else None,
            "per_class": dict(zip(splits.test.classes, tested.per_class, strict=True)),
        },
        "collapse": collapse,
        "seconds": {"training": state.seconds, "test": test_seconds, "total": loop.elapsed(job, state)},
        "environment": _environment(job.fabric),
    }
    files.write_text(place.summary, json.dumps(summary, indent=1))
    shutil.rmtree(place.checkpoint, ignore_errors=True)  # nothing is left to resume
    if config.report.html:
        from image2point import report

        report.build([place.path], place.report)
    job.journal.say(
        f"test accuracy {100 * tested.accuracy:.2f} % (mean over classes {100 * tested.mean_class_accuracy:.2f} %), "
        f"everything is in {place.path}"
    )


def _outputs(job: loop.Job, clouds: CloudSet) -> measure.Outputs:
    def each_batch() -> None:
        if job.stop.requested and job.fabric.world_size == 1:
            raise loop.interrupted(job, "while scoring, after the last epoch")

    settings = job.config.training
    return measure.outputs(
        job.fabric, job.network, clouds, job.recipe, settings.batch_size, settings.workers, each_batch
    )


def save_weights(network: torch.nn.Module, path: Path) -> None:
    """Write the state dict as safetensors, atomically."""
    from safetensors.torch import save_file

    with files.writing(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}, temporary)


def _save_examples(job: loop.Job, predictions: np.ndarray) -> None:
    """A few test clouds, the same whatever the run's seed, so that arms can be compared; cut to the smallest."""
    test, rng = job.splits.test, np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(test))[: job.config.report.examples])
    clouds = [prepare(test[i], f"{test.name} cloud {i}", job.recipe, None, i) for i in chosen.tolist()]
    size = min((len(cloud) for cloud in clouds), default=0)
    points = [cloud[np.sort(rng.permutation(len(cloud))[:size])] for cloud in clouds]
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


def _environment(fabric: Fabric) -> dict[str, Any]:
    on_gpu = fabric.device.type == "cuda"
    return {
        "image2point": image2point.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(fabric.device) if on_gpu else "cpu",
        "processes": fabric.world_size,
        "threads": torch.get_num_threads(),
    }
