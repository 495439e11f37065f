"""ShapeNetPart's own scores: mean IoU over the parts of each shape, averaged over shapes and over categories.

Source: Yi et al. 2016, "A Scalable Active Framework for Region Annotation in 3D Shape Collections"; Qi et al. 2017
(PointNet), section 5.1. The category of a shape is given: only its own parts can be predicted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from image2point.datasets.cloud import IGNORED


def part_predictions(scores: np.ndarray, parts: Sequence[int]) -> np.ndarray:
    """The best of the parts of the true category at each point: of scores [P, C], int64 [P].

    >>> part_predictions(np.array([[9.0, 1.0, 2.0]]), parts=(1, 2))
    array([2])
    """
    own = np.asarray(parts, dtype=np.int64)
    return own[scores[:, own].argmax(1)]


def shape_iou(labels: np.ndarray, predictions: np.ndarray, parts: Sequence[int]) -> float | None:
    """Mean IoU of one shape over all parts of its category; a part in neither truth nor prediction counts as 1.

    Points whose label is ignored are left out; None where that leaves none.

    >>> shape_iou(np.array([4, 4, 5]), np.array([4, 5, 5]), parts=(4, 5, 6))
    0.6666666666666666
    """
    known = labels != IGNORED
    if not known.any():
        return None
    labels, predictions = labels[known], predictions[known]
    shares = []
    for part in parts:
        true, said = labels == part, predictions == part
        either = int((true | said).sum())
        shares.append(int((true & said).sum()) / either if either else 1.0)
    return float(np.mean(shares))


def part_means(ious: Sequence[float | None], categories: Sequence[int]) -> tuple[float | None, float | None]:
    """(instance, category) mean: over all shapes, and over the categories that occur of the means over their shapes.

    >>> part_means([1.0, 0.5, 0.0], categories=[0, 0, 3])
    (0.5, 0.375)
    """
    known = [(iou, category) for iou, category in zip(ious, categories, strict=True) if iou is not None]
    if not known:
        return None, None
    by_category: dict[int, list[float]] = {}
    for iou, category in known:
        by_category.setdefault(category, []).append(iou)
    return float(np.mean([iou for iou, _ in known])), float(np.mean([np.mean(own) for own in by_category.values()]))
