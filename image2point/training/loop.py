"""The training loop.

Randomness has no state: order, augmentation and torch's own generator follow from (seed, epoch, step). Hence a run
that stops anywhere and goes on ends with the same bits.
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch

from image2point.errors import InputError
from image2point.training import distributed
from image2point.training.batches import batches
from image2point.training.epoch_end import close_epoch
from image2point.training.job import Job, State
from image2point.training.pausing import pause, save
from image2point.training.schedule import learning_rate


class Diverged(InputError):
    """The loss is no number any more."""


def fit(job: Job, state: State) -> None:
    """Train from `state` to the last epoch. Raises Interrupted, with a checkpoint written, when asked to stop."""
    epochs = job.config.training.epochs
    job.journal.begin(total=epochs * job.steps, done=state.epoch * job.steps + state.step)
    try:
        if not state.rows:
            job.begin_epoch(0)
            close_epoch(job, state, epoch=0)
        while state.epoch < epochs:
            train_epoch(job, state)
            close_epoch(job, state, epoch=state.epoch + 1)
            state.epoch, state.step, state.sums = state.epoch + 1, 0, [0.0, 0.0, 0.0]
            pause(job, state, stop=False)
        save(job, state)
    finally:
        job.journal.close()


def train_epoch(job: Job, state: State) -> None:
    """The steps of one epoch, from `state.step` on."""
    settings, task, world, rank = job.config.training, job.task, job.fabric.world_size, job.fabric.global_rank
    epoch = state.epoch + 1
    plan = job.plan(epoch)[state.step :]
    shares = [np.array_split(indices, world)[rank] for indices in plan]
    on_gpu = job.fabric.device.type == "cuda"
    dtype = next(job.network.parameters()).dtype
    job.begin_epoch(state.epoch)
    job.network.train()
    clock = time.monotonic()
    loader = batches(job.samples, shares, job.recipe, epoch, settings.workers, on_gpu, task.targets)
    for batch in loader:
        counted = distributed.total_count(job.fabric, task.count(batch.targets))  # 0 where all of it is ignored
        batch = batch.to(job.fabric.device, dtype)
        _seed_torch(job.config.seed, epoch, state.step, rank)
        for group in job.optimizer.param_groups:
            group["lr"] = group["factor"] * learning_rate(settings, state.epoch, state.step, job.steps)
        job.optimizer.zero_grad(set_to_none=True)
        outputs, penalty = job.module(batch)
        loss = task.loss(outputs, batch.targets, settings.label_smoothing)
        # DDP averages gradients over processes: times world, this is the gradient of the global batch's mean loss.
        job.fabric.backward(loss * (world / max(counted, 1)) + penalty)
        if settings.gradient_clip is not None:
            job.fabric.clip_gradients(job.module, job.optimizer, max_norm=settings.gradient_clip)
        job.optimizer.step()
        if job.average is not None:
            job.average.after_step(job.network, state.epoch * job.steps + state.step + 1)

        hits = task.hits(outputs, batch.targets)
        local = torch.stack([loss.detach().double(), hits.double(), hits.new_tensor(job.stop.requested).double()])
        batch_loss, correct, stop = distributed.total(job.fabric, local).tolist()
        state.step += 1
        state.sums = [a + b for a, b in zip(state.sums, (batch_loss, correct, counted), strict=True)]
        state.seconds, clock = state.seconds + time.monotonic() - clock, time.monotonic()
        if not math.isfinite(batch_loss):
            raise Diverged(
                f"the loss became {batch_loss} in epoch {epoch}, step {state.step}; "
                "lower training.lr, add training.warmup_epochs, or set training.gradient_clip"
            )
        job.journal.step(epoch, batch_loss / max(counted, 1))
        pause(job, state, stop=bool(stop) or (world == 1 and job.stop.requested))


def _seed_torch(seed: int, epoch: int, step: int, rank: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, step, rank)).generate_state(1)[0]))
