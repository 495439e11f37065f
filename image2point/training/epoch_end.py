"""The end of an epoch: norms recalibrated, splits scored, collapse measured, the best network kept, tables written."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from image2point import files
from image2point.collapse.labels_at_random import PERMUTATIONS, with_nulls
from image2point.collapse.layers import kept, measure_layers
from image2point.config import Pretrain
from image2point.datasets.class_split import Labelled
from image2point.errors import InputError, listed
from image2point.tasks.task import Scores
from image2point.training import measure
from image2point.training.batches import batches, shuffled
from image2point.training.interrupt import Interrupted
from image2point.training.job import Job, State
from image2point.training.layer_features import choose_layers, layer_source, plain
from image2point.training.pausing import pause, save, stopped
from image2point.training.recalibration import drift, recalibrate
from image2point.training.schedule import learning_rate

FAR, ASKED = 0.3, 128
"""The drift of running statistics beyond which a run warns, and of how many training clouds it is taken.

Of 32 clouds it is mostly chance, up to 0.5, in the last layers, which have few voxels. Of 128, EfficientNet-Lite0 on
ten clouds per class of ModelNet40 had 1.4 after 13 steps, 0.42 after 26, 0.21 after 39 and 0.10 after 78 (`io+norm`;
`all`: 0.90 and 0.45); recalibrated, its test accuracy was 14, 7, 2 and 0 points higher (`all`: 8 and 3).
"""

COLUMNS = ("epoch", "step", "seconds", "learning_rate")


def close_epoch(job: Job, state: State, epoch: int) -> None:
    """Validate, measure collapse where due, remember the best network, write metrics.csv."""
    row: dict[str, Any] = {"epoch": epoch, "step": epoch * job.steps, "seconds": round(state.seconds, 3)}
    if epoch:
        row["learning_rate"] = learning_rate(job.config.training, epoch - 1, job.steps - 1, job.steps)
        loss, hits, counted = state.sums
        row |= {"train_loss": loss / max(counted, 1), "train_accuracy": hits / max(counted, 1)}
        if job.config.training.feature_penalties:
            row["train_penalty"] = state.penalty / job.steps
        if job.average is not None:
            job.average.after_epoch(job.network, epoch)
    job.gather()
    due = _collapse_due(job, epoch)
    if due or job.splits.validation is not None:
        take_statistics_again(job, state)
    if job.splits.validation is not None:
        held_out = _outputs(job, state, job.splits.validation)
        if not state.rows and job.config.training.epochs > 1:
            tell_unseen(job, held_out)
        validated = job.task.scores(held_out)
        row |= score_columns("validation", validated)
        better = state.best_score is None or validated.order > state.best_score
        if better and (epoch or not job.config.training.epochs):
            state.best_epoch, state.best_score = epoch, validated.order
            state.best = {name: tensor.detach().cpu().clone() for name, tensor in job.scored.state_dict().items()}
    if due:
        outputs = {str(name): _outputs(job, state, getattr(job.splits, name)) for name in job.config.collapse.splits}
        row |= collapse_columns(measure.collapse(job.fabric, job.scored, outputs))
        follow_layers(job, state, epoch, job.config.collapse.splits)
        if "test" in outputs:
            row |= score_columns("test", job.task.scores(outputs["test"]))
    state.rows.append(row)
    write_rows(job, state)
    job.journal.row(row, job.config.training.epochs)


def tell_unseen(job: Job, outputs: Any) -> None:
    """Warn of classes that nothing has of what the epoch is chosen by: a network that never says them loses nothing."""
    assert job.splits.validation is not None
    seen = job.task.confusion(outputs).counts.sum(axis=1)
    unseen = [name for name, count in zip(job.splits.validation.classes, seen, strict=True) if not count]
    if unseen:
        job.journal.say(
            f"warning: nothing in the validation set is {listed(unseen)}, so that a network which never says so may be "
            "chosen; hold out others (data.shot_seed, data.validation)"
        )


def follow_layers(job: Job, state: State, epoch: int, splits: Sequence[str]) -> None:
    """Measure the layers that `collapse.layers` names, and write layers.csv; nothing where it names none."""
    patterns, settings = job.config.collapse.layers, job.config.training
    if not patterns:
        return
    if job.fabric.world_size > 1:
        raise InputError("collapse.layers measures on one process; measure the finished run with image2point measure")
    names, centres = choose_layers(job.scored, patterns), None
    for split in sorted(splits, key=lambda split: split != "train"):
        samples = getattr(job.splits, split)
        source = kept(
            layer_source(
                job.scored, samples, job.recipe, names, settings.batch_size, False, settings.workers, job.fabric
            )
        )
        found = measure_layers(source, samples.labels, len(samples.classes), centres=centres, permutations=PERMUTATIONS)
        if split == "train":
            centres = {name: each.means for name, each in found.items()}
        for name in names:
            plain_values = plain(found[name])
            errors = {f"{key}_error": i["error"] for key, i in plain_values["intervals"].items()}
            state.layers.append(
                {"epoch": epoch, "split": split, "layer": name, "dim": plain_values["dim"]}
                | plain_values["values"]
                | errors
                | with_nulls(found[name].values, found[name].nulls)
            )
    write_table(job, job.run.layers, (), state.layers)


def collapse_columns(measured: dict[str, dict[str, float | None]]) -> dict[str, float | None]:
    """{"train": {"nc1": x}} → {"collapse_train/nc1": x}"""
    return {f"collapse_{split}/{name}": value for split, values in measured.items() for name, value in values.items()}


def score_columns(split: str, scores: Scores) -> dict[str, float]:
    """{"loss": x} → {"test_loss": x}"""
    return {f"{split}_{name}": value for name, value in scores.columns.items()}


def _collapse_due(job: Job, epoch: int) -> bool:
    every, last = job.config.collapse.every, job.config.training.epochs
    chosen = epoch in job.config.collapse.at
    if not (every or chosen) or not job.config.collapse.splits:
        return False
    if epoch == last and job.splits.validation is None:
        return False  # these are the chosen weights, which are measured at the end
    return chosen or (bool(every) and (epoch % every == 0 or epoch == last))


def take_statistics_again(job: Job, state: State) -> None:
    """Recalibrate the norms that follow the batch on `training.recalibrate` training clouds, the same every time."""
    if not job.config.training.recalibrate:
        return

    def inputs() -> Iterator[Any]:
        for voxels in _training_voxels(job, job.config.training.recalibrate):
            if job.stop.requested and job.fabric.world_size == 1:
                raise stopped(job, state)
            yield voxels

    try:
        with job.fabric.autocast():
            recalibrate(job.scored, inputs())
    except Interrupted:  # only now do the statistics stand as they did before
        save(job, state)
        raise


def stale_statistics(job: Job) -> list[str]:
    """A warning where no statistics were taken again and those of the norms are far from the training clouds'."""
    if job.config.training.recalibrate or isinstance(job.config, Pretrain):
        return []
    with job.fabric.autocast():
        distance = drift(job.network, _training_voxels(job, ASKED))
    if distance < FAR:
        return []
    return [
        f"the running statistics of a norm are {distance:.2g} standard deviations from those of the clouds, "
        "so the scores may be far below what the network can do; set training.recalibrate=512"
    ]


def _training_voxels(job: Job, clouds: int) -> Iterator[Any]:
    """What this process has of so many training clouds, not augmented, the same every time, batch by batch."""
    settings, train, fabric = job.config.training, job.samples, job.fabric
    plan = shuffled(len(train), settings.batch_size, job.config.seed, epoch=0)
    enough = -(-min(clouds, len(train)) * len(plan) // len(train))
    shares = [np.array_split(indices, fabric.world_size)[fabric.global_rank] for indices in plan[:enough]]
    dtype = next(job.network.parameters()).dtype
    for batch in batches(train, shares, job.recipe.still, 0, settings.workers, fabric.device.type == "cuda"):
        yield batch.to(fabric.device, dtype).voxels


def _outputs(job: Job, state: State, samples: Labelled) -> Any:
    settings = job.config.training

    def each_batch() -> None:
        # Processes score different numbers of batches, so several of them only stop at the next training step.
        if job.fabric.world_size == 1:
            pause(job, state, job.stop.requested)

    return measure.outputs(
        job.fabric, job.task, job.scored, samples, job.recipe, settings.batch_size, settings.workers, each_batch
    )


def write_rows(job: Job, state: State) -> None:
    """Replace metrics.csv by the rows so far. Numbers are written in full, so nothing is lost by reading them back."""
    scores = [f"{split}_{name}" for split in ("train", "validation", "test") for name in job.task.columns]
    write_table(job, job.run.metrics, (*COLUMNS, *scores), state.rows)


def write_table(job: Job, path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Replace the file by a table of rows, with `columns` first."""
    if job.fabric.is_global_zero:
        names = dict.fromkeys([*columns, *(name for row in rows for name in row)])
        text = io.StringIO()
        writer = csv.DictWriter(text, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        files.write_text(path, text.getvalue())
