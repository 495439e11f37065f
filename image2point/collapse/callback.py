"""Collapse during a training with Lightning's Trainer: measured on the validation batches, logged as any metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from image2point.collapse.inputs import StatisticsError
from image2point.collapse.torchmetric import CollapseMetric


class CollapseCallback(Callback):
    """Measures the features before a linear classifier in every validation, over all batches and all processes.

    The features are what goes into the classifier, seen by a hook while it validates. What is measured is logged as
    `collapse/nc1` and the like, so that loggers, checkpoints and early stopping can go by it.

    Args:
        classifier: name of the `nn.Linear` in the LightningModule, such as `net.fc`.
        labels: gives the labels [n] of a batch; None takes the second of its parts.
        ask: as in `metrics`; NC2 to NC4 of the classifier are those of its weight and bias.
        every: validations from one measurement to the next.

    Raises StatisticsError when training begins, where there is no such layer.

    >>> CollapseCallback("net.fc", ask=["nc1", "cdnv"]).every
    1
    """

    def __init__(
        self,
        classifier: str,
        labels: Callable[[Any], Tensor] | None = None,
        ask: str | Sequence[str] | None = None,
        every: int = 1,
    ) -> None:
        self.classifier, self.ask, self.every = classifier, ask, every
        self.labels = labels or (lambda batch: batch[1])
        self._metric: CollapseMetric | None = None
        self._seen: list[Tensor] = []
        self._validations = 0
        self._handle: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look for the classifier."""
        layer = dict(pl_module.named_modules()).get(self.classifier)
        if not isinstance(layer, nn.Linear):
            raise StatisticsError(
                f"CollapseCallback: expected the name of a torch.nn.Linear in {type(pl_module).__name__}, such as "
                f"net.fc, found {self.classifier!r}, which is {'nothing' if layer is None else type(layer).__name__}"
            )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to watch the classifier, where it is time to measure."""
        due = not trainer.sanity_checking and self._validations % self.every == 0
        self._validations += not trainer.sanity_checking
        if due:
            layer = self._layer(pl_module)
            self._metric = CollapseMetric(layer.out_features, layer.in_features, ask=self.ask).to(pl_module.device)
            self._handle = layer.register_forward_pre_hook(lambda _, given: self._seen.append(given[0].detach()))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Add the features of a batch."""
        if self._metric is not None:
            labels = self.labels(batch)
            seen, self._seen = torch.cat(self._seen) if self._seen else torch.empty(0), []
            if len(seen) != len(labels):
                raise StatisticsError(
                    f"CollapseCallback: {self.classifier} saw {len(seen)} rows of features in a validation step of "
                    f"{len(labels)} labels; it has to be called once for each batch"
                )
            self._metric.update(seen, labels)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what was measured."""
        if self._metric is None:
            return
        layer, metric = self._layer(pl_module), self._metric
        self._close()
        metric.classifier = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        values = {f"collapse/{name}": float(value) for name, value in metric.compute().items()}
        pl_module.log_dict(values, rank_zero_only=False, sync_dist=False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the classifier as it was."""
        self._close()

    def _layer(self, pl_module: LightningModule) -> nn.Linear:
        layer = pl_module.get_submodule(self.classifier)
        assert isinstance(layer, nn.Linear)
        return layer

    def _close(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._handle, self._metric, self._seen = None, None, []
