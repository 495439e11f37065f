"""Collapse-guided fine-tuning: which block to train, by how much its training collapses the last features.

For each candidate, stem, head and that block train for a few epochs; the block after whose training the features
before the classifier have the lowest NC1 on the training clouds is taken, as a share of its null: the NC1 of the same
features with permuted labels, which is what so many samples and classes give by themselves. Test clouds play no part.

Source: Li et al. 2024, "Understanding and Improving Transfer Learning of Deep Models via Neural Collapse": the more the
last features collapse on the downstream training data, the better the transfer.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from image2point import files
from image2point.collapse import Statistics, metrics, null
from image2point.collapse.labels_at_random import over_null
from image2point.config import Config
from image2point.datasets import Splits
from image2point.datasets.recipe import Recipe
from image2point.errors import InputError
from image2point.finetune import Counts, blocks_of, freeze, trained
from image2point.lifting.skip import check_skip
from image2point.report.numbers import UNDEFINED, beside_null, share
from image2point.roles import BLOCK_POLICIES
from image2point.runs import Run
from image2point.tasks.registry import TASKS
from image2point.training import measure
from image2point.training.epoch_end import take_statistics_again
from image2point.training.interrupt import Interrupted, StopSignal, stopped
from image2point.training.job import Job, State
from image2point.training.loop import train_epoch

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from image2point.lifting import LiftedNetwork


def resolved(config: Config, run: Run) -> str:
    """The policy with `auto` replaced by what the run chose."""
    policy = config.finetune.policy
    return f"{policy.partition(':')[0]}:{run.read_choice()['block']}" if policy.endswith(":auto") else policy


def told(policy: str, network: LiftedNetwork, counts: Counts) -> str:
    """What trains, how many parameters that are and what share, and of which role or addition, in one line."""
    return (
        f"policy {policy}: {counts.trainable:,} of {counts.total:,} parameters train "
        f"({share(counts.trainable, counts.total)} %)"
        + "".join(f", {name} {size:,}" for name, size in trained(network).items())
    )


def is_open(config: Config) -> bool:
    """Whether the block to train is still to be chosen."""
    return config.finetune.policy in {f"{kind}:auto" for kind in BLOCK_POLICIES}


def check(config: Config, fabric: Fabric, network: LiftedNetwork) -> tuple[str, ...]:
    """The candidates; InputError where they are no blocks, or the run has several processes."""
    if fabric.world_size > 1:
        raise InputError(
            f"finetune.policy = {config.finetune.policy} chooses on one process; choose there, and then name the block"
        )
    there = blocks_of(network)
    if unknown := sorted(set(config.finetune.candidates) - set(there)):
        raise InputError(f"finetune.candidates: {', '.join(unknown)} are no blocks; there are {', '.join(there)}")
    candidates = config.finetune.candidates or there
    if not candidates:
        raise InputError(
            f"finetune.policy = {config.finetune.policy}: {network.lifting.network} has no block of the body to choose"
        )
    if config.finetune.policy.startswith("scl:"):
        for block in candidates:
            try:
                check_skip(network, block)
            except InputError as error:
                raise InputError(
                    f"finetune.policy = scl:auto: {error}, and name others in finetune.candidates"
                ) from None
    return candidates


def choose(
    config: Config, run: Run, fabric: Fabric, network: LiftedNetwork, splits: Splits, recipe: Recipe, stop: StopSignal
) -> None:
    """Compare the candidates and store the choice in the run; `network` stays as it is.

    Raises InputError as `check` does, and where no NC1 is defined.
    """
    kind = config.finetune.policy.partition(":")[0]
    compared: dict[str, dict[str, float]] = {}
    shares: dict[str, float] = {}
    for block in check(config, fabric, network):
        try:
            value, (mean, sd) = _nc1_and_null(config, fabric, network, splits, recipe, f"{kind}:{block}", stop)
        except Interrupted:
            raise stopped(
                f"in the short training of {block}, and the choice begins again", config.command, run
            ) from None
        told = f"{value:.4g}, null {beside_null(value, mean, sd)}" if math.isfinite(value) else UNDEFINED
        print(f"{kind}:{block}  NC1 of the features {told}", flush=True)
        found = {"nc1": value, "null": mean, "null_sd": sd, "share": over_null(value, mean)}
        compared[block] = found
        if math.isfinite(found["share"]):
            shares[block] = found["share"]
    if not shares:
        raise InputError("no candidate has a defined NC1: every class needs two training clouds")
    chosen = min(shares, key=lambda block: shares[block])
    content = {"block": chosen, "epochs": config.finetune.probe_epochs, "compared": files.finite(compared)}
    files.write_text(run.choice, json.dumps(content, indent=1))


def _nc1_and_null(
    config: Config,
    fabric: Fabric,
    network: LiftedNetwork,
    splits: Splits,
    recipe: Recipe,
    policy: str,
    stop: StopSignal,
) -> tuple[float, tuple[float, float]]:
    """NC1 of the features on the training clouds after a short training under `policy`, and its null."""
    epochs = config.finetune.probe_epochs
    training = config.training.model_copy(
        # The block is to train from the first step on, and what is measured is the network itself, no average.
        update={
            "epochs": epochs,
            "warmup_epochs": 0.0,
            "checkpoint_every_minutes": math.inf,
            "head_first": 0,
            "ema": 0.0,
            "swa": 0,
        }
    )
    short = config.model_copy(update={"training": training})
    probe = copy.deepcopy(network)
    freeze(probe, policy)
    task = TASKS[config.task].for_run(config, splits)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(fabric, task, probe, splits, recipe, short, Run(Path(folder)), stop)
        state = State()
        while state.epoch < epochs:
            train_epoch(job, state)
            state.epoch, state.step, state.sums = state.epoch + 1, 0, [0.0, 0.0, 0.0]
        take_statistics_again(job, state)
        seen = measure.outputs(fabric, task, probe, splits.train, recipe, training.batch_size, training.workers)
    classes = len(splits.train.classes)
    S = Statistics(classes, seen.features.shape[1]).update(seen.features, seen.own_labels)
    return metrics(S, ask="nc1")["nc1"], null(seen.features, seen.own_labels, ["nc1"])["nc1"]
