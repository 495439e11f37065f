"""The end of a run: its chosen weights, scored once on the test set, and the collapse of their features."""

from __future__ import annotations

import time
from typing import Any

import torch

from image2point.datasets.class_split import Labelled
from image2point.jobs.lifecycle import environment
from image2point.jobs.saving import save_arrays
from image2point.training import epoch_end, measure
from image2point.training.health import check_said, diverged, lifeless
from image2point.training.job import Job, State
from image2point.training.pausing import elapsed


def score(job: Job, state: State) -> tuple[dict[str, Any], Any]:
    """Take the chosen weights, score them on the test set, once, and measure their collapse.

    Returns what `summary.json` says of any network, and the task's outputs on the test set.
    """
    config, splits, task = job.config, job.splits, job.task
    job.gather()
    by_validation = bool(state.best)
    if by_validation:
        job.network.load_state_dict(state.best)
    else:
        epoch_end.take_statistics_again(job, state)
        if job.scored is not job.network:
            job.network.load_state_dict(job.scored.state_dict())
    job.average = None  # the network has what is scored
    chosen = state.best_epoch if by_validation and state.best_epoch is not None else state.epoch
    job.journal.say(f"scoring {len(splits.test)} test samples with the weights of epoch {chosen}")
    clock = time.monotonic()
    outputs = {"test": _outputs(job, splits.test)}
    tested, test_seconds = task.scores(outputs["test"]), time.monotonic() - clock
    check_said(torch.tensor(tested.columns["loss"]))
    trained = None
    if "train" in config.collapse.final:
        outputs["train"] = _outputs(job, splits.train)
        trained = task.scores(outputs["train"])
    warnings = [
        *epoch_end.stale_statistics(job),
        *diverged([row["train_loss"] for row in state.rows if row.get("train_loss") is not None]),
        *lifeless(outputs["test"].features, tested.columns["loss"], task.confusion(outputs["test"]).counts),
    ]
    for warning in warnings:
        job.journal.say(f"warning: {warning}")
    measured = {str(split): outputs[split] for split in config.collapse.final}
    collapse = measure.collapse(job.fabric, job.network, measured) if measured else {}
    geometry = measure.geometry(job.fabric, job.network, measured) if measured else {}
    if geometry and job.fabric.is_global_zero:
        save_arrays(geometry, job.run.geometry)
    row = next(row for row in state.rows if row["epoch"] == chosen)
    row |= {**epoch_end.score_columns("test", tested), **epoch_end.collapse_columns(collapse)}
    epoch_end.write_rows(job, state)
    if not any(row["epoch"] == chosen for row in state.layers):
        epoch_end.follow_layers(job, state, chosen, config.collapse.final)
    result = {
        "chosen_epoch": chosen,
        "chosen_by": "validation" if by_validation else "last epoch",
        "final": task.final(tested, trained, state.best_score if by_validation else None, splits.test.classes),
        "collapse": collapse,
        "warnings": warnings,
        "seconds": {"training": state.seconds, "test": test_seconds, "total": elapsed(job, state)},
        "seconds_per_step": state.seconds / steps if (steps := state.epoch * job.steps) else None,
        "mebibytes": {"training": None if state.peak is None else round(state.peak / 2**20, 1)},
        "environment": environment(job.fabric),
    }
    return result, outputs["test"]


def _outputs(job: Job, samples: Labelled) -> Any:
    """What the network says about these samples; stops where that is asked for."""

    def each_batch() -> None:
        if job.stop.requested and job.fabric.world_size == 1:
            raise job.interrupted("while scoring, after the last epoch")

    settings = job.config.training
    return measure.outputs(
        job.fabric, job.task, job.network, samples, job.recipe, settings.batch_size, settings.workers, each_batch
    )
