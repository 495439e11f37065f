"""The spread of each class towards each other class: a second pass, for when class covariances are too large.

The directional CDNV of classes i and j, uᵀΣ_i u / ‖μ_i−μ_j‖² with u the direction of μ_i − μ_j, looks at Σ_i only
along C−1 directions. Given the means, those are sums over samples: O(C² + C·d) memory instead of C·d².
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from image2point.collapse.inputs import (
    StatisticsError,
    as_float64,
    check_labels,
    check_matrix,
    check_means,
    row_blocks,
    same_means,
)
from image2point.collapse.present import rounding


class DirectionalSpread:
    """Σ over the samples h of class i of ((h−μ_i)·(μ_i−μ_j))², for all ordered pairs of classes.

    `means` [C, d] are the class means of the same features (`Statistics.means`; a row of NaN is a class without
    samples). With the means of other features, the spread is around those means.

    Source: Luthra, Salunkhe and Galanti 2026.
    """

    def __init__(self, means: Any, device: str | torch.device | None = None) -> None:
        self.means, self._present = check_means(means, "means", device)
        self.device = self.means.device
        self.count = torch.zeros(len(self.means), dtype=torch.int64, device=self.device)
        self.spread = self.means.new_zeros(len(self.means), len(self.means))

    @torch.no_grad()
    def update(self, features: Any, labels: Any) -> DirectionalSpread:
        """Add features [n, d] with labels [n], all of classes that have a mean. Returns self."""
        features = check_matrix(features, "features", "n", self.means.shape[1])
        labels = check_labels(labels, len(features), len(self.means)).to(self.device)
        strange = ~self._present[labels]
        if strange.any():
            row = int(strange.nonzero()[0])
            raise StatisticsError(f"labels: expected classes that have a mean, found {int(labels[row])} in row {row}")
        for start, block in row_blocks(features, max(self.means.shape)):
            own = labels[start : start + len(block)]
            residuals = as_float64(block, self.device) - self.means[own]
            towards = residuals @ self.means.mT
            towards = towards.gather(1, own[:, None]) - towards  # (h−μ_i)·(μ_i−μ_j)
            self.spread.index_add_(0, own, towards.square())
            self.count += torch.bincount(own, minlength=len(self.count))
        return self

    def merge(self, other: DirectionalSpread) -> DirectionalSpread:
        """Both sets of samples together; StatisticsError unless both used the same means (to 1e-9)."""
        if not same_means(self.means, other.means):
            raise StatisticsError("cannot merge spreads that were taken along different means")
        merged = DirectionalSpread(self.means)
        merged.count = self.count + other.count.to(self.device)
        merged.spread = self.spread + other.spread.to(self.device)
        return merged

    @property
    def matrix(self) -> Tensor:
        """Directional CDNV of ordered pairs [C, C]; NaN on the diagonal and for a class of fewer than two samples."""
        present = self.means[self._present]
        if (present - present.mean(0)).norm() <= rounding(present):  # as in `metrics`, such means count as equal
            return torch.full_like(self.spread, torch.nan)
        distance = torch.cdist(self.means, self.means, compute_mode="donot_use_mm_for_euclid_dist")
        ratio = self.spread / self.count[:, None] / distance.pow(4)
        few = self.count < 2
        return ratio.masked_fill_(few[:, None] | few, torch.nan).fill_diagonal_(torch.nan)

    @property
    def cdnv_directional(self) -> float:
        """Its mean over ordered pairs of classes with two samples or more.

        NaN where there is no such pair, and where a class that has a mean got no sample.
        """
        if int(self._present.sum()) < 2:
            raise StatisticsError(f"expected means of at least 2 classes, found {int(self._present.sum())}")
        if (self.count[self._present] == 0).any():
            return math.nan
        several = self.count > 1
        matrix = self.matrix[several][:, several]
        return float(matrix.fill_diagonal_(0.0).sum() / (len(matrix) * (len(matrix) - 1) or math.nan))
