"""The metrics of collapse as a torchmetrics metric: states that Lightning moves, resets and gathers by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics import Metric

from image2point.collapse.metrics import metrics
from image2point.collapse.statistics import Statistics


class CollapseMetric(Metric):
    """`metrics` of the features given to `update`, over all batches and all processes.

    The states are the tensors of `Statistics` in float64 (`.half()` and `.float()` leave them so). They do not add
    up by a sum or a mean: each process's are gathered and merged in `compute`, which returns a dict of floats.
    `compute` needs two classes; use `update` rather than `forward`, whose value would be that of one batch.

    Arguments as those of `Statistics` and `metrics`; the others are torchmetrics' own.
    """

    full_state_update = True
    is_differentiable = False

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(
        self,
        num_classes: int,
        dim: int,
        covariance: str = "pooled",
        classifier: tuple[Any, Any | None] | None = None,
        ask: str | Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.classifier, self.ask = classifier, ask
        empty = Statistics(num_classes, dim, covariance).state()
        self._names = tuple(empty)
        for name, tensor in empty.items():
            self.add_state(name, tensor, dist_reduce_fx=None)  # gathered over processes by stacking

    def update(self, features: Any, labels: Any) -> None:
        """Add features [n, d] and labels [n]; StatisticsError as from `Statistics.update`."""
        Statistics.sharing({name: getattr(self, name) for name in self._names}).update(features, labels)

    def compute(self) -> dict[str, float]:
        """All measures, over all processes."""
        return metrics(self.statistics(), self.classifier, self.ask)

    def statistics(self) -> Statistics:
        """What was seen so far, as `Statistics` of its own."""
        state = {name: getattr(self, name) for name in self._names}
        parts = [state]
        if self.count.ndim == 2:  # one row per process
            parts = [dict(zip(state, each, strict=True)) for each in zip(*state.values(), strict=True)]
        device = state["count"].device
        merged = Statistics.from_state(parts[0], device)
        for part in parts[1:]:
            merged = merged.merge(Statistics.from_state(part, device))
        return merged
