"""Lightning Fabric, and the few things that processes tell each other.

Everything is written so that a run on n processes equals the run on one: global batches are cut into n shares, the
loss of each is divided by the global batch, norms reduce their statistics over all processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor

from image2point.config import Training
from image2point.errors import InputError
from image2point.training import sharding

if TYPE_CHECKING:
    from lightning.fabric import Fabric

T = TypeVar("T")
# Fabric's own 64-true rounds what a module returns to float32; a network of doubles needs nothing of it.
PRECISION = {"32": "32-true", "64": "32-true", "16-mixed": "16-mixed", "bf16-mixed": "bf16-mixed"}


def start(training: Training) -> Fabric:
    """Launch the processes of a run; InputError where the machine does not have what the config asks for."""
    from lightning.fabric import Fabric

    _check_started(training)
    if training.threads:
        torch.set_num_threads(training.threads)
    accelerator = training.accelerator
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise InputError("training.accelerator = cuda, but torch finds no GPU here; use cpu or auto")
    if accelerator == "cuda" and training.devices > torch.cuda.device_count():
        raise InputError(
            f"training.devices = {training.devices}, but torch finds {torch.cuda.device_count()} GPUs here"
        )
    processes, strategy = training.devices * training.nodes, cast(Any, "auto")
    if processes > 1:
        strategy = sharding.strategy(processes) if training.sharding == "blocks" else "ddp"
    fabric = Fabric(
        accelerator=accelerator,
        devices=training.devices,
        num_nodes=training.nodes,
        strategy=strategy,
        precision=PRECISION[training.precision],  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def _check_started(training: Training) -> None:
    """Raise InputError where torchrun started another number of processes than the config has."""
    wanted, started = training.devices * training.nodes, os.environ.get("WORLD_SIZE")
    if "TORCHELASTIC_RUN_ID" in os.environ and started != str(wanted):
        raise InputError(
            f"torchrun started {started} processes, but training.devices × training.nodes is {training.devices} × "
            f"{training.nodes} = {wanted}; set training.devices to its --nproc_per_node and training.nodes to --nnodes"
        )


def together(fabric: Fabric, work: Callable[[], T]) -> T:
    """Do `work` on the first process and give its result, or its InputError, to all."""
    result: T | None = None
    problem: str | None = None
    if fabric.is_global_zero:
        try:
            result = work()
        except InputError as error:
            problem = str(error)
    result, problem = share(fabric, (result, problem))
    if problem is not None:
        raise InputError(problem)
    return result  # type: ignore[return-value]


def share(fabric: Fabric, value: T) -> T:
    """The first process's value, on all."""
    return fabric.broadcast(value) if fabric.world_size > 1 else value


def gather(fabric: Fabric, value: T) -> list[T]:
    """The values of all processes, in order, on all."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def total(fabric: Fabric, values: Tensor) -> Tensor:
    """The sum over all processes."""
    if fabric.world_size > 1:
        torch.distributed.all_reduce(values)
    return values


def total_count(fabric: Fabric, count: int) -> int:
    """The sum of a count over all processes; one process alone has nothing to wait for."""
    if fabric.world_size == 1:
        return count
    return int(total(fabric, torch.tensor(count, device=fabric.device)))
