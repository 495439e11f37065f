"""Averages of weights over a training: what is scored, chosen and saved in place of the weights of the last step.

Buffers that no norm takes again from training clouds are those of the network (constants) or move as the weights do.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from image2point.config import Training
from image2point.networks.timm_import import load_timm


class Average(Protocol):
    """A moving average of the weights of a network."""

    def network(self) -> Any:
        """The network with the average; None while there is none."""
        ...

    def holder(self) -> Any:
        """The copy of the network that holds the average."""
        ...

    def after_step(self, network: Any, step: int) -> None:
        """Take in the weights after a step of the training, counted from 1."""
        ...

    def after_epoch(self, network: Any, epoch: int) -> None:
        """Take in the weights after an epoch, counted from 1. A second call for the same epoch changes nothing."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Its state, by name."""
        ...

    def restore(self, tensors: dict[str, Tensor]) -> None: ...


def average_of(network: Any, training: Training) -> Average | None:
    """The average that a config asks for."""
    if training.ema:
        return Moving(network, training.ema)
    return Stochastic(network, training.epochs - training.swa) if training.swa else None


class _Kept:
    """What holds a copy of the network as `model.module`."""

    model: Any

    def holder(self) -> Any:
        return self.model.module

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.model.load_state_dict(tensors)


class Moving(_Kept):
    """The exponential moving average over all steps, by timm, which lets it grow slower from a short memory to `decay`.

    After step t it is decay_t · average + (1 − decay_t) · weights, decay_t = min(decay, 1 − t^(−2/3)).

    >>> import torch
    >>> layer = torch.nn.Linear(1, 1, bias=False)
    >>> average = Moving(layer, 0.5)
    >>> for step, value in enumerate((1.0, 2.0, 4.0, 8.0), 1):
    ...     _ = torch.nn.init.constant_(layer.weight, value)
    ...     average.after_step(layer, step)
    >>> round(average.network().weight.item(), 3)
    5.407
    """

    def __init__(self, network: Any, decay: float) -> None:
        self.model = load_timm().utils.ModelEmaV3(network, decay=decay, use_warmup=True)

    def network(self) -> Any:
        return self.model.module

    def after_step(self, network: Any, step: int) -> None:
        self.model.update(network, step=step)

    def after_epoch(self, network: Any, epoch: int) -> None:
        pass


class Stochastic(_Kept):
    """The mean of the weights after each epoch behind `start` (SWA: Izmailov et al., 2018), by torch.

    >>> import torch
    >>> layer = torch.nn.Linear(1, 1, bias=False)
    >>> average = Stochastic(layer, start=1)
    >>> for epoch, value in enumerate((1.0, 2.0, 4.0), 1):
    ...     _ = torch.nn.init.constant_(layer.weight, value)
    ...     average.after_epoch(layer, epoch)
    >>> average.network().weight.item()
    3.0
    """

    def __init__(self, network: Any, start: int) -> None:
        self.model, self.start = AveragedModel(network), start

    def network(self) -> Any:
        return self.model.module if self.model.n_averaged else None

    def after_step(self, network: Any, step: int) -> None:
        pass

    def after_epoch(self, network: Any, epoch: int) -> None:
        if epoch - self.start > int(self.model.n_averaged):
            self.model.update_parameters(network)
