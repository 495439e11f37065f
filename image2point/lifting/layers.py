"""Small layers of 2D networks, for voxels or for one vector per cloud, with the parameter names of the originals."""

from __future__ import annotations

from torch import Tensor, nn

from image2point.voxels import BatchNorm, DenseVoxels, RmsNorm, Voxels, VoxelTensor, functional
from image2point.voxels.functional import on_sites


class VectorBatchNorm(BatchNorm):
    """Batch norm of one vector per cloud, [B, C], over the clouds of all processes."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        rows = super().forward(x[:, :, None, None, None])
        assert isinstance(rows, Tensor)
        return rows.flatten(1)


class VectorRmsNorm(RmsNorm):
    """RMS norm of one vector per cloud, [B, C]."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self._normalise(x)


class VectorConv(nn.Conv2d):
    """A 1×1 convolution of pooled features [B, C], as squeeze-and-excite has; weight [C_out, C_in / groups, 1, 1]."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:  # there, nothing is drawn, and it would take long
            super().reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, None, None]).flatten(1)


class SiteLinear(nn.Linear):
    """A linear layer on the features of each site, as channels-last 2D networks have; weight [C_out, C_in]."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x: Voxels) -> Voxels:  # type: ignore[override]
        return on_sites(super().forward, x)


class SitePReLU(nn.PReLU):
    """PReLU on the features of each site, with one slope or one per channel."""

    def forward(self, x: Voxels) -> Voxels:  # type: ignore[override]
        return functional.pointwise(super().forward, x)


class ExpertMixture(nn.Module):
    """The outputs of E experts, mixed for each cloud by its routing weights (CondConv, Yang et al., 2019).

    Args:
        experts, groups: the channels of x are [groups, experts, C / groups].
    """

    def __init__(self, experts: int, groups: int) -> None:
        super().__init__()
        self.experts, self.groups = experts, groups

    def forward(self, x: Voxels, routing: Tensor) -> Voxels:
        """Voxels of E · C channels, routing weights [B, E] → voxels of C channels."""
        parts = (self.groups, self.experts, -1)
        width = _channels(x) // (self.groups * self.experts)
        weights = routing[:, None, :, None].expand(-1, self.groups, -1, width).flatten(1)
        x = functional.multiply(x, weights)
        return functional.pointwise(lambda features: features.unflatten(1, parts).sum(2).flatten(1, 2), x)


class ChannelScale(nn.Module):
    """Layer scale (Touvron et al., 2021): x · gamma, one factor per channel."""

    def __init__(self, gamma: Tensor) -> None:
        super().__init__()
        self.gamma = nn.Parameter(gamma)

    def forward(self, x: Voxels) -> Voxels:
        return functional.multiply(x, self.gamma)


def _channels(x: Voxels) -> int:
    features = x.features if isinstance(x, VoxelTensor) else x.grid if isinstance(x, DenseVoxels) else x
    return features.shape[1]
