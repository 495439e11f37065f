"""What collapse says about the error of a nearest-mean classifier from few shots: predictions and five bounds.

Shots n are the labelled samples per class, ways k the classes to tell apart, V_ij = Var_i / ‖μ_i−μ_j‖² the
asymmetric CDNV (its mean over pairs is the CDNV), Ṽ_ij the directional one, p the dimension of the features. All are
about the true means and variances: from few samples, take `cdnv_corrected`.

A bound at or above 1 says nothing, and says so: `Bound.vacuous`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from image2point.collapse.inputs import StatisticsError, as_tensor
from image2point.collapse.matrices import distance_matrix
from image2point.collapse.statistics import Statistics

NODES = 64
"""Of the quadrature: enough for errors of a few parts in 10⁶."""


@dataclass(frozen=True)
class Bound:
    """An upper bound on an error rate (0..1)."""

    value: float

    @property
    def vacuous(self) -> bool:
        """No error rate is above 1, so that such a bound excludes nothing. True where it is undefined (NaN), too."""
        return not self.value < 1.0

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "undefined"
        return f"{self.value:.3g} (vacuous)" if self.vacuous else f"{self.value:.3g}"


def gaussian_error(cdnv: float, dim: float, shots: float = math.inf) -> float:
    """Error of 2-way nearest-mean classification of isotropic Gaussian classes with equal variance.

    Φ(−½ / √[(V/p)(1 + 1/n) + (2V²/(pn))(1 + 1/(2n))]), exactly Φ(−½ √(p/V)) for n → ∞. A prediction, not a bound:
    for n < ∞ it takes the noise of the two estimated means as Gaussian (within a few parts in a thousand of a
    simulation at p = 64). Features are rarely isotropic. With V the directional CDNV and dim = 1 it is, for n → ∞,
    the error of Gaussian classes with any covariance common to both.

    >>> round(gaussian_error(4.0, dim=64, shots=5), 4)
    0.1225
    """
    if not (cdnv >= 0 and dim > 0 and shots >= 1):
        raise StatisticsError(f"expected cdnv ≥ 0, dim > 0 and shots ≥ 1, found {cdnv}, {dim} and {shots}")
    spread = cdnv / dim * (1 + 1 / shots) + 2 * cdnv**2 / (dim * shots) * (1 + 1 / (2 * shots))
    return NormalDist().cdf(-0.5 / math.sqrt(spread)) if spread > 0 else 0.0


def galanti_bound(cdnv: float, ways: int, shots: float, spread_dimension: float = 1.0, constant: float = 16.0) -> Bound:
    """16 (k−1) (1/n + 1/s) E[V]: the form of Galanti, György and Hutter 2022.

    `cdnv` is the mean E[V] over pairs, `ways` k, `shots` n; s is 1 in general and p where each class is spherically
    symmetric about its mean. The constant 16 was found in no public text. For s = 1 the bound holds all the same, since
    it follows from `pairwise_bound`: the mean over pairs of 12 V_ij + (3/n)(V_ij + V_ji) is (12 + 6/n) E[V], and
    12 + 6/n ≤ 16 (1 + 1/n). For s = p nothing here proves it.

    >>> print(galanti_bound(0.001, ways=5, shots=5))
    0.0768
    """
    _check(cdnv, ways, shots)
    if not (spread_dimension > 0 and constant > 0):
        raise StatisticsError(
            f"expected a spread_dimension and a constant above 0, found {spread_dimension} and {constant}"
        )
    return Bound(constant * (ways - 1) * (1 / shots + 1 / spread_dimension) * cdnv)


def pairwise_bound(asymmetric: Any, shots: float, ways: int | None = None) -> Bound:
    """(k−1) times the mean over ordered pairs of min(1, 12 V_ij + (3/n)(V_ij + V_ji)); k defaults to C.

    Holds for any class laws, with the expectation over the shots, and over the choice of k of the C classes. With
    h of class i, and μ̂ the means of n shots, h is taken for j only if ‖h−μ̂_i‖ ≥ ‖h−μ̂_j‖, whence, by the triangle
    inequality, 2‖h−μ_i‖ + ‖μ̂_i−μ_i‖ + ‖μ̂_j−μ_j‖ ≥ ‖μ_i−μ_j‖; by Cauchy–Schwarz, 3(4‖h−μ_i‖² + ‖μ̂_i−μ_i‖² +
    ‖μ̂_j−μ_j‖²) ≥ ‖μ_i−μ_j‖²; and Markov's inequality bounds the probability of that. No probability exceeds 1.

    >>> print(pairwise_bound([[0.0, 0.01], [0.03, 0.0]], shots=6))
    0.26

    `asymmetric` [C, C]: `cdnv_matrix(S, "asymmetric")`; classes of fewer than two samples (NaN rows) are left out.
    """
    matrix = as_tensor(asymmetric, "asymmetric").double().cpu().clone()
    if matrix.ndim != 2 or len(matrix) != matrix.shape[1]:
        raise StatisticsError(f"asymmetric: expected a matrix [C, C] of pairs, found {list(matrix.shape)}")
    matrix.fill_diagonal_(0.0)
    present = ~(matrix.isnan().sum(1) == len(matrix) - 1)
    matrix = matrix[present][:, present]
    classes = len(matrix)
    ways = classes if ways is None else ways
    if not 2 <= ways <= classes:
        raise StatisticsError(
            f"ways: expected 2..{classes} of {classes} classes with two samples or more, found {ways}"
        )
    _check(float(matrix.min()), ways, shots)
    errors = (12 * matrix + 3 / shots * (matrix + matrix.mT)).clamp(max=1.0)
    return Bound((ways - 1) * float(errors.sum()) / (classes * (classes - 1)))


def moment_bound(S: Statistics, shots: float, ways: int | None = None) -> Bound:
    """(k−1) times the mean over ordered pairs of Var T / (Var T + (E T)²): Cantelli's inequality, k defaults to C.

    The margin of a sample h of class i against class j, T = ‖h−μ̂_j‖² − ‖h−μ̂_i‖² with μ̂ the means of n shots, has
    (x = h − μ_i, Δ = μ_i − μ_j, d = ‖Δ‖; s = E‖x‖²x and Q = E‖x‖⁴ the higher moments of a class)

        E T = d² + (Var_j − Var_i)/n,
        Var T = 4 ΔᵀΣ_iΔ + 4 tr Σ_i(Σ_i + Σ_j)/n + 4 ΔᵀΣ_jΔ/n − 4 Δ·s_j/n² + q_i + q_j,
        q = Var‖x̄‖² = (Q − Var²)/n³ + 2 (n−1) tr Σ²/n³,

    all of which are known, so that the bound holds for any class laws and any n, over shots drawn independently
    from them; 1 is taken where E T ≤ 0. For n → ∞ it is 4Ṽ/(1 + 4Ṽ), Ṽ the directional CDNV. Needs
    Statistics(..., covariance="class", moments=4).

    Source: a sharper form of `finite_shot_bound`, which bounds Var T in terms of Ṽ, V and E‖x‖⁴ and uses Chebyshev's
    inequality.

    >>> S = Statistics(2, 1, "class", moments=4).update([[0.0], [2.0], [31.0], [33.0]], [0, 0, 1, 1])
    >>> round(moment_bound(S, shots=10**9).value, 5)  # 4Ṽ/(1 + 4Ṽ), Ṽ = 1/31²
    0.00415
    """
    _check(0.0, 2 if ways is None else ways, shots)
    expected, spread = margins(S, shots)
    ways = _ways(ways, len(expected))
    errors = (spread / (spread + expected.square())).where(expected > 0, 1.0).fill_diagonal_(0.0)
    return Bound((ways - 1) * float(errors.sum()) / (len(expected) * (len(expected) - 1)))


def finite_shot_bound(S: Statistics, shots: float, ways: int | None = None) -> Bound:
    """(k−1) times the mean over ordered pairs of [4 Ṽ_ij + (√E¹ + √E² + √E³)²] / (1 + (v_j − v_i)/(n d²))².

    With v_i = Var_i, d = ‖μ_i−μ_j‖, V = (v_i + v_j)/d² (without the ½ of the CDNV), Ṽ_ij = uᵀΣ_i u/d² and
    Θ = (E‖h−μ_i‖⁴ + E‖h−μ_j‖⁴)/d⁴,

        E¹ = (4/n)(V² + V/4),   E² = V/n,   E³ = (Θ + 2(n−1)V²)/n³.

    A pair whose bracket is not positive (v_i ≥ v_j + n d²) counts as 1. For n → ∞ it is 4Ṽ. It holds for any n; in the
    authors' example it is below `directional_bound` from n = 10 on. `moment_bound` is never above it. Needs
    Statistics(..., covariance="class", moments=4); k defaults to C.

    Source: Luthra, Salunkhe and Galanti 2026 (arXiv 2603.03530), Theorem 4.1, as stated in the first author's group's
    account of it and as coded in their repository directional_cdnv_bounds.

    >>> S = Statistics(2, 1, "class", moments=4).update([[0.0], [2.0], [31.0], [33.0]], [0, 0, 1, 1])
    >>> print(finite_shot_bound(S, shots=10), moment_bound(S, shots=10))
    0.00501 0.00456
    """
    _check(0.0, 2 if ways is None else ways, shots)
    pairs, n = _Pairs.of(S), float(shots)
    ways = _ways(ways, len(pairs.variance))
    d2 = pairs.squared.fill_diagonal_(1.0)
    v, q = pairs.variance, pairs.fourth
    V, theta = (v[:, None] + v) / d2, (q[:, None] + q) / d2.square()
    parts = (4 / n * (V.square() + V / 4), V / n, theta / n**3 + 2 * (1 - 1 / n) / n**2 * V.square())
    remainder = torch.stack([part.sqrt() for part in parts]).sum(0).square()
    bracket = 1 + (v - v[:, None]) / (n * d2)
    errors = ((4 * pairs.along / d2.square() + remainder) / bracket.square()).where(bracket > 0, 1.0)
    return Bound((ways - 1) * float(errors.fill_diagonal_(0.0).sum()) / (len(v) * (len(v) - 1)))


def margin_error(S: Statistics, shots: float, ways: int | None = None) -> float:
    """Predicted error of the nearest mean of n shots among k classes, if margins are Gaussian: k defaults to C.

    The margin of a sample of class i against class j has the mean and variance of `margins`, m_ij = E T/√Var T, so
    that for k = 2 ways the error is the mean of Φ(−m_ij), whatever the covariances are. The margins against several
    classes share the sample and its class's mean: they are taken to correlate by ½, as they do for means in a simplex
    and isotropic classes, so that P(right) = E_Z (mean_j Φ(√2 m_ij + Z))^(k−1), Z standard normal, by Gauss–Hermite
    quadrature. A prediction, not a bound.

    >>> S = Statistics(2, 1, "class", moments=4).update([[0.0], [2.0], [3.0], [5.0]], [0, 0, 1, 1])
    >>> round(margin_error(S, shots=10**9), 3)  # Φ(−3/2)
    0.067
    """
    _check(0.0, 2 if ways is None else ways, shots)
    expected, spread = margins(S, shots)
    ways = _ways(ways, len(expected))
    others = ~torch.eye(len(expected), dtype=torch.bool, device=expected.device)
    ratio = (expected / spread.sqrt()).where(others, 0.0)
    nodes, weights = np.polynomial.hermite.hermgauss(NODES)
    right = expected.new_zeros(len(expected))
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        each = torch.special.ndtr(math.sqrt(2) * (ratio + node)).where(others, 0.0).sum(1) / (len(expected) - 1)
        right += weight / math.sqrt(math.pi) * each ** (ways - 1)
    return float(1 - right.mean())


def margins(S: Statistics, shots: float) -> tuple[Tensor, Tensor]:
    """E T and Var T of `moment_bound` [C, C] float64: of all ordered pairs of the C classes with several samples."""
    pairs, n = _Pairs.of(S), float(shots)
    variance, own = pairs.variance, pairs.products.diagonal()
    expected = pairs.squared + (variance - variance[:, None]) / n
    alone = (pairs.fourth - variance.square()) / n**3 + 2 * (1 - 1 / n) / n**2 * own
    spread = 4 * pairs.along + 4 * (own[:, None] + pairs.products) / n + 4 * pairs.along.mT / n - 4 * pairs.skew / n**2
    return expected, spread + alone[:, None] + alone


@dataclass(frozen=True)
class _Pairs:
    """Moments of the C classes of two samples or more, and of their ordered pairs (row i, column j), float64.

    `variance` E‖x‖² and `fourth` E‖x‖⁴ [C] (x = h − μ); [C, C] `squared` ‖μ_i−μ_j‖², `along` ΔᵀΣ_iΔ, `products`
    tr Σ_iΣ_j and `skew` Δ·s_j, s = E‖x‖²x.
    """

    variance: Tensor
    fourth: Tensor
    squared: Tensor
    along: Tensor
    products: Tensor
    skew: Tensor

    @classmethod
    def of(cls, S: Statistics) -> _Pairs:
        if S.scatter is None or S.cubes is None or S.fourths is None:
            raise StatisticsError(
                'margins: needs Statistics(..., covariance="class", moments=4); '
                f"found covariance={S.covariance!r}, moments={S.moments}"
            )
        several = (S.count > 1).nonzero()[:, 0]
        if len(several) < 2:
            raise StatisticsError(f"margins: expected 2 classes of at least 2 samples, found {len(several)}")
        count = S.count[several].double()
        third, scatter, means = S.cubes[several] / count[:, None], S.scatter[several], S.mean[several]
        along = torch.stack([((c - means) @ s * (c - means)).sum(1) for c, s in zip(means, scatter, strict=True)])
        return cls(
            S.squares[several] / count,
            S.fourths[several] / count,
            distance_matrix(S)[several][:, several].square(),
            along / count[:, None],
            scatter.flatten(1) @ scatter.flatten(1).mT / (count[:, None] * count),
            (means @ third.mT) - (means * third).sum(1),
        )


def _ways(ways: int | None, classes: int) -> int:
    chosen = classes if ways is None else ways
    if not 2 <= chosen <= classes:
        raise StatisticsError(
            f"ways: expected 2..{classes} of {classes} classes with two samples or more, found {chosen}"
        )
    return chosen


def directional_bound(directional: float, cdnv: float, shots: float, ways: int = 2) -> Bound:
    """(k−1) [(½ − 2/a − 2√2/(a n))⁻² Ṽ + (a/4)((2/√n)(√V + V) + V/n)], the least over a ≥ 5.

    `directional` is Ṽ = uᵀΣ_i u / d², `cdnv` is V = (Var_i + Var_j) / (2d²), the form of 2021 and of the authors' code,
    with which their published values come out; each a mean over pairs. The bracket must be positive, a > 4 + 4√2/n. The
    bound is convex in a; its least point is found from the slope.

    Source: Luthra, Yang and Galanti 2025, "Self-Supervised Contrastive Learning is Approximately Supervised Contrastive
    Learning", Proposition 1; the code and the values are those of their repository directional_cdnv_bounds.

    >>> round(directional_bound(0.0728605240583419, 1.672136664390564, shots=10).value, 6)  # the authors' MAE features
    5.666352
    """
    _check(min(cdnv, directional), ways, shots)
    reach = 2 + 2 * math.sqrt(2) / shots
    growth = ((2 / math.sqrt(shots)) * (math.sqrt(cdnv) + cdnv) + cdnv / shots) / 4

    def at(a: float) -> float:
        return (0.5 - reach / a) ** -2 * directional + a * growth

    def slope(a: float) -> float:
        return -2 * (0.5 - reach / a) ** -3 * reach / a**2 * directional + growth

    pole = 2 * reach
    low = max(5.0, pole * (1 + 1e-9))
    if directional == 0 or slope(low) >= 0:
        return Bound((ways - 1) * at(low))
    high = 2 * low
    while slope(high) < 0:
        if high > 1e12:  # V = 0: the bound falls for ever, towards 4 Ṽ
            return Bound((ways - 1) * 4 * directional)
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return Bound((ways - 1) * at(high))


def _check(smallest: float, ways: int, shots: float) -> None:
    if smallest < 0 or ways < 2 or not shots >= 1:  # an undefined (NaN) CDNV gives an undefined bound
        raise StatisticsError(f"expected CDNV ≥ 0, ways ≥ 2 and shots ≥ 1, found {smallest}, {ways} and {shots}")
