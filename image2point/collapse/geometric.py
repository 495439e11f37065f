"""Geometric collapse: what the geometric complexity of the classes (`complexity.py`) says about collapse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from image2point.collapse.inputs import StatisticsError, check_labels
from image2point.collapse.matrices import distance_matrix
from image2point.collapse.statistics import Statistics


@dataclass(frozen=True)
class GeometricCollapse:
    """Geometric collapse beside CDNV, and what relates them; all are means over unordered pairs of classes.

    Under a Poincaré inequality with constant c for the input law of each class, Var_f ≤ c·GC, so that
    CDNV ≤ c · ratio. No such constant is known for data: what stands here are diagnostics, not certificates.

    - `ratio`: (GC_i + GC_j) / (2‖μ_i−μ_j‖²), geometric collapse. Unlike GC it does not change with the scale of the
      features; it changes with that of the inputs, as 1/scale² (`Complexity.normalised` sets that). The distances are
      not corrected for the number of samples: with few, they are too large and it reads too low;
    - `cdnv`: the 2021 form;
    - `diagnostic_poincare`: cdnv / ratio, the constant at which this f would meet the inequality: no valid constant
      can be smaller (but for the sampling of both);
    - `diagnostic_bound`: the mean of (c_i GC_i + c_j GC_j) / (2‖μ_i−μ_j‖²) with c_i the largest eigenvalue of the
      class covariance of the inputs, which a valid constant cannot be below either; None where that is not given.
      `cdnv` above it shows that the constants are larger than those eigenvalues.

    Source: Munn et al. 2024.
    """

    ratio: float
    cdnv: float
    diagnostic_poincare: float
    diagnostic_bound: float | None


def geometric_collapse(S: Statistics, complexity: Tensor, input_eigenvalues: Tensor | None = None) -> GeometricCollapse:
    """From statistics of embeddings, their GC per class [C] (`Complexity.of_classes`) and perhaps λ_max [C].

    Embeddings and GC must come from the same f with the same input units, `input_eigenvalues` (see
    `largest_variance`) from inputs in those units. Classes of fewer than two samples are left out.

    >>> S = Statistics(2, 1).update([[0.0], [2.0], [9.0], [11.0]], [0, 0, 1, 1])
    >>> found = geometric_collapse(S, torch.tensor([1.0, 1.0]))
    >>> round(found.ratio, 4) == round(found.cdnv, 4) == round(1 / 81, 4)
    True
    """
    present = (S.count > 1).nonzero()[:, 0]
    for name, given in (("complexity", complexity), ("input_eigenvalues", input_eigenvalues)):
        if given is not None and (given.shape != (S.num_classes,) or not torch.isfinite(given[present.cpu()]).all()):
            raise StatisticsError(
                f"{name}: expected [{S.num_classes}] numbers, finite for each class of two samples or more, found "
                f"{list(given.shape)}: {given.tolist()}"
            )
    if len(present) < 2:
        raise StatisticsError(f"expected 2 classes of at least 2 samples, found {len(present)} of {len(S.present)}")
    squared = distance_matrix(S)[present][:, present].square().cpu()
    first, second = torch.triu_indices(len(present), len(present), offset=1)
    of_pair = squared[first, second]

    def mean(values: Tensor) -> float:
        values = values.detach().double().cpu()[present.cpu()]
        return float(((values[first] + values[second]) / (2 * of_pair)).mean())

    ratio, cdnv = mean(complexity), mean(S.variances)
    bound = None if input_eigenvalues is None else mean(complexity.cpu() * input_eigenvalues.cpu())
    return GeometricCollapse(ratio, cdnv, cdnv / ratio if ratio > 0 else torch.nan, bound)


@torch.no_grad()
def largest_variance(inputs: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """λ_max(Cov(x | class)) [C] of inputs [n, ...] flattened, by the Gram matrix of each class; NaN below two samples.

    From n_c samples it is an estimate, and for n_c − 1 below the input's dimension usually too large.

    >>> largest_variance(torch.tensor([[0.0, 0.0], [0.0, 4.0], [1.0, 1.0]]), torch.tensor([0, 0, 1]), 2).tolist()
    [4.0, nan]
    """
    labels = check_labels(labels, len(inputs), num_classes)
    found = torch.full((num_classes,), torch.nan, dtype=torch.float64)
    for c in labels.unique().tolist():
        x = inputs[labels.to(inputs.device) == c].flatten(1).double()
        if len(x) < 2:
            continue
        x = x - x.mean(0)
        gram = x @ x.mT if len(x) <= x.shape[1] else x.mT @ x
        found[c] = torch.linalg.eigvalsh(gram)[-1].clamp(min=0) / len(x)
    return found
