"""What voting over several views of every scene adds to the scores of its points: never a run's own test score."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from image2point.datasets.class_split import Labelled
from image2point.datasets.cloud import Cloud
from image2point.datasets.recipe import Recipe, prepare, to_voxels_and_rows
from image2point.datasets.splits import origin
from image2point.errors import InputError
from image2point.networks.interface import Network
from image2point.tasks.confusion import Confusion
from image2point.tasks.segmentation import Segmentation
from image2point.voxels import tiles


@dataclass(frozen=True)
class PointVotes:
    """The scores of the vote over `views` views of every scene."""

    views: int
    points: Confusion

    def lines(self, clean: float) -> list[str]:
        """For a terminal; clean: the accuracy without a vote."""
        shares = [share or 0.0 for share in (self.points.miou, self.points.accuracy)]
        return [
            f"voting: mIoU {100 * shares[0]:.2f} %, accuracy {100 * shares[1]:.2f} % (without: {100 * clean:.2f} %) "
            f"with {self.views} views of every scene"
        ]

    def to_dict(self) -> dict[str, Any]:
        return {"views": self.views, "miou": self.points.miou, "accuracy": self.points.accuracy, "iou": self.points.iou}


def vote_on_points(
    network: Network, samples: Labelled, recipe: Recipe, task: Segmentation, views: int, seed: int = 0
) -> PointVotes:
    """Mean of the class probabilities of every point over the scene as it is and its views under the training's random
    changes, without crops and mixing.

    Raises InputError where these changes leave every scene as it is, and for classes that are parts of objects.
    """
    turned = replace(recipe, crop=None, seed=seed)
    if recipe.scene_changes is not None:
        turned = replace(turned, scene_changes=replace(recipe.scene_changes, mix=0.0))
    if turned.changing == turned.steady and turned.scene_changes is None:
        raise InputError("voting needs views that differ: data.augmentation must be set")
    if task.parts:
        raise InputError("voting is for scenes; parts of objects are scored by the rule of their dataset")
    first, classes = next(network.parameters()), len(samples.classes)
    total = Confusion(np.zeros((classes, classes), dtype=np.int64))
    for number in range(len(samples)):
        where, scene = origin(samples, number), samples[number]
        seen: torch.Tensor | float = 0.0
        for view in range(views):
            cloud: Cloud = prepare(scene, where, turned, view or None, number)
            voxels, (rows,) = to_voxels_and_rows([cloud], turned, [where])
            with torch.no_grad():
                given = voxels.to(first.dtype).to(first.device)
                none = torch.empty(0, dtype=torch.int64)
                said = tiles.say(network.embed, given, none, task.budget, task.overlap)
            seen = seen + said.probabilities[rows]
        assert isinstance(seen, torch.Tensor) and scene.labels is not None
        total += Confusion.of(scene.labels, seen.argmax(1).numpy(), classes)
    return PointVotes(views, total)
