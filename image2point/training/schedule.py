"""The optimizer, and its learning rate as a plain function of where training stands."""

from __future__ import annotations

import math

import torch

from image2point.config import Training
from image2point.networks.interface import Network
from image2point.training.groups import parameter_groups


def make_optimizer(network: Network, training: Training) -> torch.optim.Optimizer:
    """An optimizer over what is trainable now: call it after `freeze`.

    Its groups have a `factor`, by which the learning rate of a step is multiplied.

    Raises:
        InputError: as `parameter_groups` does.
    """
    groups = parameter_groups(network, training)
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.lr, momentum=training.momentum, nesterov=training.nesterov)
    return torch.optim.AdamW(groups, lr=training.lr, betas=(training.momentum, 0.999))


def learning_rate(training: Training, epoch: int, step: int, steps: int) -> float:
    """The learning rate of step `step` (from 0, of `steps`) in epoch `epoch` (from 0).

    Warm-up climbs linearly and ends at `lr`; the cosine then falls from `lr` towards 0 (Loshchilov and Hutter 2017,
    eq. 5, without restarts). Both are counted in the unit of `step_per`: T_max is the number of epochs where the
    rate moves once per epoch, the number of iterations where it moves at every one.
    """
    per_epoch = 1 if training.step_per == "epoch" else steps
    now = epoch if training.step_per == "epoch" else epoch * steps + step
    warmup, end = training.warmup_epochs * per_epoch, training.epochs * per_epoch
    if now < warmup:
        return training.lr * min(1.0, (now + 1) / warmup)
    if training.schedule == "constant":
        return training.lr
    return training.lr * 0.5 * (1 + math.cos(math.pi * (now - warmup) / (end - warmup)))
