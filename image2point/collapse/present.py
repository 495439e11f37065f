"""The classes that some statistics have samples of: what the metrics are made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from image2point.collapse.inputs import LARGEST, StatisticsError, as_float64, as_tensor, check_matrix
from image2point.collapse.statistics import Statistics

RANK_CUTOFF = 1e-6


@dataclass(frozen=True)
class PresentClasses:
    """The present classes of some statistics, float64, in the notation of `collapse.metrics`."""

    statistics: Statistics
    index: Tensor  # [C] their indices among all classes
    count: Tensor  # [C]
    means: Tensor  # [C, d]
    centred: Tensor  # M [C, d]
    squares: Tensor  # [C] Σ‖h−μ_c‖²
    weight: Tensor | None  # W [C, d]

    @classmethod
    def of(cls, S: Statistics, classifier: tuple[Any, Any | None] | None) -> PresentClasses:
        index = S.present
        if len(index) < 2:
            raise StatisticsError(
                f"collapse is a relation between classes: expected samples of at least 2 of the "
                f"{S.num_classes} classes, found {len(index)} ({int(S.count.sum())} samples)"
            )
        means = S.mean[index]
        if 0 < (largest := float(means.abs().max())) < 1 / LARGEST:  # fourth powers would be 0
            raise StatisticsError(
                f"features: expected class means of {1 / LARGEST:g} or more (scale them) or all 0, found {largest:g}"
            )
        weight = None if classifier is None else _classifier_weight(S, classifier)[index]
        return cls(S, index, S.count[index], means, *without_rounding(means, S.squares[index], S.count[index]), weight)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def varying(self) -> PresentClasses | None:
        """The classes with two samples or more alone; None where there are fewer than two of them."""
        several = self.count > 1
        if several.all():
            return self
        if several.sum() < 2:
            return None
        means = self.means[several]
        weight = None if self.weight is None else self.weight[several]
        count = self.count[several]
        centred = without_rounding(means, self.squares[several], count)
        return PresentClasses(self.statistics, self.index[several], count, means, *centred, weight)

    @cached_property
    def unbiased(self) -> Tensor:
        """v_c = Var_c n_c/(n_c − 1) [C]; NaN for a class of one sample."""
        return self.squares / (self.count - 1)

    @property
    def bias(self) -> Tensor:
        """v_c / n_c [C]: the variance of each mean."""
        return self.unbiased / self.count

    @property
    def noise(self) -> Tensor:
        """ν: what the noise of the class means adds to tr Σ_B on average."""
        return (1 - 1 / len(self)) * self.bias.mean()

    @property
    def scatter(self) -> Tensor:
        """Σ(h−μ_c)(h−μ_c)ᵀ [d, d] over all samples; a class of one sample adds nothing."""
        scatter = self.statistics.scatter
        assert scatter is not None
        return scatter if scatter.ndim == 2 else scatter.sum(0)

    @cached_property
    def between(self) -> tuple[Tensor, Tensor]:
        return between_classes(self.means)


def without_rounding(means: Tensor, squares: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """M and Σ‖h−μ_c‖², both 0 where they are rounding: features that are all the same differ from nothing."""
    centred = means - means.mean(0)
    if centred.norm() > rounding(means):
        return centred, squares
    return torch.zeros_like(means), squares.where(squares > count * rounding(means) ** 2, 0.0)


def _classifier_weight(S: Statistics, classifier: tuple[Any, Any | None]) -> Tensor:
    weight = check_matrix(classifier[0], "classifier weight", str(S.num_classes), S.dim)
    bias = None if classifier[1] is None else as_tensor(classifier[1], "classifier bias")
    if len(weight) != S.num_classes or (bias is not None and bias.shape != (S.num_classes,)):
        raise StatisticsError(
            f"classifier: expected a weight [{S.num_classes}, {S.dim}] and a bias [{S.num_classes}] or None, "
            f"found {list(weight.shape)} and {None if bias is None else list(bias.shape)}"
        )
    return as_float64(weight, S.device)


def between_classes(means: Tensor) -> tuple[Tensor, Tensor]:
    """The singular values of the centred means that count [k], and their right singular vectors [k, d].

    >>> lengths, directions = between_classes(torch.tensor([[5.0, 1.0], [5.0, 3.0]], dtype=torch.float64))
    >>> lengths.tolist(), directions.abs().round(decimals=12).tolist()
    ([1.4142135623730951], [[0.0, 1.0]])
    """
    _, s, directions = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    kept = (s > RANK_CUTOFF * s[0]) & (s > rounding(means))
    return s[kept], directions[kept]


def rounding(means: Tensor) -> Tensor:
    """Of uncentred means [C, d]: what differs by no more may be equal."""
    return max(means.shape) * torch.finfo(torch.float64).eps * means.norm()
