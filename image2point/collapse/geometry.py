"""How class means lie to each other, and to the classifier's rows; and the plane in which they are seen best.

The simplex equiangular tight frame is what collapse ends in: C centred means of one length, and cosine −1/(C−1)
between any two of them (Papyan, Han and Donoho 2020, NC2). Classes without samples have NaN everywhere here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from image2point.collapse.inputs import StatisticsError


@torch.no_grad()
def simplex_cosines(classes: int) -> Tensor:
    """Cosines between the vectors of a simplex frame [C, C] float64: 1 on the diagonal, −1/(C−1) off it.

    >>> simplex_cosines(3)[0].tolist()
    [1.0, -0.5, -0.5]
    """
    if classes < 2:
        raise StatisticsError(f"a simplex frame needs at least 2 classes, found {classes}")
    return torch.full((classes, classes), -1 / (classes - 1), dtype=torch.float64).fill_diagonal_(1.0)


@torch.no_grad()
def centred_cosines(rows: Tensor, columns: Tensor | None = None) -> Tensor:
    """Cosines of centred `rows` [C, d] with centred `columns` [C, d] (or with themselves): [C, C] float64.

    Each set is centred by the mean of the classes that occur in both: a row of NaN stands for one that does not. The
    rows of a classifier are centred because a softmax does not see what all of them share. Of two classes the cosine is
    −1, whatever the features. StatisticsError where the two are no matrices of one shape. Source: NC2 of Papyan, Han
    and Donoho 2020.

    >>> centred_cosines(torch.tensor([[0.0, 1.0], [0.0, -1.0]])).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    other = rows if columns is None else columns
    if rows.ndim != 2 or other.shape != rows.shape:
        raise StatisticsError(f"expected two matrices [C, d], found {list(rows.shape)} and {list(other.shape)}")
    present = torch.isfinite(rows).all(1) & torch.isfinite(other).all(1)
    left, right = (_unit(matrix[present].double()) for matrix in (rows, other))
    cosines = torch.full((len(rows), len(rows)), torch.nan, dtype=torch.float64, device=rows.device)
    index = present.nonzero()[:, 0]
    cosines[index[:, None], index] = (left @ right.mT).clamp(-1, 1)
    return cosines


@torch.no_grad()
def decision_axes(means: Tensor) -> Tensor:
    """u_ij = (μ_j − μ_i)/‖μ_j − μ_i‖ of all pairs i < j of the classes that have a mean: [C(C−1)/2, d] float64.

    `means` [C, d], a row of NaN being a class without one; pairs in the order (0,1), (0,2), …, (1,2), …. NaN for a pair
    that coincides. StatisticsError below two means. Source: Luthra, Salunkhe and Galanti 2026.

    >>> decision_axes(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).tolist()
    [[0.6, 0.8]]
    """
    present = means[torch.isfinite(means).all(1)].double()
    if len(present) < 2:
        raise StatisticsError(f"decision axes need at least 2 classes with samples, found {len(present)}")
    first, second = torch.triu_indices(len(present), len(present), offset=1)
    between = present[second] - present[first]
    return between / between.norm(dim=1, keepdim=True)


@torch.no_grad()
def axis_cosines(first: Tensor, second: Tensor) -> Tensor:
    """|cos| between the decision axes of two labelings of the same features, [P, Q] float64.

    `first` [C, d] and `second` [K, d] are class means under either; rows and columns are pairs in the order of
    `decision_axes`. Near 0 where the tasks use directions of their own, as the axes of independent tasks must once
    both have small directional CDNV. Random directions have a mean of √(2/(π d)), and the noise of means from few
    samples adds to it where both are taken from the same samples: hold it against permuted labels.

    StatisticsError: widths differ, or a labeling has fewer than two classes. Source: Luthra, Salunkhe and Galanti 2026.

    >>> means = torch.eye(3)[:, :2]
    >>> axis_cosines(means[:2], means[1:]).tolist()[0][0]  # (1, 0) to (0, 1), and (0, 1) to (0, 0)
    0.7071067811865475
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise StatisticsError(f"expected means of one width, found {list(first.shape)} and {list(second.shape)}")
    return (decision_axes(first) @ decision_axes(second).mT).abs().clamp(max=1)


def _unit(rows: Tensor) -> Tensor:
    """Rows less their mean, of length 1; NaN for one that lies in the mean."""
    centred = rows - rows.mean(0)
    return centred / centred.norm(dim=1, keepdim=True)


@dataclass(frozen=True)
class Plane:
    """A plane in feature space: `origin` [d], and orthonormal `axes` [2, d], float64.

    `shares` [2]: of the variance between the class means, how much lies along each axis.
    """

    origin: Tensor
    axes: Tensor
    shares: Tensor

    @classmethod
    @torch.no_grad()
    def of_means(cls, means: Tensor) -> Plane:
        """The plane of the first two principal axes of class means [C, d], through their mean (PCA on C points).

        Deterministic: of the two directions of an axis, the one whose largest coordinate is positive. Where the means
        span less than a plane, the axes left over are zero.
        """
        present = means[torch.isfinite(means).all(1)].double()
        if len(present) < 2:
            raise StatisticsError(f"a plane of class means needs at least 2 classes with samples, found {len(present)}")
        origin = present.mean(0)
        _, lengths, directions = torch.linalg.svd(present - origin, full_matrices=False)
        spanned = lengths > lengths[0] * max(present.shape) * torch.finfo(torch.float64).eps
        axes, shares = directions.new_zeros(2, means.shape[1]), directions.new_zeros(2)
        kept = int(spanned[:2].sum())
        largest = directions[:kept].abs().argmax(1, keepdim=True)
        axes[:kept] = directions[:kept] * directions[:kept].gather(1, largest).sign()
        shares[:kept] = lengths[:kept].square() / lengths.square().sum()
        return cls(origin, axes, shares)

    @torch.no_grad()
    def project(self, features: Tensor) -> Tensor:
        """Coordinates [n, 2] float64 of features [n, d] of any floating type."""
        return (features.to(self.origin) - self.origin) @ self.axes.mT
