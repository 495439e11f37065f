"""Signs that a network has learnt nothing, or that its features are dead."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

DEAD_SHARE = 0.5
BETTER = 1.1
"""How often a network is right, over the commonest class, from which on it does not guess."""
CHANCE = 0.01
"""Relative distance from ln C within which a loss counts as that of guessing."""


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
