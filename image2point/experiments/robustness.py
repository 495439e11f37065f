"""What becomes of a network's accuracy on damaged and on turned clouds, and what voting over several views adds.

None of these numbers is the test accuracy of a run; each is reported by its own name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from image2point.datasets.class_split import Labelled
from image2point.datasets.cloud import Cloud
from image2point.datasets.corruptions import CORRUPTIONS, SEVERITIES, corrupt, turn_at_random
from image2point.datasets.recipe import Recipe
from image2point.datasets.splits import origin
from image2point.datasets.transforms import Augmentation, augment, rng_for
from image2point.datasets.validate import check_cloud
from image2point.errors import InputError
from image2point.tasks.classification import Classification, ClassOutputs, ClassScores


@dataclass(frozen=True)
class Asked:
    """corruptions: by name, each in five severities; rotations: how often all clouds are turned at random; votes: views
    per cloud; seed: of all of these."""

    corruptions: tuple[str, ...] = ()
    rotations: int = 0
    votes: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.corruptions if name not in CORRUPTIONS]
        if unknown:
            raise InputError(f"there is no corruption {unknown[0]!r}; there are {', '.join(CORRUPTIONS)}, or all")
        if self.votes == 1:
            raise InputError("votes = 1 is the plain accuracy; voting needs at least 2 views")


@dataclass(frozen=True)
class Robustness:
    """Scores by corruption (one for each severity, 1 to 5), by rotation, and of the vote."""

    corrupted: dict[str, tuple[ClassScores, ...]] = field(default_factory=dict)
    rotated: tuple[ClassScores, ...] = ()
    voted: ClassScores | None = None
    votes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values; accuracies in 0..1."""
        return asdict(self)

    def lines(self, clean: float) -> list[str]:
        """The numbers for a terminal, beside the accuracy on clean clouds."""
        found = []
        if self.corrupted:
            found.append(
                f"{'corruption':12} {'clean':>7} " + " ".join(f"{level:>7}" for level in SEVERITIES) + "    mean"
            )
            for name, levels in self.corrupted.items():
                shares = [clean, *(each.accuracy for each in levels)]
                mean = float(np.mean(shares[1:]))
                found.append(f"{name:12} " + " ".join(f"{100 * share:7.2f}" for share in (*shares, mean)))
            errors = [1 - each.accuracy for levels in self.corrupted.values() for each in levels]
            found.append(f"mean error over corruptions and severities: {100 * np.mean(errors):.2f} %")
        if self.rotated:
            shares = [each.accuracy for each in self.rotated]
            spread = f" ± {100 * np.std(shares, ddof=1):.2f}" if len(shares) > 1 else ""
            found.append(
                f"SO(3): {100 * np.mean(shares):.2f}{spread} % over {len(shares)} random rotations of every cloud"
            )
        if self.voted is not None:
            found.append(f"voting: {100 * self.voted.accuracy:.2f} % with {self.votes} views of every cloud")
        return found


class Changed:
    """The clouds of `whole`, each changed on the way out; labels and order stay."""

    def __init__(self, whole: Labelled, change: Callable[[Cloud, int], Cloud], what: str) -> None:
        self.whole, self.change = whole, change
        self.name, self.classes, self.labels = f"{whole.name} ({what})", whole.classes, whole.labels

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Cloud:
        return self.change(check_cloud(self.whole[index], origin(self.whole, index)), index)

    def origin(self, index: int) -> str:
        return origin(self.whole, index)


def measure_robustness(
    outputs: Callable[[Labelled], ClassOutputs], clouds: Labelled, plain: ClassOutputs, recipe: Recipe, asked: Asked
) -> Robustness:
    """Everything that was asked for. outputs: scores a set; plain: the outputs of `clouds` as they are."""
    score = Classification().scores
    corrupted = {
        kind: tuple(
            score(outputs(Changed(clouds, partial(_corrupt, kind, severity, asked.seed), f"{kind} {severity}")))
            for severity in SEVERITIES
        )
        for kind in asked.corruptions
    }
    rotated = tuple(
        score(outputs(Changed(clouds, partial(_turn, (asked.seed << 16) + number), f"rotation {number}")))
        for number in range(asked.rotations)
    )
    voted = _vote(outputs, clouds, plain, recipe, asked) if asked.votes else None
    return Robustness(corrupted, rotated, voted, asked.votes)


def _vote(
    outputs: Callable[[Labelled], ClassOutputs], clouds: Labelled, plain: ClassOutputs, recipe: Recipe, asked: Asked
) -> ClassScores:
    """Mean of the class probabilities over the cloud as it is and its views under the training's augmentation."""
    if recipe.changing == Augmentation():
        raise InputError("voting needs views that differ: data.augmentation or data.points must be set")
    views = [plain.logits.log_softmax(1)]
    for view in range(1, asked.votes):
        changed = Changed(clouds, partial(_augment, recipe.changing, asked.seed, view), f"view {view}")
        views.append(outputs(changed).logits.log_softmax(1))
    return Classification().scores(replace(plain, logits=torch.stack(views).logsumexp(0) - np.log(len(views))))


def _corrupt(kind: str, severity: int, seed: int, cloud: Cloud, index: int) -> Cloud:
    return corrupt(cloud, kind, severity, seed, index)


def _turn(seed: int, cloud: Cloud, index: int) -> Cloud:
    return turn_at_random(cloud, seed, index)


def _augment(spec: Augmentation, seed: int, view: int, cloud: Cloud, index: int) -> Cloud:
    return augment(cloud, spec, rng_for(seed, view, index))
