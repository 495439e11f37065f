"""Collapse where classes are of very unequal size, as those of points are: each class alone, and what counts imply.

With balanced classes, cross-entropy ends in a simplex frame. With unequal ones and features that are not negative (a
ReLU before the classifier), class means become orthogonal, with lengths that the counts set, and the smallest classes
may shrink to nothing (Dang et al., ICML 2024). Means are *not* centred there, and centred in a simplex frame.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from image2point.collapse.geometry import centred_cosines
from image2point.collapse.inputs import StatisticsError, as_tensor
from image2point.collapse.metrics import metrics
from image2point.collapse.present import between_classes
from image2point.collapse.statistics import Statistics


@torch.no_grad()
def class_nc1(S: Statistics) -> Tensor:
    """NC1 of each class alone, tr(Σ_c Σ_B†)/C, float64 [num_classes]; NaN for a class of fewer than two samples.

    Σ_c is the covariance of class c (1/n_c), C and Σ_B are those of `metrics`: of the classes with two samples or more,
    each counted once. The mean weighted by the samples of each class is `nc1`. Like it, it is biased at few samples:
    compare classes at equal numbers (`draw_rows`), and beside the null.

    StatisticsError without covariance="class", or with fewer than two such classes. Source: NC1 of Papyan, Han and
    Donoho 2020, class by class.

    >>> S = Statistics(2, 1, "class").update([[0.0], [2.0], [3.0], [9.0]], [0, 0, 1, 1])
    >>> [round(value, 4) for value in class_nc1(S).tolist()], round(metrics(S, ask="nc1")["nc1"], 4)
    ([0.08, 0.72], 0.4)
    """
    if S.covariance != "class" or S.scatter is None:
        raise StatisticsError(f'class_nc1: needs Statistics(..., covariance="class"), found {S.covariance!r}')
    several = (S.count > 1).nonzero()[:, 0]
    if len(several) < 2:
        raise StatisticsError(f"class_nc1: expected two samples or more of at least 2 classes, found {len(several)}")
    means = S.mean[several]
    lengths, directions = between_classes(means)
    found = S.mean.new_full((S.num_classes,), torch.nan)
    if len(lengths):
        spread = ((directions @ S.scatter[several]) * directions).sum(2) / S.count[several, None]
        found[several] = (spread / lengths.square()).sum(1)
    return found


@torch.no_grad()
def implied_lengths(counts: Any, decay: float = 0.0) -> Tensor:
    """Lengths of the class means that class counts imply, float64 [C], the longest being 1.

    In the model of unconstrained non-negative features h and classifier rows w that minimise cross-entropy, the mean
    over samples, + λ_W/2 ‖W‖² + λ_H/2 ‖H‖², the mean of class c has ‖μ_c‖² ∝ m_c/√n_c with the margin
    m_c = log((C−1)(√(C n_c / ((C−1) N² λ_W λ_H)) − 1)), and is zero where that is not positive. The limit of no decay
    is ‖μ_c‖ ∝ n_c^(−1/4): the rarer a class, the longer.

    Args:
        counts: samples that each class had in training, [C], C ≥ 2; 0 for a class without any, whose length is NaN.
        decay: λ_W λ_H.

    Raises:
        StatisticsError: on other counts, a negative decay, or one so large that every class shrinks to nothing.

    >>> implied_lengths([1600, 100, 100]).tolist()
    [0.5, 1.0, 1.0]
    >>> implied_lengths([1600, 100, 10], decay=3e-6).tolist()[2]
    0.0
    """
    given = as_tensor(counts, "counts")
    there = given > 0
    number, total = int(there.sum()), float(given.sum())
    if given.ndim != 1 or number < 2 or bool((given < 0).any()):
        raise StatisticsError(
            f"counts: expected the samples of each class, of 2 classes or more, found {given.tolist()}"
        )
    if not (decay >= 0 and math.isfinite(decay)):
        raise StatisticsError(f"decay: expected λ_W λ_H, 0 or more, found {decay}")
    count = given.double()
    margin = torch.ones_like(count)
    if decay:
        inner = (number * count / ((number - 1) * total**2 * decay)).sqrt() - 1
        margin = ((number - 1) * inner.clamp(min=1 / (number - 1))).log()
    squares = margin / count.sqrt()
    if not bool((squares[there] > 0).any()):
        raise StatisticsError(f"decay: with {decay:g}, no class is left of counts {given.tolist()}")
    return (squares / squares[there].max()).sqrt().where(there, torch.nan)


@torch.no_grad()
def closest_means(means: Tensor, among: Any = None) -> tuple[float, int, int]:
    """The largest cosine between two class means, centred by the mean of all of them, and the two classes.

    `means` [C, d], a row of NaN being a class without samples; `among`: only pairs of these classes (the minority
    classes, say), as their indices or a mask [C]. 1 where two have merged, −1/(C−1) in a simplex frame. (NaN, −1, −1)
    where there is no pair. StatisticsError for other means and other `among`.

    >>> means = torch.tensor([[4.0, 0.0], [0.0, 1.0], [0.0, 1.1]])
    >>> value, first, second = closest_means(means)
    >>> round(value, 3), first, second
    (0.998, 1, 2)
    """
    if means.ndim != 2 or means.numel() == 0:
        raise StatisticsError(f"means: expected [C, d] of 1 class or more, found {list(means.shape)}")
    cosines = centred_cosines(means).fill_diagonal_(torch.nan)
    chosen = torch.zeros(len(cosines), dtype=torch.bool, device=cosines.device)
    chosen[slice(None) if among is None else _classes(among, len(cosines)).to(cosines.device)] = True
    cosines = cosines.where(chosen[:, None] & chosen, torch.nan).nan_to_num(-torch.inf)
    place = int(cosines.argmax())
    first, second = divmod(place, len(cosines))
    value = float(cosines[first, second])
    return (value, first, second) if math.isfinite(value) else (math.nan, -1, -1)


def _classes(among: Any, number: int) -> Tensor:
    """Indices of some of so many classes, int64, from indices or a mask."""
    given = as_tensor(among, "among")
    if given.numel() == 0:
        return given.new_zeros(0, dtype=torch.int64)
    if given.dtype == torch.bool and given.shape == (number,):
        return given.nonzero()[:, 0]
    whole = given.ndim == 1 and not given.is_floating_point() and given.dtype != torch.bool
    if not whole or given.min() < 0 or given.max() >= number:
        raise StatisticsError(
            f"among: expected indices of classes, 0..{number - 1}, or a mask [{number}] of them, found {given.tolist()}"
        )
    return given.long()


@torch.no_grad()
def minority(counts: Any) -> Tensor:
    """The classes with fewer samples than the average one, int64; of those that have any.

    >>> minority([1000, 40, 0, 60]).tolist()
    [1, 3]
    """
    given = as_tensor(counts, "counts").double()
    there = given > 0
    return (there & (given < given.sum() / there.sum())).nonzero()[:, 0]


@torch.no_grad()
def imbalanced_nc2(S: Statistics, counts: Any, decay: float = 0.0) -> dict[str, float]:
    """How class means lie against the geometry that counts imply, and against the simplex frame. NaN is undefined.

    - "nc2_orthogonal": ‖G/‖G‖_F − D/‖D‖_F‖_F, G the Gram matrix of the means, not centred, D the diagonal of the
      squared `implied_lengths`. 0 in that geometry, at most √2.
    - "nc2_orthogonal_equiangle": mean over pairs of the absolute cosine of the means, not centred: of any lengths.
    - "nc2_etf", "nc2_equiangle": of `metrics`, the same two for the simplex frame and centred means.
    - "minority_cosine": `closest_means` among the `minority` classes; undefined with fewer than two of these.

    Args:
        S: of the features; which samples it has seen does not matter to its means, only how many.
        counts: samples that each class had in training, [num_classes]; a class that `S` has seen has some.
        decay: see `implied_lengths`.

    Raises:
        StatisticsError: fewer than two classes have samples, or the counts do not fit.

    Source: Dang, Tran, Nguyen and Ho 2024.

    >>> S = Statistics(3, 3).update([[0.5, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [0, 1, 2])
    >>> found = imbalanced_nc2(S, [1600, 100, 100])
    >>> [round(found[name], 3) for name in ("nc2_orthogonal", "nc2_etf", "minority_cosine")]
    [0.0, 0.32, -0.714]
    """
    given = as_tensor(counts, "counts").to(S.device)
    if given.shape != (S.num_classes,) or bool((given[S.present] <= 0).any()):
        raise StatisticsError(
            f"counts: expected [{S.num_classes}], above 0 for every class with samples, found {given.tolist()}"
        )
    simplex = metrics(S, ask=["nc2_etf", "nc2_equiangle"])
    means = S.mean[S.present]
    gram = means @ means.mT
    target = implied_lengths(given, decay)[S.present].square().diag()
    unit = means / means.norm(dim=1, keepdim=True)
    first, second = torch.triu_indices(len(means), len(means), 1, device=S.device)
    return {
        "nc2_orthogonal": float((gram / gram.norm() - target / target.norm()).norm()),
        "nc2_orthogonal_equiangle": float((unit[first] * unit[second]).sum(1).abs().mean()),
        **simplex,
        "minority_cosine": closest_means(S.means, minority(given))[0],
    }
