"""What a segmentation is trained by: weights of classes, weighted cross-entropy, Lovász-softmax."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from image2point.datasets.cloud import IGNORED

Weighting = Literal["none", "inverse_sqrt", "effective_number"]


def class_weights(counts: np.ndarray, kind: Weighting) -> np.ndarray | None:
    """Weights of the classes, float64 [C], from how many points each has; None for `none`.

    inverse_sqrt: 1 / √n. effective_number: (1 − beta) / (1 − beta^n), with beta = 1 − 1/N and N the median of the
    counts, so that about 1/n for classes much rarer than the median one, and the same for all much more common.
    A class without points has weight 0. The mean weight over all points is 1, so that the learning rate keeps its
    meaning.

    Source: Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples", whose N is the number of
    distinct samples that a class could have; nobody knows it for points.

    >>> class_weights(np.array([75, 25]), "inverse_sqrt").round(4)
    array([0.8453, 1.4641])
    """
    if kind == "none":
        return None
    counts = np.asarray(counts, dtype=np.float64)
    there = counts > 0
    weights = np.zeros(len(counts))
    if kind == "inverse_sqrt":
        weights[there] = 1 / np.sqrt(counts[there])
    else:
        share = 1 / max(float(np.median(counts[there])), 1 + 1e-9)  # 1 − beta
        weights[there] = share / -np.expm1(counts[there] * np.log1p(-share))  # −expm1(n·log beta) = 1 − beta^n
    return np.asarray(weights * (counts.sum() / (weights * counts).sum()))


def cross_entropy(
    logits: Tensor, labels: Tensor, weights: np.ndarray | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of logits [n, C], summed over the rows whose label is not ignored, each times its class's weight.

    >>> round(float(cross_entropy(torch.zeros(3, 2), torch.tensor([0, 1, -1]))), 4)  # 2 · ln 2
    1.3863
    """
    given = None if weights is None else torch.as_tensor(weights, dtype=logits.dtype, device=logits.device)
    return F.cross_entropy(
        logits, labels, given, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing
    )


def lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """The Lovász extension of 1 − IoU of the softmax, averaged over the classes that occur; 0 where nothing counts.

    Args:
        logits: [n, C].
        labels: int64 [n]; ignored rows are left out.

    Source: Berman et al. 2018, "The Lovász-Softmax loss", equations 8 to 11 and algorithm 1.

    >>> sure = torch.tensor([[20.0, -20.0], [-20.0, 20.0]])
    >>> [round(float(lovasz_softmax(sure, torch.tensor(labels))), 4) for labels in ([0, 1], [1, 0], [0, 0])]
    [0.0, 1.0, 0.5]
    """
    known = labels != IGNORED
    shares, labels = logits[known].softmax(1), labels[known]
    losses = []
    for number in labels.unique().tolist():
        true = (labels == number).to(shares.dtype)
        errors, order = (true - shares[:, number]).abs().sort(descending=True)
        losses.append(errors @ _jaccard_steps(true[order]))
    return torch.stack(losses).mean() if losses else logits.sum() * 0.0


def _jaccard_steps(true: Tensor) -> Tensor:
    """By how much each further mistake raises 1 − IoU, for truths 0 or 1 in the order of mistakes: [n]."""
    union = true.sum() + (1 - true).cumsum(0)
    jaccard = 1 - (true.sum() - true.cumsum(0)) / union
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
