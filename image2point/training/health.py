"""Signs that a network has learnt nothing, or that its features are dead."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from image2point.datasets.class_split import Labelled

DEAD_SHARE = 0.5
CHANCE = 0.01
"""Relative distance from ln C within which a loss counts as that of guessing."""


def lifeless(features: Tensor, loss: float, samples: Labelled) -> list[str]:
    """Warnings, each a line, about the features [n, p] before the classifier and the mean loss on `samples`.

    >>> import numpy as np
    >>> from image2point.datasets.splits import StoredClouds
    >>> two = StoredClouds("two", ("a", "b"), np.zeros((2, 1, 3), np.float32), np.array([0, 1]))
    >>> lifeless(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), loss=0.5, samples=two)
    ['the features before the classifier are the same for all 2 samples']
    """
    warnings = []
    constant = torch.zeros(0) if len(features) < 2 else (features == features[0]).all(0)
    if len(constant) and constant.all():
        warnings.append(f"the features before the classifier are the same for all {len(features)} samples")
    elif len(constant) and constant.double().mean() > DEAD_SHARE:
        dead = int(constant.sum())
        warnings.append(f"{dead} of {len(constant)} features before the classifier are the same for all samples")
    guessing = math.log(len(samples.classes))
    if guessing and abs(loss - guessing) <= CHANCE * guessing:
        warnings.append(
            f"the loss, {loss:.4f}, is that of guessing among {len(samples.classes)} classes: nothing was learnt; "
            "train for longer, raise training.lr, or let more move (finetune.policy)"
        )
    return warnings
