"""Running statistics of batch norms, taken again from other data than the weights were trained on.

A lifted network begins with the statistics of images. Where the policy lets norms follow the batch, training normalises
by the batch and moves the running statistics slowly; a short run is then scored with a mixture of images and clouds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from image2point.errors import InputError
from image2point.networks.interface import Network, modes_kept
from image2point.voxels import DenseVoxels, VoxelTensor


def following_norms(net: nn.Module | Network) -> list[_BatchNorm]:
    """The batch norms that use and follow the statistics of the batch when `net` trains as it was frozen."""
    with modes_kept(net):
        net.train()
        return [m for m in net.modules() if isinstance(m, _BatchNorm) and m.training and m.running_mean is not None]


@torch.no_grad()
def recalibrate(net: nn.Module | Network, batches: Iterable[Any]) -> None:
    """Replace the running statistics of the norms that follow the batch by their averages over these batches.

    Which norms these are follows from the policy (`freeze`): under `io`, only those of the stem and the head; under
    `none`, none. While it lasts they normalise by the batch, as in training, and all else is in eval mode; then every
    module has the mode it had. Labels play no part. In a run of several processes each gives its share of every batch,
    and all get the same statistics. Cost: one forward pass over the batches.

    Args:
        net: a network made by `image2point.lift`, or any module that holds batch norms.
        batches: what the network takes: voxels, of some training clouds, not augmented. A few hundred clouds are
            enough for stable means.

    Raises:
        InputError: where there is no batch, or voxels stand among other things in one. The statistics stay as they
            were, as after any other error.

    Example:

        >>> import torch, image2point as i2p
        >>> net = i2p.lift("test_resnet", weights="random", num_classes=4)
        >>> clouds = [torch.rand(100, 3) for _ in range(8)]
        >>> i2p.recalibrate(net, [i2p.voxelize(clouds[:4], 0.1), i2p.voxelize(clouds[4:], 0.1)])
    """
    if isinstance(batches, (VoxelTensor, DenseVoxels)):
        raise InputError(f"batches: expected an iterable of voxels, found one {type(batches).__name__}; give [voxels]")
    norms = following_norms(net)
    if not norms:
        return
    count = 0
    with modes_kept(net), _momenta_kept(net), _statistics_kept_on_error(norms):
        net.eval()
        for norm in norms:
            norm.training, norm.momentum = True, None  # the cumulative average
            norm.reset_running_stats()
        for x in batches:
            if isinstance(x, (tuple, list)):
                raise InputError(
                    f"batches: expected voxels, found a {type(x).__name__}; of a loader of voxels and labels give "
                    "(voxels for voxels, labels in loader)"
                )
            net(x)
            count += 1
        if not count:
            raise InputError("recalibrate needs at least one batch of voxels, found none")


def drift(net: nn.Module | Network, batches: Iterable[Any]) -> float:
    """How far running statistics are from those that `recalibrate` takes of these batches; 0 where it takes none.

    The largest, over the norms, of the mean over channels of |Δmean| / σ + |Δ log σ|, with the running σ. The largest,
    since one norm that is far off spoils all that comes behind it: in a short run that is the stem's, whose
    statistics of images are the farthest from those of clouds, and the other norms hardly differ.

    Example:

        >>> import torch
        >>> net = nn.Sequential(nn.BatchNorm1d(3))
        >>> drift(net, [3 + torch.randn(1000, 3)]) > 2.5
        True
    """
    norms = following_norms(net)
    before = [(_copy(norm.running_mean), _copy(norm.running_var)) for norm in norms]
    recalibrate(net, batches)
    distances = [0.0]
    for norm, (mean, variance) in zip(norms, before, strict=True):
        new_mean, new_variance = _copy(norm.running_mean), _copy(norm.running_var)
        shift = (new_mean - mean).abs() / (variance + norm.eps).sqrt()
        spread = ((new_variance + norm.eps) / (variance + norm.eps)).log().abs() / 2
        distances.append(float((shift + spread).mean()))
        _set(norm, mean, variance)
    return max(distances) if all(map(math.isfinite, distances)) else math.inf


def _copy(values: torch.Tensor | None) -> torch.Tensor:
    assert values is not None
    return values.clone()


def _set(norm: _BatchNorm, mean: torch.Tensor, variance: torch.Tensor) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


@contextmanager
def _momenta_kept(net: nn.Module | Network) -> Iterator[None]:
    """Afterwards every batch norm has its momentum, and the number of batches that it tracked."""
    momenta = [(m, m.momentum, _count(m)) for m in net.modules() if isinstance(m, _BatchNorm)]
    try:
        yield
    finally:
        for norm, momentum, tracked in momenta:
            norm.momentum = momentum
            if tracked is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(tracked)


def _count(norm: _BatchNorm) -> torch.Tensor | None:
    return None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()


@contextmanager
def _statistics_kept_on_error(norms: list[_BatchNorm]) -> Iterator[None]:
    before = [(_copy(norm.running_mean), _copy(norm.running_var)) for norm in norms]
    try:
        yield
    except BaseException:
        for norm, (mean, variance) in zip(norms, before, strict=True):
            _set(norm, mean, variance)
        raise
