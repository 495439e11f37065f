"""The learning rate of a run, chosen on validation clouds: a short training for each candidate (`choose.lr`).

One rate for all arms of a comparison decides the comparison, so each arm takes its own. A trial is a training with the
run's network, data and schedule, shortened to `choose.epochs`; what it is judged by is `Scores.order` of the validation
clouds at its best epoch. With several numbers of epochs the better half goes on after each (successive halving:
Jamieson and Talwalkar 2016, here with every round begun afresh, since a schedule that ends is not a part of a longer
one). Test clouds are not even handed to a trial.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from image2point import files
from image2point.config import Config
from image2point.datasets import Splits
from image2point.datasets.class_split import Labelled
from image2point.datasets.recipe import Recipe
from image2point.datasets.splits import Subset, few_shot
from image2point.errors import InputError
from image2point.runs import Run
from image2point.tasks.registry import TASKS
from image2point.tasks.task import Task
from image2point.training.health import Diverged
from image2point.training.interrupt import Interrupted, StopSignal, stopped
from image2point.training.job import Job
from image2point.training.loop import fit
from image2point.training.pausing import elapsed, restore

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from image2point.lifting import LiftedNetwork

Trial = dict[str, Any]
"""lr, epochs; seconds; `epoch`, `order` and `scores` of its best epoch, None where the loss diverged."""


def resolved(config: Config, run: Run) -> Config:
    """The config with `training.lr` as the run chose it; the same config where there is nothing to choose."""
    if not config.choose.lr:
        return config
    return _with_training(config, lr=run.read_trials()["lr"])


def clouds_to_choose_by(config: Config, splits: Splits) -> Labelled | None:
    """The clouds by which the rate is chosen; None where the config leaves nothing to choose.

    Raises InputError where the run has none.
    """
    if not config.choose.lr:
        return None
    if config.choose.clouds is not None and config.data.shots is not None:
        assert isinstance(splits.train, Subset)
        whole = splits.train.whole
        shots = few_shot(whole.labels, config.data.shots, config.data.shot_seed, whole.classes)
        left = Subset(whole, np.setdiff1d(np.arange(len(whole)), shots), f"{whole.name}/to choose by")
        return Subset(left, few_shot(left.labels, config.choose.clouds, config.data.shot_seed, left.classes))
    if splits.validation is None:
        how = "choose.clouds=10, clouds of each class that no shot uses, or " if config.data.shots else ""
        raise InputError(f"choose.lr needs validation clouds and this run has none; set {how}data.validation=0.2")
    return splits.validation


def choose(
    config: Config,
    run: Run,
    fabric: Fabric,
    network: LiftedNetwork,
    splits: Splits,
    judges: Labelled,
    recipe: Recipe,
    stop: StopSignal,
) -> None:
    """Try the rates and store the choice in the run. Finished trials are kept.

    network: frozen as its policy says, before its training; it stays as it is. judges: what `clouds_to_choose_by` gave.
    Raises InputError where every trial diverges, Interrupted on request.
    """
    trials: list[Trial] = run.read_trials()["trials"] if run.trials.is_file() else []
    rates, own = list(config.choose.lr), Splits(splits.train, judges, judges)
    task = TASKS[config.task].for_run(config, own)
    for round_, epochs in enumerate(config.choose.epochs):
        for lr in rates:
            if not any((trial["lr"], trial["epochs"]) == (lr, epochs) for trial in trials):
                trials.append(_try(config, run, fabric, task, network, own, recipe, stop, lr, epochs))
                _store(run, fabric, {"lr": None, "clouds": len(judges), "trials": trials})
        scored = {trial["lr"]: trial["order"] for trial in trials if trial["epochs"] == epochs and trial["order"]}
        best = sorted((lr for lr in rates if lr in scored), key=lambda lr: scored[lr], reverse=True)
        if not best:
            raise InputError(f"the loss diverged at every rate of choose.lr = {rates}; add lower ones")
        last = round_ == len(config.choose.epochs) - 1
        rates = best[: 1 if last else -(-len(rates) // 2)]
        if len(rates) == 1:
            break
    _store(run, fabric, {"lr": rates[0], "clouds": len(judges), "trials": trials})
    if fabric.is_global_zero:
        shutil.rmtree(run.unfinished_trials, ignore_errors=True)


def told(found: Mapping[str, Any]) -> str:
    """The choice and what it goes by, in one line.

    >>> trial = {"lr": 0.1, "epochs": 3, "order": [0.5, -1.2]}
    >>> told({"lr": 0.1, "clouds": 40, "trials": [trial, {"lr": 1.0, "epochs": 3, "order": None}]})
    'training.lr = 0.1 was chosen by 40 validation clouds: 0.1 (3 epochs) 0.500, 1 (3 epochs) diverged'
    """
    scores = (
        f"{trial['lr']:g} ({trial['epochs']} epochs) " + (f"{trial['order'][0]:.3f}" if trial["order"] else "diverged")
        for trial in found["trials"]
    )
    return f"training.lr = {found['lr']:g} was chosen by {found['clouds']} validation clouds: {', '.join(scores)}"


def add_to(result: dict[str, Any], run: Run) -> None:
    """Add the choice to what summary.json says: the rate, the trials, their time.

    There is a warning where the best rate is the smallest or the largest tried: the best may lie beyond.
    """
    found = run.read_trials()
    lr, trials = found["lr"], found["trials"]
    result |= {"chosen_lr": lr, "lr_clouds": found["clouds"], "trials": trials}
    seconds = sum(trial["seconds"] for trial in trials)
    result["seconds"] |= {"choosing": seconds, "total": result["seconds"]["total"] + seconds}
    rates = [trial["lr"] for trial in trials]
    for end, rate in (("smallest", min(rates)), ("largest", max(rates))):
        if lr == rate:
            result["warnings"].append(f"the chosen learning rate {lr:g} is the {end} tried; try others beyond it")


def _try(
    config: Config,
    run: Run,
    fabric: Fabric,
    task: Task,
    network: LiftedNetwork,
    own: Splits,
    recipe: Recipe,
    stop: StopSignal,
    lr: float,
    epochs: int,
) -> Trial:
    """One trial, from its checkpoint where it was interrupted."""
    name = f"lr={lr:g},epochs={epochs}"
    settings, of = config.training, config.training.epochs
    warmup, first, averaged = (n * epochs / of for n in (settings.warmup_epochs, settings.head_first, settings.swa))
    short = _with_training(
        config, lr=lr, epochs=epochs, warmup_epochs=warmup, head_first=int(first), swa=math.ceil(averaged), trackers=()
    )
    silent = config.collapse.model_copy(update={"every": 0, "at": (), "layers": ()})
    short = short.model_copy(update={"collapse": silent})
    place = Run(run.unfinished_trials / name)
    if fabric.is_global_zero:
        place.path.mkdir(parents=True, exist_ok=True)
    fabric.barrier()
    result: Trial = {"lr": lr, "epochs": epochs, "epoch": None, "order": None, "scores": {}}
    try:
        job = Job(fabric, task, copy.deepcopy(network), own, recipe, short, place, stop)
        job.journal.say(f"trial of training.lr = {lr:g}, epochs: {epochs}, judged by {len(own.test)} clouds")
        state = restore(job)
        fit(job, state)
    except Interrupted:
        raise stopped(f"in the trial {name}", config.command, run) from None
    except Diverged:
        job.journal.say("the loss diverged")
    else:
        if state.best_score is not None and all(map(math.isfinite, state.best_score)):
            row = next(row for row in state.rows if row["epoch"] == state.best_epoch)
            scores = {key: value for key, value in row.items() if key.startswith("validation_")}
            result |= {"epoch": state.best_epoch, "order": list(state.best_score), "scores": scores}
    result["seconds"] = round(elapsed(job, state), 3)
    if fabric.is_global_zero:
        shutil.rmtree(place.path, ignore_errors=True)
    return result


def _with_training(config: Config, **changes: Any) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update=changes)})


def _store(run: Run, fabric: Fabric, content: dict[str, Any]) -> None:
    if fabric.is_global_zero:
        files.write_text(run.trials, json.dumps(content, indent=1))
    fabric.barrier()
