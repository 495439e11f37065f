"""The metrics of neural collapse, as pure functions of `Statistics`.

Notation: class c has n_c samples, mean μ_c, variance Var_c = E‖h−μ_c‖² (1/n_c); N samples in all. Absent
classes are left out everywhere: C counts the classes present, μ_G is the mean of their means, M [C, d] holds
μ_c − μ_G, Σ_W = (1/N) Σ (h−μ_c)(h−μ_c)ᵀ and Σ_B = (1/C) MᵀM. W [C, d] are the classifier's rows of the present
classes, not centred.

A single sample has no variance. Everything that speaks of variability (nc1 and cdnv in all forms, between_rank) looks
only at the classes with two samples or more, as if the others were absent, and is NaN where there are fewer than two of
those; `contributing` counts them. With two classes, nc2 of the means is NaN: two centred means are opposite and of one
length, whatever the features.

| name | value | needs |
|---|---|---|
| samples, present, absent, singletons | N, and the number of classes with any, no, and one sample | |
| contributing | the number of classes with two samples or more | |
| nc1, nc1_raw | tr(Σ_W Σ_B†)/C and tr(Σ_W Σ_B†); NaN if all means coincide | pooled |
| between_rank | the number of directions that Σ_B† kept | pooled |
| nc1_trace_ratio | tr Σ_W / tr Σ_B: at layer l, the compression C_l of progressive collapse | |
| discrimination | D_l = 1 − max over pairs of cos(μ_i, μ_j), the means not centred | |
| cdnv | mean over unordered pairs of (Var_i + Var_j) / (2‖μ_i−μ_j‖²) | |
| cdnv_asymmetric | mean over ordered pairs of Var_i / ‖μ_i−μ_j‖²: pairs differ, the mean equals cdnv | |
| cdnv_corrected | cdnv with v_c = Var_c n_c/(n_c−1) and ‖μ_i−μ_j‖² − v_i/n_i − v_j/n_j | |
| cdnv_corrected_undefined | the number of unordered pairs that have no such value | |
| cdnv_directional | mean over ordered pairs of uᵀΣ_i u / ‖μ_i−μ_j‖², u the direction of μ_i−μ_j | class |
| min_class_distance | Λ = min over pairs of ‖μ_i−μ_j‖ | |
| rank_nuclear | ‖H‖_*² / ‖H‖_F², H [N, d] all features, not centred | pooled |
| rank_95 | the least r such that the r largest singular values of H sum to 95 % of ‖H‖_* | pooled |
| vci | 1 − tr(T†B)/rank B, T = Σ (h−μ)(h−μ)ᵀ, B = Σ n_c (μ_c−μ)(μ_c−μ)ᵀ, μ the mean of all | pooled, asked |
| vci_corrected | vci over its mean for random labels, 1 − rank T (C−1)/((N−1) rank B) | pooled, asked |
| nc1_shrunk | nc1 with Σ_W N/(N−C), Σ_B's eigenvalues less ν/between_rank each | pooled, asked |
| nc1_trace_ratio_corrected | Σ_c (n_c/N) v_c / (tr Σ_B − ν) | asked |
| cdnv_median | 1 / the median over pairs of 1 / corrected CDNV, an undefined pair's CDNV being infinite | asked |
| nc1_trace_ratio_inverse, cdnv_median_inverse | 1 over these, defined below 0 too | asked |
| nc2_equinorm | std_c‖M_c‖ / mean_c‖M_c‖ (std with 1/C) | |
| nc2_equiangle | mean over pairs of abs(cos(M_i, M_j) + 1/(C−1)) | |
| nc2_etf | ‖G/‖G‖_F − (I − 11ᵀ/C)/√(C−1)‖_F, G = MMᵀ | |
| nc2_w_equinorm, nc2_w_equiangle, nc2_w_etf | the same of W | classifier |
| nc3 | ‖W/‖W‖_F − M/‖M‖_F‖_F² | classifier |

Of an even number of pairs, `cdnv_median` averages the two middle inverses, not the two middle values.

A pair is undefined for `cdnv_corrected` if its corrected squared distance is not positive or one of its
classes has a single sample. Where two contributing classes are such a pair, so is the mean (NaN): the pairs that it
would leave out are the least separated ones.

ν = (1 − 1/C) mean_c v_c/n_c is what the noise of the class means adds to tr Σ_B on average. The corrected forms are
undefined (NaN) where nothing of Σ_B is left: where ν, or its share in some direction, is as large. VCI is undefined
where features tell any labels apart: rank T ≥ N − 1, as it is for N ≤ d + 1 samples. What is marked "asked" is computed
only when named in `ask`.

Coinciding class means make cdnv infinite, be it all of them up to rounding (max(C, d) ε ‖means‖_F); so variances of
that size are 0 then. A metric that is 0/0 for some class or pair is NaN.

Σ_B†: the thin singular value decomposition M = U S Vᵀ (no d×d eigenproblem) gives tr(Σ_W Σ_B†)/C =
Σ_k v_kᵀ Σ_W v_k / s_k². A direction is kept if s_k > 1e-6 s_1 (1e-12 of the largest eigenvalue of Σ_B) and
s_k > max(C, d) ε ‖means‖_F, ε = 2⁻⁵² (the rounding that the uncentred means carry; s_C is of that size).

The singular values of H are the square roots of the eigenvalues of HᵀH = N Σ_W + Σ n_c μ_c μ_cᵀ; eigenvalues
below d ε times the largest are rounding and count as 0, hence singular values below √(d ε) of the largest.

Sources: Papyan, Han and Donoho 2020 (NC1–NC4; a std with 1/(C−1), torch's default, makes equinorm √(C/(C−1))
times as large); Zhu et al. 2021 (NC1/C, ETF error); Galanti, György and Hutter 2022 (CDNV);
Wang et al. 2023 (C_l, D_l); Xu and Liu 2023 (VCI, for balanced classes; its correction is that of an adjusted R²).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from image2point.collapse.inputs import StatisticsError, row_blocks
from image2point.collapse.pairs import pair_cosines, pair_distances
from image2point.collapse.present import PresentClasses
from image2point.collapse.statistics import Statistics


@torch.no_grad()
def metrics(
    S: Statistics,
    classifier: tuple[Any, Any | None] | None = None,
    ask: str | Sequence[str] | None = None,
) -> dict[str, float]:
    """Every metric that `S` supports, or only those in `ask`; the module's table defines them. NaN is undefined.

    `classifier` is (weight [num_classes, d], bias [num_classes] or None), as `nn.Linear` holds them. NC2 and
    NC3 look at the weight alone; the bias matters to NC4, which is in `CentreDecisions`.

    StatisticsError: fewer than two classes have samples; their means are so small that fourth powers would be 0; the
    classifier does not fit; a name in `ask` is unknown or needs a covariance option or a classifier that was not given.

    >>> S = Statistics(2, 1).update([[0.0], [2.0], [3.0], [5.0]], [0, 0, 1, 1])
    >>> {name: round(value, 4) for name, value in metrics(S, ask=["nc1", "cdnv", "cdnv_corrected"]).items()}
    {'nc1': 0.2222, 'cdnv': 0.1111, 'cdnv_corrected': 0.2857}
    >>> metrics(Statistics(2, 1).update([[0.0], [3.0]], [0, 1]), ask="cdnv")
    {'cdnv': nan}
    """
    wanted = _wanted(ask)
    available = {"nothing"}
    if S.covariance != "none":
        available.add("pooled")
    if S.covariance == "class":
        available.add("class")
    if classifier is not None:
        available.add("classifier")

    classes = PresentClasses.of(S, classifier)
    varying = classes.varying
    found: dict[str, float] = {}
    for group in GROUPS:
        asked = [name for name in group.names if name in wanted or (ask is None and not group.when_asked)]
        if not asked:
            continue
        if group.needs in available:
            subject = varying if group.of_varying else classes
            values = dict.fromkeys(asked, math.nan) if subject is None else group.compute(subject)
            found.update((name, float(values[name])) for name in asked)
        elif ask is not None:
            raise StatisticsError(
                f"{', '.join(asked)}: needs {REMEDY[group.needs]}; found covariance={S.covariance!r}"
                f"{'' if classifier is not None else ' and no classifier'}"
            )
    return found


def _wanted(ask: str | Sequence[str] | None) -> set[str]:
    wanted = set() if ask is None else {ask} if isinstance(ask, str) else set(ask)
    known = [name for group in GROUPS for name in group.names]
    unknown = sorted(wanted - set(known))
    if unknown:
        raise StatisticsError(f"unknown metric {', '.join(unknown)}; known: {', '.join(known)}")
    return wanted


def _counts(classes: PresentClasses) -> dict[str, Any]:
    return {
        "samples": classes.count.sum(),
        "present": len(classes),
        "absent": classes.statistics.num_classes - len(classes),
        "singletons": (classes.count == 1).sum(),
        "contributing": (classes.count > 1).sum(),
    }


def _nc1(classes: PresentClasses) -> dict[str, Any]:
    within = classes.scatter / classes.count.sum()
    s, directions = classes.between
    nc1 = ((directions @ within * directions).sum(1) / s.square()).sum() if len(s) else torch.nan
    return {"nc1": nc1, "nc1_raw": nc1 * len(classes), "between_rank": len(s)}


def _nc1_shrunk(classes: PresentClasses) -> dict[str, Any]:
    within = classes.scatter / (classes.count.sum() - len(classes))
    s, directions = classes.between
    left = (s.square() - len(classes) * classes.noise / max(1, len(s))) / len(classes)
    value = ((directions @ within * directions).sum(1) / left).sum() / len(classes)
    return {"nc1_shrunk": value if len(s) and bool((left > 0).all()) else torch.nan}


def _vci(classes: PresentClasses) -> dict[str, Any]:
    count = classes.count.double()
    centred = classes.means - (count[:, None] * classes.means).sum(0) / count.sum()
    weighted = count.sqrt()[:, None] * centred
    total = classes.scatter + weighted.mT @ weighted
    values, vectors = torch.linalg.eigh(total)
    kept = values > len(values) * torch.finfo(torch.float64).eps * values[-1]
    rank, freedom, between = int(kept.sum()), int(count.sum()) - 1, len(classes.between[0])
    if rank >= freedom or between == 0:
        return {"vci": torch.nan, "vci_corrected": torch.nan}
    explained = ((weighted @ vectors[:, kept]).square() / values[kept]).sum()
    vci = 1 - explained / between
    return {"vci": vci, "vci_corrected": vci / (1 - rank * (len(classes) - 1) / (freedom * between))}


def _trace_ratio_corrected(classes: PresentClasses) -> dict[str, Any]:
    within = (classes.count * classes.unbiased).sum() / classes.count.sum()
    inverse = (classes.centred.square().sum() / len(classes) - classes.noise) / within
    return {"nc1_trace_ratio_inverse": inverse, "nc1_trace_ratio_corrected": _reciprocal(inverse)}


def _cdnv_median(classes: PresentClasses) -> dict[str, Any]:
    unbiased, bias = classes.unbiased, classes.bias
    each = torch.cat(
        [
            2 * (squared - bias[i] - bias[j]) / (unbiased[i] + unbiased[j])
            for i, j, squared in pair_distances(classes.centred)
        ]
    )
    middle = each.sort().values[[(len(each) - 1) // 2, len(each) // 2]].mean()
    return {"cdnv_median_inverse": middle, "cdnv_median": _reciprocal(middle)}


def _reciprocal(inverse: Tensor) -> Tensor:
    return (1 / inverse).where(inverse > 0, torch.nan)


def _trace_ratio(classes: PresentClasses) -> dict[str, Any]:
    within = classes.squares.sum() / classes.count.sum()
    return {"nc1_trace_ratio": within / (classes.centred.square().sum() / len(classes))}


def _discrimination(classes: PresentClasses) -> dict[str, Any]:
    largest = torch.stack([cosines.max() for cosines in pair_cosines(classes.means) if len(cosines)]).max()
    return {"discrimination": 1 - largest}


def _ranks(classes: PresentClasses) -> dict[str, Any]:
    means = classes.means
    gram = classes.scatter + (means * classes.count[:, None]).mT @ means
    squared = torch.linalg.eigvalsh(gram).flip(0)
    rounding = len(squared) * torch.finfo(torch.float64).eps * squared[0]
    s = squared.where(squared > rounding, 0.0).sqrt()
    share = s.cumsum(0) / s.sum()  # NaN if all features are zero
    rank_95 = (share < 0.95 * (1 - 1e-9)).sum() + 1  # equal singular values must not hang on rounding
    return {"rank_nuclear": s.sum().square() / s.square().sum(), "rank_95": rank_95 if s[0] > 0 else torch.nan}


def _cdnv(classes: PresentClasses) -> dict[str, Any]:
    """Sums and minima over all unordered pairs of classes, gathered in one sweep."""
    several = classes.count > 1
    variance = (classes.squares / classes.count).where(several, torch.nan)
    unbiased, bias = classes.unbiased, classes.bias
    zero = classes.squares.new_zeros(())
    cdnv, corrected, undefined = zero, zero, zero
    nearest = zero + torch.inf
    for i, j, squared in pair_distances(classes.centred):
        if len(squared) == 0:
            continue
        nearest = torch.minimum(nearest, squared.min())
        cdnv = cdnv + ((variance[i] + variance[j]) / (2 * squared))[several[i] & several[j]].sum()
        distance = squared - bias[i] - bias[j]
        defined = distance > 0  # False where a class of one sample made it NaN
        corrected = corrected + ((unbiased[i] + unbiased[j]) / (2 * distance))[defined].sum()
        undefined = undefined + (~defined).sum()
    total, among = math.comb(len(classes), 2), math.comb(int(several.sum()), 2)
    cdnv = cdnv / among  # 0/0 = NaN where there is no pair
    return {
        "cdnv": cdnv,
        "cdnv_asymmetric": cdnv,
        "cdnv_corrected": corrected / among if undefined == total - among else zero + torch.nan,
        "cdnv_corrected_undefined": undefined,
        "min_class_distance": nearest.sqrt(),
    }


def _directional(classes: PresentClasses) -> dict[str, Any]:
    scatter = classes.statistics.scatter
    assert scatter is not None
    total = classes.squares.new_zeros(())
    C, M = len(classes), classes.centred
    for start, block in row_blocks(M, max(C, M.shape[1]) * M.shape[1]):
        here = slice(start, start + len(block))
        delta = block[:, None, :] - M  # [b, C, d]
        spread = ((delta @ scatter[classes.index[here]]) * delta).sum(2) / classes.count[here, None]
        ratio = spread / delta.square().sum(2).square()
        own = torch.arange(len(block), device=M.device)
        ratio[own, start + own] = 0.0
        total = total + ratio.sum()
    return {"cdnv_directional": total / (C * (C - 1))}


def _nc2(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(equinorm, equiangle, ETF error) of rows [C, d]."""
    C = len(rows)
    norms = rows.norm(dim=1)
    angles = sum(((cosines + 1 / (C - 1)).abs().sum() for cosines in pair_cosines(rows)), rows.new_zeros(()))
    # ‖AAᵀ‖_F = ‖AᵀA‖_F: the smaller of the two.
    size = (rows @ rows.mT if rows.shape[1] >= C else rows.mT @ rows).norm()
    error = rows.new_zeros(())
    for start, block in row_blocks(rows, C):
        difference = block @ rows.mT / size + 1 / (C * math.sqrt(C - 1))
        difference.diagonal(start).sub_(1 / math.sqrt(C - 1))
        error = error + difference.square().sum()
    return norms.std(correction=0) / norms.mean(), angles / (C * (C - 1) / 2), error.sqrt()


def _nc2_means(classes: PresentClasses) -> dict[str, Any]:
    if len(classes) == 2:
        return dict.fromkeys(("nc2_equinorm", "nc2_equiangle", "nc2_etf"), math.nan)
    return dict(zip(("nc2_equinorm", "nc2_equiangle", "nc2_etf"), _nc2(classes.centred), strict=True))


def _nc2_classifier(classes: PresentClasses) -> dict[str, Any]:
    assert classes.weight is not None
    return dict(zip(("nc2_w_equinorm", "nc2_w_equiangle", "nc2_w_etf"), _nc2(classes.weight), strict=True))


def _nc3(classes: PresentClasses) -> dict[str, Any]:
    assert classes.weight is not None
    weight, means = classes.weight, classes.centred
    return {"nc3": (weight / weight.norm() - means / means.norm()).square().sum()}


class Group(NamedTuple):
    """What computes which metrics, what it needs (a key of REMEDY or "nothing"), and of which classes it speaks."""

    compute: Callable[[PresentClasses], dict[str, Any]]
    needs: str
    names: tuple[str, ...]
    of_varying: bool = False
    """Of the classes with two samples or more alone."""
    when_asked: bool = False
    """Only where `ask` names one of them."""


PAIRS = ("cdnv", "cdnv_asymmetric", "cdnv_corrected", "cdnv_corrected_undefined", "min_class_distance")
TRACE_RATIO = ("nc1_trace_ratio_corrected", "nc1_trace_ratio_inverse")
MEDIAN = ("cdnv_median", "cdnv_median_inverse")
GROUPS = (
    Group(_counts, "nothing", ("samples", "present", "absent", "singletons", "contributing")),
    Group(_nc1, "pooled", ("nc1", "nc1_raw", "between_rank"), of_varying=True),
    Group(_trace_ratio, "nothing", ("nc1_trace_ratio",), of_varying=True),
    Group(_discrimination, "nothing", ("discrimination",)),
    Group(_cdnv, "nothing", PAIRS),
    Group(_directional, "class", ("cdnv_directional",), of_varying=True),
    Group(_ranks, "pooled", ("rank_nuclear", "rank_95")),
    Group(_nc2_means, "nothing", ("nc2_equinorm", "nc2_equiangle", "nc2_etf")),
    Group(_nc2_classifier, "classifier", ("nc2_w_equinorm", "nc2_w_equiangle", "nc2_w_etf")),
    Group(_nc3, "classifier", ("nc3",)),
    Group(_vci, "pooled", ("vci", "vci_corrected"), of_varying=True, when_asked=True),
    Group(_nc1_shrunk, "pooled", ("nc1_shrunk",), of_varying=True, when_asked=True),
    Group(_trace_ratio_corrected, "nothing", TRACE_RATIO, of_varying=True, when_asked=True),
    Group(_cdnv_median, "nothing", MEDIAN, of_varying=True, when_asked=True),
)

REMEDY = {
    "pooled": 'Statistics(..., covariance="pooled") or "class"',
    "class": 'Statistics(..., covariance="class")',
    "classifier": "classifier=(weight, bias)",
}
