"""The main job: lift a 2D network, fine-tune what the policy allows, measure, and leave a run directory."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from image2point import files
from image2point.config import Config
from image2point.config.idle import idle_settings
from image2point.datasets.class_split import Labelled
from image2point.datasets.recipe import Recipe, prepare
from image2point.datasets.registry import is_centred
from image2point.datasets.splits import short_names
from image2point.datasets.voxel_size import doubt
from image2point.finetune import count, count_by_role, freeze
from image2point.jobs import block_choice, lifecycle, lr_choice, teaching
from image2point.jobs.fingerprint import compare_fingerprint, store_fingerprint, take_fingerprint
from image2point.jobs.ingredients import (
    blank_network,
    calibration_batch,
    check_features,
    clouds_root,
    lifted_stem,
    load_splits,
    make_network,
    make_recipe,
    set_normalisation,
)
from image2point.jobs.saving import save_arrays, save_summary, save_weights
from image2point.jobs.scoring import score
from image2point.lifting.additions.depth import learnt
from image2point.report.read import read_run
from image2point.runs import Run
from image2point.tasks.confusion_file import confusion_csv
from image2point.tasks.display import DISPLAYS
from image2point.tasks.predictions import predictions_csv
from image2point.tasks.registry import TASKS
from image2point.training import distributed, sharding
from image2point.training.groups import parameter_groups
from image2point.training.interrupt import StopSignal
from image2point.training.job import Job, State
from image2point.training.loop import fit
from image2point.training.pausing import restore
from image2point.training.trackers import check_trackers

if TYPE_CHECKING:
    from image2point.finetune import Counts
    from image2point.lifting import LiftedNetwork


def run_transfer(config: Config, folder: Path = Path("runs"), resume: bool = False, overwrite: bool = False) -> Run:
    """Do the run that `config` describes, in `folder / config.name`.

    resume: go on from the last checkpoint (or from the start, where there is none yet); the result is the same, bit
    for bit, as without the interruption. A finished run is left as it is. overwrite: replace an existing run.

    Raises InputError for what the user gave wrong, Interrupted where the run was asked to stop.
    """
    check_trackers(config.training.trackers)
    run = Run(files.user_path(folder) / config.name)
    fabric = distributed.start(config.training)
    stands = distributed.together(fabric, lambda: lifecycle.standing(run, config, resume, overwrite))
    if stands == "finished":
        lifecycle.tidy(run)
        return run
    # Whatever may be wrong with data or weights is found before an existing run directory is replaced.
    splits, recipe = load_splits(config.data), make_recipe(config)
    check_features(splits, recipe, TASKS[config.task].for_scoring(config, splits.test))
    task = TASKS[config.task].for_run(config, splits)
    judges = lr_choice.clouds_to_choose_by(config, splits)
    taught = stands != "new" and run.teacher.is_file()  # a new run begins with an empty directory
    teacher = None if taught else teaching.open_teacher(config, splits)
    rows = None if config.teacher.network is None else teaching.untaught(config, splits)
    fingerprint = take_fingerprint(splits, clouds_root(config.data), fabric)
    changed = [*lifecycle.moved(run, config), *compare_fingerprint(run, fingerprint)] if stands != "new" else []
    classes = len(splits.train.classes)
    if stands == "checkpoint":
        network = blank_network(config, run)
    else:
        network = make_network(config, classes, calibration_batch(config, splits.train))
    open_choice = stands == "new" and block_choice.is_open(config)
    if open_choice:
        block_choice.check(config, fabric, network)
    else:
        counts = freeze(network, block_choice.resolved(config, run))
        parameter_groups(network, config.training)  # what cannot be grouped is found now
    said = None if teacher is None or rows is None else teaching.ask(config, splits, teacher, rows, fabric)
    del teacher  # its memory is the run's now
    with lifecycle.claimed(fabric, run, config, stands, resume, overwrite), StopSignal() as stop:
        if stands == "new" and fabric.is_global_zero:
            store_fingerprint(run, fingerprint)
        lesson = None
        if rows is not None:
            splits, lesson = teaching.teach(config, splits, said, rows, run, fabric)
        if open_choice:
            block_choice.choose(config, run, fabric, network, splits, recipe, stop)
            counts = freeze(network, block_choice.resolved(config, run))
        if judges is not None and stands != "checkpoint":
            lr_choice.choose(config, run, fabric, network, splits, judges, recipe, stop)
        settings = lr_choice.resolved(config, run)
        job = Job(fabric, task, network, splits, recipe, settings, run, stop)
        _announce(job, config, network, counts, lesson, resumed=stands == "checkpoint")
        for change in changed:
            job.journal.say(f"warning: {change}")
        state = restore(job) if stands == "checkpoint" else State()
        fit(job, state)
        _finish(job, config, recipe, network, lesson, state)
    return run


def _announce(
    job: Job, config: Config, network: LiftedNetwork, counts: Counts, lesson: teaching.Lesson | None, resumed: bool
) -> None:
    """Say what is about to be trained on what, and store where each parameter came from."""
    splits, say = job.splits, job.journal.say
    held_out = len(splits.validation) if splits.validation else 0
    say(f"{'resuming' if resumed else 'run'} {job.run.path}: {config.label}")
    say(
        f"data: {splits.train.name}, {len(splits.train.classes)} classes; "
        f"{len(splits.train) - (lesson.taken if lesson else 0)} training, {held_out} validation, {len(splits.test)} "
        "test clouds"
    )
    if job.fabric.is_global_zero and not resumed:
        if found := doubt(_some_clouds(config, splits.train), config.data.voxel_size):
            say(f"warning: {found}")
        files.write_text(job.run.lifting, network.lifting.to_json())
    if job.fabric.is_global_zero:
        say(f"network: {config.network.arch}, {_provenance(job.run.read_lifting())}")
    if lifted_stem(config):
        why = (
            "the head trains first" if config.training.head_first else f"policy {config.finetune.policy} trains no stem"
        )
        say(f"{why}, so the 2D stem is lifted (network.stem = inflate)")
    if lesson is not None:
        say(lesson.told(config))
    if config.choose.lr:
        say(lr_choice.told(job.run.read_trials()))
    for warning in _noise(job, config):
        say(f"warning: {warning}")
    for line in idle_settings(config):
        say(f"note: {line}")
    if config.training.sharding != "none":
        say(sharding.told(job.trained))
    say(block_choice.told(block_choice.resolved(config, job.run), network, counts))


def _noise(job: Job, config: Config) -> list[str]:
    """A warning where a choice between epochs is made by few samples."""
    held_out = job.splits.validation
    if held_out is None or config.training.epochs < 2:
        return []
    return DISPLAYS[config.task].noisy_choice(len(held_out))


def _some_clouds(config: Config, train: Labelled, most: int = 8) -> list[np.ndarray]:
    """The points of a few training clouds, as training sees them but for what changes at random."""
    recipe = replace(make_recipe(config).still, features=("occupancy",), intensity="given")
    chosen = np.linspace(0, len(train) - 1, min(most, len(train))).astype(int)
    return [prepare(train[int(i)], f"{train.name} cloud {i}", recipe, 0, int(i)).points for i in chosen]


def _counts(config: Config, train: Labelled) -> list[int]:
    """The fewest and the most points of a few training clouds, as training sees them."""
    counts = [len(points) for points in _some_clouds(config, train)]
    return [min(counts), max(counts)]


def _provenance(lifting: dict[str, Any]) -> str:
    """Where the weights came from and where they went, in one line."""
    weights, source, target = lifting["weights"], lifting["counts"]["source"], lifting["counts"]["target"]
    sha256 = f" (sha256 {weights['sha256'][:12]})" if weights["sha256"] else ""
    start = f"began as {lifting['start']}; " if lifting.get("start") else ""
    return (
        f"{start}weights {weights['source']}{sha256}: of {source['total']} 2D tensors {source['used']} used, "
        f"{source['replaced']} replaced, {source['skipped']} skipped; of {target['total']} 3D tensors "
        f"{target['inflated']} inflated, {target['copied']} copied, {target['fresh']} fresh"
    )


def _finish(
    job: Job, config: Config, recipe: Recipe, network: LiftedNetwork, lesson: teaching.Lesson | None, state: State
) -> None:
    """Score the chosen weights on the test set, once, and write everything that a finished run has."""
    run, splits = job.run, job.splits
    result, tested = score(job, state)
    result["warnings"] += _noise(job, config)
    if config.choose.lr:
        lr_choice.add_to(result, run)
    if not job.fabric.is_global_zero:
        return
    save_weights(network, run.weights)
    files.write_text(run.confusion, confusion_csv(job.task.confusion(tested), splits.test.classes))
    if answers := job.task.answers(tested, short_names(splits.test, config.data.root)):
        files.write_text(run.predictions, predictions_csv(answers, splits.test.classes))
    _save_examples(job, config, recipe, tested)
    lifting = run.read_lifting()
    summary = {
        "name": config.name,
        "status": "finished",
        "arm": config.label,
        "task": config.task,
        "network": {"name": config.network.arch, **config.network.model_dump(mode="json", exclude={"arch"})},
        "policy": block_choice.resolved(config, run),
        "seed": config.seed,
        "data": {
            "name": config.data.name,
            "classes": list(splits.test.classes),
            "shots": config.data.shots,
            "voxel_size": config.data.voxel_size,
            "centred": is_centred(splits.test.name.partition("/")[0]),  # prepared data have the name of what they were
            "normalised": set_normalisation(config.data),
            "points": [] if job.task.of_points else _counts(config, splits.train),
            "train_clouds": len(splits.train) - (lesson.taken if lesson else 0),
            "validation_clouds": len(splits.validation) if splits.validation else 0,
            "test_clouds": len(splits.test),
        },
        "teacher": None if lesson is None else {"network": config.teacher.network, **asdict(lesson)},
        "parameters": _parameters(network),
        "depth": learnt(network),
        "weights": {**lifting["weights"], "counts": lifting["counts"]},
        **result,
    }
    if config.report.html:
        from image2point.report.page import write_page

        write_page([read_run(run.path, summary)], run.report)
    save_summary(run, summary)
    each = ", on average over its channels" if "depth:channels" in config.finetune.policy else ""
    for layer, numbers in learnt(network).items():
        slices = ", ".join(f"{number:.3f}" for number in numbers)
        job.journal.say(f"{layer}: its kernel fills the depth by {slices}{each}")
    job.journal.say(f"{job.task.statement(result['final'])}, everything is in {run.path}")


def _save_examples(job: Job, config: Config, recipe: Recipe, outputs: Any) -> None:
    """A few test clouds, the same whatever the run's seed, so that arms can be compared."""
    test, rng = job.splits.test, np.random.default_rng(0)
    chosen = np.sort(rng.permutation(len(test))[: config.report.examples])
    clouds = [prepare(test[i], f"{test.name} cloud {i}", recipe, None, i) for i in chosen.tolist()]
    save_arrays(job.task.examples(clouds, chosen, outputs, rng), job.run.examples)


def _parameters(network: LiftedNetwork) -> dict[str, Any]:
    """Numbers of parameters, all and trainable, in total and by role."""
    by_role = {role: asdict(counts) for role, counts in count_by_role(network).items()}
    return {**asdict(count(network)), "by_role": by_role}
