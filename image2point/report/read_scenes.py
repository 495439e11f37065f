"""What a segmentation leaves for its report: scenes with the labels of their points, and its confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from image2point.errors import InputError
from image2point.tasks.confusion import Confusion


@dataclass(frozen=True, eq=False)
class Scene:
    """Some points of a test scene: float32 [n, 3], with labels (−1: ignored) and predictions int64 [n].

    number: of the scene in the test set.
    """

    number: int
    points: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray

    @property
    def accuracy(self) -> float | None:
        """Share of the labelled points that are right; None where there are none."""
        known = self.labels >= 0
        return float((self.labels == self.predictions)[known].mean()) if known.any() else None


def scenes_of(stored: Mapping[str, np.ndarray], path: Path, classes: int) -> tuple[Scene, ...]:
    """The scenes of examples.npz, as `Segmentation.examples` makes them; InputError where they do not fit together."""
    names = ("points", "labels", "predictions", "scene", "ends")
    if missing := [name for name in names if name not in stored]:
        raise InputError(f"{path}: expected arrays {', '.join(names)}; {missing[0]} is missing")
    points, labels, predictions, scene, ends = (np.asarray(stored[name]) for name in names)
    count = len(points)
    bounds = np.concatenate([[0], ends]) if ends.ndim == 1 else np.array([0, -1])
    fits = points.shape == (count, 3) and labels.shape == predictions.shape == (count,) and scene.shape == ends.shape
    if not (fits and bounds[-1] == count and (np.diff(bounds) >= 0).all()):
        raise InputError(
            f"{path}: expected points [n, 3], labels [n], predictions [n] and ends up to n, found {points.shape}, "
            f"{labels.shape}, {predictions.shape} and {ends.tolist()!s:.60}"
        )
    if not np.isfinite(points).all():
        raise InputError(f"{path}: points hold NaN or infinite values")
    if any(((each < low) | (each >= classes)).any() for each, low in ((labels, -1), (predictions, 0))):
        raise InputError(f"{path}: labels and predictions must lie in 0…{classes - 1} (summary.json lists the classes)")
    return tuple(
        Scene(
            int(number), points[a:b].astype(np.float32), labels[a:b].astype(np.int64), predictions[a:b].astype(np.int64)
        )
        for number, a, b in zip(scene, bounds[:-1], bounds[1:], strict=True)
    )


def point_counts(path: Path, final: Mapping[str, Any], classes: Sequence[str]) -> Confusion | None:
    """The confusion matrix under `final.points` of summary.json; None of a run that has none."""
    if "points" not in final:
        return None
    try:
        confusion = np.array(final["points"]["confusion"])
        ignored = int(final["points"]["ignored"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: field final.points: expected a confusion matrix and the ignored points; {error}"
        ) from None
    if confusion.shape != (len(classes), len(classes)) or confusion.dtype.kind not in "iu" or (confusion < 0).any():
        raise InputError(
            f"{path}: field final.points.confusion: expected {len(classes)} × {len(classes)} counts, found "
            f"{confusion.dtype} {confusion.shape}"
        )
    return Confusion(confusion.astype(np.int64), ignored)
