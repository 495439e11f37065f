"""Signs that a network has learnt nothing, that its features are dead, or that its training came near to diverging."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from image2point.errors import InputError

CALMER = "lower training.lr, add training.warmup_epochs, or set training.gradient_clip"
DEAD_SHARE = 0.5
BETTER = 1.1
"""How often a network is right, over the commonest class, from which on it does not guess."""
CHANCE = 0.01
"""Relative distance from ln C within which a loss counts as that of guessing."""
RISE = 1.05
"""How far above its lowest value, which lies in the first half of training, a last loss says that it diverged."""
FEW = 5
"""Of so few epochs nothing is said: each may be above the one before by chance."""


class Diverged(InputError):
    """The loss, a weight, or what the network says is no number any more."""


def check_said(*numbers: Tensor) -> None:
    """Raise Diverged where what a network says of some samples are no numbers: its weights overflow, though finite."""
    if not all(bool(each.isfinite().all()) for each in numbers):
        raise Diverged(f"what the network says of the clouds are no numbers: training diverged; {CALMER}")


def lifeless(features: Tensor, loss: float, counts: np.ndarray) -> list[str]:
    """Warnings, each a line, about the features [n, p] before the classifier and the mean loss of some samples.

    counts: int64 [C, C], how often each class (row) was taken for each. A network that is right more often than one
    that always says the commonest class has learnt something, whatever its loss: a sure one pays much for its errors.

    >>> lifeless(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), loss=0.5, counts=np.array([[1, 0], [1, 0]]))
    ['the features before the classifier are the same for all 2 samples']
    """
    warnings = []
    constant = torch.zeros(0) if len(features) < 2 else (features == features[0]).all(0)
    if len(constant) and constant.all():
        warnings.append(f"the features before the classifier are the same for all {len(features)} samples")
    elif len(constant) and constant.double().mean() > DEAD_SHARE:
        dead = int(constant.sum())
        warnings.append(f"{dead} of {len(constant)} features before the classifier are the same for all samples")
    guessing, right = math.log(len(counts)), np.trace(counts)
    if guessing and abs(loss - guessing) <= CHANCE * guessing and right <= BETTER * counts.sum(1).max():
        warnings.append(
            f"the loss, {loss:.4f}, is that of guessing among {len(counts)} classes: nothing was learnt; "
            "train for longer, raise training.lr, or let more move (finetune.policy)"
        )
    return warnings


def diverged(losses: Sequence[float]) -> list[str]:
    """A warning where the mean training losses of the epochs, in their order, rose and did not come back.

    >>> diverged([3.6, 3.0, 5.1, 4.2, 3.9, 3.4])
    ['the training loss was lowest, 3.0000, after epoch 2 of 6, rose to 5.1000 and ended at 3.4000: lower training.lr']
    """
    lowest = int(np.argmin(losses)) if losses else 0
    if len(losses) <= FEW or 2 * (lowest + 1) > len(losses) or losses[-1] <= RISE * losses[lowest]:
        return []
    return [
        f"the training loss was lowest, {losses[lowest]:.4f}, after epoch {lowest + 1} of {len(losses)}, rose to "
        f"{max(losses[lowest:]):.4f} and ended at {losses[-1]:.4f}: lower training.lr"
    ]
