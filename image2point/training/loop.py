"""The training loop.

Randomness has no state: order, augmentation and torch's own generator follow from (seed, epoch, step). Hence a run
that stops anywhere and goes on ends with the same bits.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from image2point.training import distributed, memory
from image2point.training.batches import Batch, batches, in_parts
from image2point.training.epoch_end import close_epoch
from image2point.training.health import CALMER, Diverged
from image2point.training.job import Job, State
from image2point.training.pausing import due, pause, save
from image2point.training.schedule import learning_rate
from image2point.voxels.modules import kernels_unchanging


def fit(job: Job, state: State) -> None:
    """Train from `state` to the last epoch. Raises Interrupted, with a checkpoint written, when asked to stop."""
    epochs = job.config.training.epochs
    finished = False
    distributed.together(job.fabric, job.journal.open_trackers)  # one that does not open ends all processes
    job.journal.begin(total=epochs * job.steps, done=state.epoch * job.steps + state.step)
    try:
        if not state.rows:
            job.begin_epoch(0)
            close_epoch(job, state, epoch=0)
        while state.epoch < epochs:
            train_epoch(job, state)
            close_epoch(job, state, epoch=state.epoch + 1)
            state.epoch, state.step, state.sums, state.penalty = state.epoch + 1, 0, [0.0, 0.0, 0.0], 0.0
            pause(job, state, stop=False)
        save(job, state)
        finished = True
    finally:
        job.journal.close(finished)


class Reading:
    """Numbers on their way from the device: `values` waits for them, and for nothing that was started since."""

    def __init__(self, numbers: Tensor) -> None:
        self._numbers = numbers.to("cpu", non_blocking=True)
        self._there = torch.cuda.Event() if numbers.is_cuda else None
        if self._there is not None:
            self._there.record()

    def values(self) -> list[float]:
        if self._there is not None:
            self._there.synchronize()
        return self._numbers.tolist()


def train_epoch(job: Job, state: State) -> None:
    """The steps of one epoch, from `state.step` on."""
    settings, task, world, rank = job.config.training, job.task, job.fabric.world_size, job.fabric.global_rank
    epoch = state.epoch + 1
    plan = job.plan(epoch)[state.step :]
    on_gpu = job.fabric.device.type == "cuda"
    dtype = next(job.network.parameters()).dtype
    job.begin_epoch(state.epoch)
    job.trained.train()
    told_memory = memory.begin(job.fabric.device)
    clock = time.monotonic()
    parts = settings.accumulate
    loader = batches(
        job.samples, in_parts(plan, parts), job.recipe, epoch, settings.workers, on_gpu, task.targets, job.wanted,
        job.share, job.buckets,
    )  # fmt: skip
    last, running, told_early = state.step + len(plan), deque[tuple[int, int, Reading]](), False
    with kernels_unchanging(job.trained):
        if job.graphs is not None:
            job.graphs.begin()
        for batch in _together(loader, parts):
            # 0 where all of it is ignored
            counted = distributed.total_count(job.fabric, sum(task.count(part.targets) for part in batch))
            for group in job.optimizer.param_groups:
                group["lr"] = group["factor"] * learning_rate(settings, state.epoch, state.step, job.steps)
            job.optimizer.zero_grad(set_to_none=True)
            # DDP averages gradients over processes: times world, this is the gradient of the global batch's mean loss.
            factor = world / max(counted, 1)
            found: tuple[Tensor, ...] = ()
            for number, part in enumerate(batch):
                part = part.to(job.fabric.device, dtype)
                _seed_torch(job.config.seed, epoch, state.step, rank + world * number)
                if job.graphs is not None:
                    own = job.graphs.step(part, factor, partial(_forward_and_backward, job))
                elif world > 1:
                    with job.fabric.no_backward_sync(job.module, enabled=number < parts - 1):
                        own = _forward_and_backward(job, part, factor)
                else:
                    own = _forward_and_backward(job, part, factor)
                found = tuple(map(torch.add, found, own)) if found else own
            loss, hits, *added = found
            if settings.gradient_clip is not None:  # where a gradient is no number, the next loss tells, or the weights
                job.fabric.clip_gradients(
                    job.module, job.optimizer, max_norm=settings.gradient_clip, error_if_nonfinite=False
                )
            job.optimizer.step()
            if job.average is not None:
                job.average.after_step(job.network, state.epoch * job.steps + state.step + 1)

            # Filled on the device: for a copy the host would wait.
            told = hits.new_full((), float(job.stop.requested), dtype=torch.float64)
            local = torch.stack([loss.double(), hits.double(), told, *(penalty.double() for penalty in added)])
            state.step += 1
            running.append((state.step, counted, Reading(distributed.total(job.fabric, local))))
            # A GPU is given the next step before the numbers of this one are asked for.
            stop = _settle(job, state, running, 1 if on_gpu and state.step < last else 0) or told_early
            state.seconds, clock = state.seconds + time.monotonic() - clock, time.monotonic()
            stop = stop or (world == 1 and job.stop.requested)
            told_early = False
            if stop or due(job):  # a checkpoint is whole; that of one process must not make it stop before the others
                told_early = _settle(job, state, running)
                _look_at_memory(job, state, told_memory)
                pause(job, state, stop)
    _look_at_memory(job, state, told_memory)
    _check_weights(job, epoch)


def _check_weights(job: Job, epoch: int) -> None:
    """Raise Diverged where a weight is no number: of the last step of an epoch no later loss tells."""
    parameters = job.trained.parameters()
    own = (getattr(parameter, "_local_tensor", parameter) for parameter in parameters)  # of a sharded one, what is here
    wrong = torch.stack([(~part.detach().isfinite()).sum() for part in own]).sum()  # one number to wait for
    if distributed.total_count(job.fabric, int(wrong)):
        raise Diverged(f"weights are no numbers after epoch {epoch}; {CALMER}")


def _together(loader: Iterator[Batch], parts: int) -> Iterator[list[Batch]]:
    """The parts of each batch."""
    while batch := list(islice(loader, parts)):
        yield batch


def _look_at_memory(job: Job, state: State, told: bool) -> None:
    if told:
        state.peak = max(state.peak or 0, memory.highest(job.fabric.device))


def _forward_and_backward(job: Job, batch: Batch, factor: float | Tensor) -> tuple[Tensor, ...]:
    """The gradient of the loss times a factor. Gives the loss, how many targets were hit, and the penalty if any."""
    outputs, penalty = job.module(batch)
    if isinstance(penalty, Tensor) and job.config.training.accumulate > 1:
        penalty = penalty * (job.task.count(batch.targets) * factor)  # a mean over the batch: of each part, its share
    loss = job.task.loss(outputs, batch.targets, job.config.training.label_smoothing)
    job.fabric.backward(loss * factor + penalty)
    penalties = (penalty.detach(),) if isinstance(penalty, Tensor) else ()
    return loss.detach(), job.task.hits(outputs, batch.targets), *penalties


def _settle(job: Job, state: State, running: deque[tuple[int, int, Reading]], left: int = 0) -> bool:
    """Add up what steps said, the oldest first, until `left` are left; whether one was told to stop.

    Raises Diverged where the loss of a step is no number.
    """
    stop, epoch = False, state.epoch + 1
    while len(running) > left:
        step, counted, reading = running.popleft()
        loss, correct, told, *penalty = reading.values()
        state.penalty += sum(penalty)
        state.sums = [a + b for a, b in zip(state.sums, (loss, correct, counted), strict=True)]
        if not math.isfinite(loss):
            raise Diverged(f"the loss became {loss} in epoch {epoch}, step {step}; {CALMER}")
        job.journal.step(epoch, loss / max(counted, 1))
        stop = stop or bool(told)
    return stop


def _seed_torch(seed: int, epoch: int, step: int, rank: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, step, rank)).generate_state(1)[0]))
