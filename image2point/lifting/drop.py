"""Random dropping with one draw per cloud, not per voxel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from image2point.voxels import DenseVoxels, Voxels, VoxelTensor


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): in training, a cloud's residual branch is zero with `probability`."""

    def __init__(self, probability: float, scale_by_keep: bool = True) -> None:
        super().__init__()
        self.probability, self.scale_by_keep = probability, scale_by_keep

    def forward(self, x: Voxels) -> Voxels:
        if not self.training or self.probability == 0.0:
            return x
        return _scale(x, 1, self.probability, self.scale_by_keep)

    def extra_repr(self) -> str:
        return f"{self.probability:g}"


class ChannelDropout(nn.Module):
    """`Dropout2d` for voxels: in training, a channel of a cloud is zero with `probability`."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Voxels) -> Voxels:
        if not self.training or self.probability == 0.0:
            return x
        features = x.features if isinstance(x, VoxelTensor) else x.grid if isinstance(x, DenseVoxels) else x
        return _scale(x, features.shape[1], self.probability, True)

    def extra_repr(self) -> str:
        return f"{self.probability:g}"


def _scale(x: Voxels, channels: int, probability: float, scale_by_keep: bool) -> Voxels:
    """Multiply each cloud's channels by 0 or 1 (or 1 / keep)."""
    keep = 1.0 - probability
    like = x.features if isinstance(x, VoxelTensor) else x.grid if isinstance(x, DenseVoxels) else x
    clouds = x.shape[0] if isinstance(x, Tensor) else x.batch_size
    factor = torch.empty(clouds, channels, dtype=like.dtype, device=like.device).bernoulli_(keep)
    if scale_by_keep and keep > 0.0:
        factor = factor / keep
    if isinstance(x, VoxelTensor):
        return x.replace(x.features * factor[x.sites.batch])
    factor = factor.view(clouds, channels, 1, 1, 1)
    return x.replace(x.grid * factor) if isinstance(x, DenseVoxels) else x * factor
