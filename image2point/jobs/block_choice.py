"""Collapse-guided fine-tuning: which block to train, by how much its training collapses the last features.

For each candidate, stem, head and that block train for a few epochs; the block after whose training the features
before the classifier have the lowest NC1 on the training clouds is taken. Test clouds play no part in it.

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
from image2point.collapse import Statistics, metrics
from image2point.config import Config
from image2point.datasets import Splits
from image2point.errors import InputError
from image2point.finetune import Counts, blocks_of, freeze
from image2point.lifting.skip import add_skip
from image2point.roles import BLOCK_POLICIES
from image2point.runs import Run
from image2point.tasks.registry import TASKS
from image2point.training import measure
from image2point.training.batches import Recipe
from image2point.training.interrupt import StopSignal
from image2point.training.job import Job, State
from image2point.training.loop import train_epoch

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from image2point.lifting import LiftedNetwork


def resolved(config: Config, run: Run) -> str:
    """The policy with `auto` replaced by what the run chose."""
    policy = config.finetune.policy
    return f"{policy.partition(':')[0]}:{run.read_choice()['block']}" if policy.endswith(":auto") else policy


def with_policy(network: LiftedNetwork, policy: str) -> LiftedNetwork:
    """The network that a policy trains: with its skip connection for `scl:NAME`, as it is for the others."""
    kind, _, block = policy.partition(":")
    return add_skip(network, block) if kind == "scl" else network


def apply(network: LiftedNetwork, policy: str) -> tuple[LiftedNetwork, Counts]:
    """The network that a policy trains, with all else frozen, and how much that leaves."""
    network = with_policy(network, policy)
    return network, freeze(network, policy)


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
    return config.finetune.candidates or there


def choose(
    config: Config, run: Run, fabric: Fabric, network: LiftedNetwork, splits: Splits, recipe: Recipe, stop: StopSignal
) -> None:
    """Compare the candidates and store the choice in the run; `network` stays as it is.

    Raises InputError as `check` does, and where no NC1 is defined.
    """
    kind = config.finetune.policy.partition(":")[0]
    nc1: dict[str, float] = {}
    for block in check(config, fabric, network):
        nc1[block] = _penultimate_nc1(config, fabric, network, splits, recipe, f"{kind}:{block}", stop)
        told = f"{nc1[block]:.4g}" if math.isfinite(nc1[block]) else "undefined"
        print(f"{kind}:{block}  NC1 of the features {told}", flush=True)
    defined = {block: value for block, value in nc1.items() if math.isfinite(value)}
    if not defined:
        raise InputError("no candidate has a defined NC1: every class needs two training clouds")
    chosen = min(defined, key=lambda block: defined[block])
    compared = {block: defined.get(block) for block in nc1}
    content = {"block": chosen, "epochs": config.finetune.probe_epochs, "penultimate_nc1": compared}
    files.write_text(run.choice, json.dumps(content, indent=1))


def _penultimate_nc1(
    config: Config,
    fabric: Fabric,
    network: LiftedNetwork,
    splits: Splits,
    recipe: Recipe,
    policy: str,
    stop: StopSignal,
) -> float:
    """NC1 of the features on the training clouds after a short training under `policy`."""
    epochs = config.finetune.probe_epochs
    training = config.training.model_copy(
        update={"epochs": epochs, "warmup_epochs": 0.0, "checkpoint_every_minutes": math.inf}
    )
    short = config.model_copy(update={"training": training})
    probe, _ = apply(copy.deepcopy(network), policy)
    task = TASKS[config.task].for_run(config, splits)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(fabric, task, probe, splits, recipe, short, Run(Path(folder)), stop)
        state = State()
        while state.epoch < epochs:
            train_epoch(job, state)
            state.epoch, state.step, state.sums = state.epoch + 1, 0, [0.0, 0.0, 0.0]
        seen = measure.outputs(fabric, task, probe, splits.train, recipe, training.batch_size, training.workers)
    classes = len(splits.train.classes)
    S = Statistics(classes, seen.features.shape[1]).update(seen.features, seen.own_labels)
    return metrics(S, ask="nc1")["nc1"]
