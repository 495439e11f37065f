"""Classification: one class per cloud, or per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from image2point.datasets import Cloud, Splits
from image2point.datasets.class_split import Labelled
from image2point.errors import InputError
from image2point.networks.interface import Network
from image2point.tasks.confusion import Confusion
from image2point.tasks.predictions import CloudAnswer
from image2point.tasks.task import Gather

if TYPE_CHECKING:
    from image2point.config import Config, Pretrain


@dataclass(frozen=True)
class ClassOutputs:
    """What the network says in eval mode, without augmentation.

    features [m, p] and own_labels [m] belong to the clouds of this process; logits float64 [n, classes] and
    labels int64 [n] to all clouds of the set, in its order, on every process. start: number of the first own cloud.
    """

    features: Tensor
    own_labels: Tensor
    logits: Tensor
    labels: Tensor
    start: int = 0

    @property
    def own_logits(self) -> Tensor:
        return self.logits[self.start : self.start + len(self.own_labels)]


@dataclass(frozen=True)
class ClassScores:
    """Accuracies are shares in 0..1; `per_class` has one per class, None where the set has no cloud of it."""

    loss: float
    accuracy: float
    mean_class_accuracy: float
    per_class: tuple[float | None, ...]

    @property
    def columns(self) -> dict[str, float]:
        return {"loss": self.loss, "accuracy": self.accuracy}

    @property
    def order(self) -> tuple[float, float]:
        return self.accuracy, -self.loss


@dataclass(frozen=True)
class ClassPrediction:
    """The most probable classes of one file, best first; or why there are none."""

    file: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    problem: str = ""


class Classification:
    """Cross-entropy over the class scores of each cloud."""

    name = "classification"
    columns = ("loss", "accuracy")
    headline = "accuracy"
    of_points = False

    def for_run(self, config: Config | Pretrain, splits: Splits) -> Classification:
        """Raises InputError where the classes are those of points."""
        if getattr(splits.train, "of_points", False):
            raise InputError(f"{splits.train.name} has a class for every point, not for a cloud; set task=segmentation")
        return self

    def for_scoring(self, config: Config, samples: Labelled) -> Classification:
        return self

    def check(self, voxels: Any) -> None:
        """Every cloud will do."""

    def targets(self, samples: Sequence[Any], labels: Sequence[int], rows: object = None) -> Tensor:
        """The labels, int64 [n]; or what a teacher says of the classes, float32 [n, classes]."""
        return torch.as_tensor(np.asarray(labels))

    def count(self, targets: Tensor) -> int:
        return len(targets)

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of class scores [n, classes], summed over the clouds."""
        targets = targets.to(outputs.dtype) if targets.is_floating_point() else targets
        return F.cross_entropy(outputs, targets, reduction="sum", label_smoothing=label_smoothing)

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == (targets.argmax(1) if targets.is_floating_point() else targets)).sum()

    def answer(self, network: Network, batch: Any) -> tuple[Tensor, Tensor]:
        """Features [n, p] and class scores [n, classes]."""
        features, logits = network.embed(batch.voxels)
        return features.cpu(), logits.cpu()

    def join(
        self, network: Network, answers: Sequence[tuple[Tensor, Tensor]], samples: Labelled, gather: Gather, rank: int
    ) -> ClassOutputs:
        width = network.linear_classifier()[0].shape[1]
        empty = torch.empty(0, width), torch.empty(0, len(samples.classes))
        features, logits = (torch.cat(parts) for parts in zip(*(answers or [empty]), strict=True))
        shares = gather(logits.double())
        start = sum(len(share) for share in shares[:rank])
        labels = torch.as_tensor(samples.labels)
        return ClassOutputs(features, labels[start : start + len(features)], torch.cat(shares), labels, start)

    def scores(self, outputs: ClassOutputs) -> ClassScores:
        """Cross-entropy without label smoothing, accuracy, and accuracy per class."""
        loss = F.cross_entropy(outputs.logits, outputs.labels).item()
        correct = (outputs.logits.argmax(1) == outputs.labels).double()
        classes = outputs.logits.shape[1]
        count = torch.bincount(outputs.labels, minlength=classes)
        hits = torch.bincount(outputs.labels, weights=correct, minlength=classes)
        per_class = [float(h / n) if n else None for h, n in zip(hits, count, strict=True)]
        present = [share for share in per_class if share is not None]
        return ClassScores(loss, correct.mean().item(), float(np.mean(present)), tuple(per_class))

    def confusion(self, outputs: ClassOutputs) -> Confusion:
        """Over the clouds of the set."""
        return Confusion.of(outputs.labels.numpy(), outputs.logits.argmax(1).numpy(), outputs.logits.shape[1])

    def answers(self, outputs: ClassOutputs, names: Sequence[str]) -> tuple[CloudAnswer, ...]:
        shares, best = outputs.logits.softmax(1).tolist(), outputs.logits.argmax(1).tolist()
        return tuple(
            CloudAnswer(name, true, predicted, row[predicted], row[true])
            for name, true, predicted, row in zip(names, outputs.labels.tolist(), best, shares, strict=True)
        )

    def final(
        self,
        test: ClassScores,
        train: ClassScores | None,
        validation: tuple[float, ...] | None,
        classes: Sequence[str],
    ) -> dict[str, Any]:
        return {
            "test_accuracy": test.accuracy,
            "test_mean_class_accuracy": test.mean_class_accuracy,
            "test_loss": test.loss,
            "train_accuracy": train.accuracy if train else None,
            "validation_accuracy": validation[0] if validation else None,
            "per_class": dict(zip(classes, test.per_class, strict=True)),
        }

    def examples(
        self, clouds: Sequence[Cloud], rows: np.ndarray, outputs: ClassOutputs, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """points float32 [n, P, 3], cut to the smallest cloud, with labels and predictions int64 [n]."""
        size = min((len(cloud) for cloud in clouds), default=0)
        points = [cloud.points[np.sort(rng.permutation(len(cloud))[:size])] for cloud in clouds]
        return {
            "points": np.array(points, dtype=np.float32).reshape(len(points), size, 3),
            "labels": outputs.labels.numpy()[rows],
            "predictions": outputs.logits.argmax(1).numpy()[rows],
        }

    def prediction(self, file: str, scores: Tensor, classes: Sequence[str], top: int = 5) -> ClassPrediction:
        """The `top` most probable classes, from the class scores [classes] of a cloud."""
        share = scores.double().softmax(0)
        best = share.argsort(descending=True)[:top].tolist()
        return ClassPrediction(file, tuple(classes[i] for i in best), tuple(float(share[i]) for i in best))

    def statement(self, final: Mapping[str, Any]) -> str:
        mean = final["test_mean_class_accuracy"]
        return f"test accuracy {100 * final['test_accuracy']:.2f} % (mean over classes {100 * mean:.2f} %)"
