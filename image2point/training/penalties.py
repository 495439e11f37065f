"""What is added to the loss of a batch for the features before the classifier."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from image2point.collapse import collapse_penalty, complexity_penalty
from image2point.config import Training
from image2point.networks.interface import Network
from image2point.voxels import DenseVoxels, VoxelTensor


def scores_and_penalty(network: Network, voxels: Any, targets: Any, training: Training) -> tuple[Tensor, Tensor]:
    """The network's scores of a batch, and the penalties of `training.feature_penalties`, each times its weight.

    Args:
        voxels: what the network takes: voxels, or images [n, 3, S, S].
        targets: int64 [n], a class for each, or probabilities, float [n, classes]; read where
            `training.collapse_penalty` is set.

    Returns:
        Scores [n, classes], and a scalar.

    >>> import image2point as i2p
    >>> net = i2p.lift("test_resnet", weights="random", num_classes=4).eval()
    >>> voxels = i2p.voxelize([torch.rand(100, 3), torch.rand(100, 3)], 0.1)
    >>> scores, penalty = scores_and_penalty(net, voxels, torch.tensor([0, 1]), Training(feature_penalty=0.1))
    >>> features, _ = net.embed(voxels)
    >>> torch.allclose(penalty, 0.1 * features.square().sum(1).mean())
    True
    """
    inputs = _numbers(voxels)
    if training.complexity_penalty:
        inputs.requires_grad_()
        if isinstance(voxels, DenseVoxels):  # cells that are empty are no input
            voxels = voxels.replace(inputs)
    features, scores = network.embed(voxels)
    penalty = features.new_zeros(())
    if training.complexity_penalty:
        penalty = training.complexity_penalty * complexity_penalty(features, inputs)
    with torch.autocast(features.device.type, enabled=False):
        wide = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
        if training.feature_penalty:
            penalty = penalty + training.feature_penalty * wide.square().sum(1).mean()
        if training.collapse_penalty:
            labels = targets.argmax(1) if targets.is_floating_point() else targets  # of a teacher's probabilities
            penalty = penalty + training.collapse_penalty * collapse_penalty(wide, labels, scores.shape[1])
    return scores, penalty


def _numbers(voxels: Any) -> Tensor:
    """What of a batch carries numbers: the features of voxels, the cells of a grid, the pixels of images."""
    if isinstance(voxels, VoxelTensor):
        return voxels.features
    return voxels.grid if isinstance(voxels, DenseVoxels) else voxels
