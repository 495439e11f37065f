"""A penalty on features whose classes are wide against the distances between them, to add to a loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from image2point.collapse.inputs import StatisticsError, check_labels


def collapse_penalty(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The variance within the classes of a batch over the mean squared distance between two class means.

    With n samples h_i of C classes that the batch has, and their means μ_c in the batch:
    Σ_i ‖h_i − μ_y(i)‖² / (n − C), divided by the mean of ‖μ_c − μ_c'‖² over all pairs of these classes. Scaling all
    features leaves it as it is. It is 0 where the batch has one class, or one sample of each, or means that coincide.

    Args:
        features: [n, p].
        labels: integers [n], each below `classes`.

    Returns:
        A scalar, differentiable in the features.

    Raises:
        StatisticsError: where the shapes do not fit, or labels on the CPU are no such numbers.

    >>> x = torch.tensor([[0.0, 1.0], [0.0, -1.0], [4.0, 1.0], [4.0, -1.0]])
    >>> float(collapse_penalty(x, torch.tensor([0, 0, 2, 2]), 3))  # (1 + 1 + 1 + 1) / (4 − 2), over 4²
    0.125
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise StatisticsError(
            f"collapse_penalty: expected features [n, p] and labels [n], found {list(features.shape)} and "
            f"{list(labels.shape)}"
        )
    # On a GPU, to look at the labels would hold up the step, and cannot be where the step is recorded as a graph.
    labels = check_labels(labels, len(features), classes) if labels.device.type == "cpu" else labels.long()
    # Products in place of indices: their gradient is the same in every run, on a GPU as well.
    member = F.one_hot(labels, classes).to(features)
    count = member.sum(0)
    there = count > 0
    number = there.sum()
    means = member.T @ features / count.clamp_min(1).unsqueeze(1)
    scatter = (features - member @ means).square().sum() / (len(features) - number).clamp_min(1)
    centred = (means - means.sum(0) / number) * there.unsqueeze(1)
    distance = 2 * centred.square().sum() / (number - 1).clamp_min(1)
    apart = distance > 0
    return torch.where(apart, scatter / torch.where(apart, distance, 1), 0)
