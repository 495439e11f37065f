"""Where a training may stop: checkpoints, written and read back."""

from __future__ import annotations

import time

from torch import Tensor

from image2point.training import checkpoint, distributed
from image2point.training.interrupt import Interrupted
from image2point.training.job import Job, State


def pause(job: Job, state: State, stop: bool) -> None:
    """Write a checkpoint if one is due; where `stop`, write one and raise Interrupted."""
    if stop or due(job):
        save(job, state)
    if stop:
        raise stopped(job, state)


def due(job: Job) -> bool:
    """Whether it is time for a checkpoint; by the first process's clock where all have a part to give."""
    over = time.monotonic() - job.saved_at >= 60 * job.config.training.checkpoint_every_minutes
    if job.trained is job.network:
        return over
    return distributed.total_count(job.fabric, int(over and job.fabric.is_global_zero)) > 0


def stopped(job: Job, state: State) -> Interrupted:
    return job.interrupted(f"in epoch {state.epoch + 1} after step {state.step} of {job.steps}")


def elapsed(job: Job, state: State) -> float:
    """Seconds that the run has taken so far, over all its sessions."""
    return state.elapsed + time.monotonic() - job.started


def save(job: Job, state: State) -> None:
    """Write the checkpoint. The state is the same on every process; the first one writes it."""
    job.gather()
    slots: dict[str, Tensor] = {}
    if job.config.training.epochs:
        slots = checkpoint.optimizer_tensors(job.optimizer.optimizer)
    start = {} if job.anchor is None else job.anchor.tensors()
    if job.fabric.is_global_zero:
        tensors = {f"network/{name}": tensor for name, tensor in job.network.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in state.best.items()}
        if job.average is not None:
            tensors |= {f"average/{name}": tensor for name, tensor in job.average.tensors().items()}
        tensors |= {f"start/{name}": tensor for name, tensor in start.items()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in slots.items()}
        rest = {name: value for name, value in vars(state).items() if name != "best"}
        rest["elapsed"] = elapsed(job, state)
        if job.config.training.epochs:
            rest["precision"] = job.fabric.strategy.precision.state_dict()
        name = f"epoch-{state.epoch:05d}-step-{state.step:06d}"
        checkpoint.save(job.run.checkpoint, name, tensors, rest)
    job.saved_at = time.monotonic()


def restore(job: Job) -> State:
    """The state of the newest checkpoint, with network and optimizer set to it; a fresh State where there is none."""
    path = checkpoint.latest(job.run.checkpoint)
    if path is None:
        return State()
    tensors, rest = checkpoint.load(path)
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "best": {}, "optimizer": {}, "average": {}, "start": {}}
    for name, tensor in tensors.items():
        part, key = name.split("/", 1)
        parts[part][key] = tensor
    job.network.load_state_dict(parts["network"])
    job.scatter()
    if job.average is not None:
        job.average.restore(parts["average"])
    if job.anchor is not None:
        job.anchor.restore(parts["start"])
    precision = rest.pop("precision", None)
    if job.config.training.epochs:
        checkpoint.restore_optimizer(job.optimizer.optimizer, parts["optimizer"])
        job.fabric.strategy.precision.load_state_dict(precision)
    rest["best_score"] = rest["best_score"] and tuple(rest["best_score"])
    return State(**rest, best=parts["best"])
