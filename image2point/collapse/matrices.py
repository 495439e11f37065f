"""Class-distance normalised variance pair by pair, where the mean alone would hide which classes are close."""

from __future__ import annotations

import torch
from torch import Tensor

from image2point.collapse.inputs import StatisticsError
from image2point.collapse.pairs import pair_distances
from image2point.collapse.present import without_rounding
from image2point.collapse.statistics import Statistics

FORMS = ("symmetric", "asymmetric", "corrected", "directional")


@torch.no_grad()
def distance_matrix(S: Statistics) -> Tensor:
    """‖μ_i−μ_j‖ of all pairs [C, C] float64; 0 on the diagonal, NaN where a class has no samples.

    >>> distance_matrix(Statistics(2, 1).update([[0.0], [3.0]], [0, 1])).tolist()
    [[0.0, 3.0], [3.0, 0.0]]
    """
    present = S.present
    means = S.mean[present]
    among = S.mean.new_zeros(len(present), len(present))
    centred, _ = without_rounding(means, S.squares[present], S.count[present])
    for i, j, squared in pair_distances(centred):
        among[i, j] = among[j, i] = squared.clamp(min=0).sqrt()
    distances = S.mean.new_full((S.num_classes, S.num_classes), torch.nan)
    distances[present[:, None], present] = among
    return distances


@torch.no_grad()
def cdnv_matrix(S: Statistics, form: str = "symmetric") -> Tensor:
    """CDNV of all pairs [C, C] float64; NaN on the diagonal and where a class has fewer than two samples.

    - "symmetric": (Var_i + Var_j) / (2‖μ_i−μ_j‖²), the form of 2021;
    - "asymmetric": Var_i / ‖μ_i−μ_j‖² in row i, column j;
    - "corrected": the symmetric form, corrected for the number of samples (see `metrics`); NaN where the
      corrected squared distance is not positive;
    - "directional": uᵀΣ_i u / ‖μ_i−μ_j‖² in row i, column j; needs covariance="class" (`DirectionalSpread`
      computes it in a second pass without).

    StatisticsError for another form, and where the covariance is missing. Sources as of `metrics`.

    >>> S = Statistics(2, 1).update([[0.0], [2.0], [3.0], [5.0]], [0, 0, 1, 1])
    >>> round(float(cdnv_matrix(S)[0, 1]), 4), round(float(cdnv_matrix(S, "corrected")[0, 1]), 4)
    (0.1111, 0.2857)
    """
    if form not in FORMS:
        raise StatisticsError(f"form: expected one of {', '.join(FORMS)}, found {form!r}")
    squared = distance_matrix(S).square()
    present, squares = S.present, S.squares.clone()
    _, squares[present] = without_rounding(S.mean[present], squares[present], S.count[present])
    variance = squares / S.count  # NaN for a class without samples
    if form == "symmetric":
        matrix = (variance[:, None] + variance) / (2 * squared)
    elif form == "asymmetric":
        matrix = variance[:, None] / squared
    elif form == "corrected":
        unbiased = squares / (S.count - 1)
        bias = unbiased / S.count
        squared = squared - bias[:, None] - bias
        matrix = (unbiased[:, None] + unbiased) / (2 * squared)
        matrix[~(squared > 0)] = torch.nan
    else:
        if S.covariance != "class" or S.scatter is None:
            raise StatisticsError(
                'form "directional": needs Statistics(..., covariance="class") or the second pass of '
                f"DirectionalSpread; found covariance={S.covariance!r}"
            )
        matrix = torch.empty_like(squared)
        for i in range(S.num_classes):
            delta = S.mean[i] - S.mean
            matrix[i] = ((delta @ S.scatter[i]) * delta).sum(1) / S.count[i] / squared[i].square()
        matrix[squared == 0] = torch.nan
    few = S.count < 2
    return matrix.masked_fill_(few[:, None] | few, torch.nan).fill_diagonal_(torch.nan)
