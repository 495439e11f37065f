"""Running statistics of batch norms, taken again from other data than those that the weights were trained on."""

from __future__ import annotations

from collections.abc import Container
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from image2point.datasets.class_split import Labelled
from image2point.training.batches import Preparation, batches, shuffled

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@torch.no_grad()
def restate(
    network: nn.Module,
    samples: Labelled,
    recipe: Preparation,
    norms: Container[str],
    batch_size: int,
    seed: int = 0,
    workers: int = 0,
    fabric: Fabric | None = None,
) -> None:
    """Replace the running statistics of the named batch norms by their averages over the batches of one pass.

    During the pass these norms go by the statistics of the batch, as in training, and everything else is in eval mode;
    nothing is augmented. Batches mix the classes, as training does. Afterwards every module has the mode it had.
    """
    chosen = [m for name, m in network.named_modules() if isinstance(m, _BatchNorm) and name in norms]
    if not chosen:
        return
    first = next(network.parameters())
    modes = [(module, module.training) for module in network.modules()]
    momenta = [norm.momentum for norm in chosen]
    network.eval()
    for norm in chosen:
        norm.training, norm.momentum = True, None  # the cumulative average
        norm.reset_running_stats()
    try:
        plan = shuffled(len(samples), batch_size, seed, epoch=0)
        for batch in batches(samples, plan, recipe, None, workers, first.device.type == "cuda"):
            with fabric.autocast() if fabric else nullcontext():
                network(batch.to(first.device, first.dtype).voxels)
    finally:
        for norm, momentum in zip(chosen, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
