"""What a segmentation keeps of its answers, and the scores that it makes of them: plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from image2point.tasks.confusion import Confusion, Share


@dataclass(frozen=True)
class PointOutputs:
    """What the network says of a set of scenes, or of a batch of it, in eval mode, without augmentation.

    features [m, p], own_labels [m], own_logits [m, C]: a fixed number of voxels per class and scene, of the scenes of
    this process; labels int64 [n]: of those of all. points, voxels: over all scenes, voxels by the class of most of
    their points. loss: cross-entropy at the points, the mean over a set, the sum over a batch. shapes: category and
    mean part IoU of each shape, where the classes are parts. shown: predictions int16 at some points (`shown_rows`) of
    each scene.
    """

    features: Tensor
    own_labels: Tensor
    own_logits: Tensor
    labels: Tensor
    points: Confusion
    voxels: Confusion
    loss: float
    shapes: tuple[tuple[int, float | None], ...]
    shown: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class PointScores:
    """Scores at the points, with those at the voxels beside them; shares in 0..1, None where undefined."""

    loss: float
    points: Confusion
    voxels: Confusion
    instance_miou: Share = None
    category_miou: Share = None

    @property
    def columns(self) -> dict[str, float]:
        numbers = {
            "loss": self.loss,
            "accuracy": self.points.accuracy,
            "miou": self.points.miou,
            "instance_miou": self.instance_miou,
            "category_miou": self.category_miou,
        }
        return {name: value for name, value in numbers.items() if value is not None}

    @property
    def order(self) -> tuple[float, float]:
        """ShapeNetPart's own score where there is one."""
        best = self.points.miou if self.instance_miou is None else self.instance_miou
        return -1.0 if best is None else best, -self.loss


def confusion_table(scores: Confusion, classes: Sequence[str]) -> dict[str, Any]:
    """What summary.json keeps of a confusion matrix: rows are the truth."""
    return {
        "miou": scores.miou,
        "miou_all": scores.miou_all,
        "accuracy": scores.accuracy,
        "mean_class_accuracy": scores.mean_accuracy,
        "iou": dict(zip(classes, scores.iou, strict=True)),
        "count": dict(zip(classes, scores.support.tolist(), strict=True)),
        "scored": scores.total,
        "ignored": scores.ignored,
        "confusion": scores.counts.tolist(),
    }
