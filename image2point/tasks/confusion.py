"""One confusion matrix over a whole set, and the scores that follow from it.

Sources: Everingham et al. 2010 (PASCAL VOC) for intersection over union. What papers and codes do with a class that is
in neither truth nor prediction differs (0, 1 or left out), and moves the mean by whole points; so both honest means are
given here, and the class itself has no value.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from image2point.datasets.cloud import IGNORED
from image2point.errors import InputError

Share = float | None
"""A number in 0..1; None where it is undefined."""


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often each class was taken for each.

    counts: int64 [C, C]; row: true class, column: predicted class. Only the truth can leave a point out: a point whose
    label is ignored is not counted, whatever was predicted, and no prediction is ever dropped.
    ignored: how many points that were.

    >>> seen = Confusion.of(np.array([0, 0, 1, -1]), np.array([0, 1, 1, 0]), classes=3)
    >>> seen.iou, seen.miou, seen.miou_all
    ((0.5, 0.5, None), 0.5, 0.3333333333333333)
    """

    counts: np.ndarray
    ignored: int = 0

    @classmethod
    def of(cls, labels: np.ndarray, predictions: np.ndarray, classes: int) -> Confusion:
        """Of true and predicted classes, int64 [n] each.

        Raises InputError where they differ in length, a label is neither a class nor ignored, or a prediction is none.
        """
        labels, predictions = np.asarray(labels), np.asarray(predictions)
        if labels.shape != predictions.shape or labels.ndim != 1:
            raise InputError(
                f"expected a prediction for each label, found labels {list(labels.shape)} and predictions "
                f"{list(predictions.shape)}"
            )
        known = labels != IGNORED
        labels, predictions = labels[known].astype(np.int64), predictions[known].astype(np.int64)
        for name, values in (("labels", labels), ("predictions", predictions)):
            if len(values) and not 0 <= values.min() <= values.max() < classes:
                raise InputError(f"expected {name} in 0..{classes - 1}, found {values.min()} to {values.max()}")
        counts = np.bincount(labels * classes + predictions, minlength=classes * classes)
        return cls(counts.reshape(classes, classes), int(len(known) - known.sum()))

    def __add__(self, other: Confusion) -> Confusion:
        """Both together: of the scenes of a set, of the processes of a run."""
        return Confusion(self.counts + other.counts, self.ignored + other.ignored)

    @property
    def total(self) -> int:
        """Points that count."""
        return int(self.counts.sum())

    @property
    def support(self) -> np.ndarray:
        """Points of each true class, int64 [C]."""
        return self.counts.sum(1)

    @cached_property
    def iou(self) -> tuple[Share, ...]:
        """Per class, true positives / (truth or prediction); None for a class that is in neither."""
        hits = np.diagonal(self.counts)
        return _ratios(hits, self.support + self.counts.sum(0) - hits)

    @cached_property
    def recall(self) -> tuple[Share, ...]:
        """Per class, the share of its points that were found; None for a class without points."""
        return _ratios(np.diagonal(self.counts), self.support)

    def pairs(self, most: int) -> tuple[tuple[int, int, int], ...]:
        """The classes that are taken for others most often: (true, predicted, how many), at most so many of them.

        >>> Confusion(np.array([[5, 2, 0], [3, 4, 0], [0, 1, 0]])).pairs(most=2)
        ((1, 0, 3), (0, 1, 2))
        """
        wrong = self.counts - np.diag(np.diagonal(self.counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        places = zip(*(place.tolist() for place in np.unravel_index(order, wrong.shape)), strict=True)
        return tuple((true, predicted, n) for true, predicted in places if (n := int(wrong[true, predicted])))

    @property
    def miou(self) -> Share:
        """Mean IoU over the classes that are in truth or prediction."""
        return _mean(self.iou)

    @property
    def miou_all(self) -> Share:
        """Mean IoU over all classes, those in neither counted as 0."""
        return _mean([share or 0.0 for share in self.iou]) if self.total else None

    @property
    def accuracy(self) -> Share:
        """Share of points that are right."""
        return int(np.diagonal(self.counts).sum()) / self.total if self.total else None

    @property
    def mean_accuracy(self) -> Share:
        """Mean of `recall` over the classes that have points."""
        return _mean(self.recall)


def _ratios(hits: np.ndarray, of: np.ndarray) -> tuple[Share, ...]:
    return tuple(int(h) / int(n) if n else None for h, n in zip(hits, of, strict=True))


def _mean(shares: tuple[Share, ...] | list[float]) -> Share:
    known = [share for share in shares if share is not None]
    return float(np.mean(known)) if known else None
