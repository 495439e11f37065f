"""Norms without running statistics: over the channels of a site, or over the sites of a cloud."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from image2point.voxels.functional import Clouds, on_clouds, on_sites
from image2point.voxels.tensor import Voxels


class LayerNorm(nn.LayerNorm):
    """`torch.nn.LayerNorm` over the channels of each site: the same parameters and names."""

    def forward(self, x: Voxels) -> Voxels:  # type: ignore[override]
        return on_sites(super().forward, x)


class RmsNorm(nn.Module):
    """x / √(mean x² + eps) · weight over the channels of each site (Zhang and Sennrich, 2019).

    Args:
        centred: divide by the standard deviation instead, unbiased, without subtracting the mean (timm's SimpleNorm).
    """

    def __init__(self, channels: int, eps: float = 1e-6, affine: bool = True, centred: bool = False) -> None:
        super().__init__()
        self.eps, self.centred = eps, centred
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None

    def reset_parameters(self) -> None:
        if self.weight is not None:
            nn.init.ones_(self.weight)

    def forward(self, x: Voxels) -> Voxels:
        return on_sites(self._normalise, x)

    def _normalise(self, features: Tensor) -> Tensor:
        power = features.var(-1, keepdim=True) if self.centred else features.square().mean(-1, keepdim=True)
        normal = features * torch.rsqrt(power + self.eps)
        return normal if self.weight is None else normal * self.weight


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm` for voxels: mean and variance over a group's channels at the occupied sites of a cloud."""

    def forward(self, x: Voxels) -> Voxels:  # type: ignore[override]
        return on_clouds(self._normalise, x)

    def _normalise(self, features: Tensor, clouds: Clouds) -> Tensor:
        grouped = features.unflatten(-1, (self.num_groups, -1))
        centred = grouped - clouds.spread(clouds.mean(grouped.mean(-1))).unsqueeze(-1)
        variance = clouds.mean(centred.square().mean(-1))
        normal = (centred * clouds.spread(torch.rsqrt(variance + self.eps)).unsqueeze(-1)).flatten(-2)
        if self.weight is not None:
            normal = normal * self.weight
        return normal if self.bias is None else normal + self.bias


class GlobalResponseNorm(nn.Module):
    """GRN (Woo et al., ConvNeXt V2, 2023, eq. 1-3): x + weight · (x · n) + bias, n = ‖x‖ / (mean over channels of ‖x‖).

    ‖x‖ is the Euclidean norm of a channel over the occupied sites of the cloud. Parameters weight and bias, [C].
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Voxels) -> Voxels:
        return on_clouds(self._normalise, x)

    def _normalise(self, features: Tensor, clouds: Clouds) -> Tensor:
        length = clouds.total(features.square()).sqrt()
        relative = length / (length.mean(-1, keepdim=True) + self.eps)
        return features + torch.addcmul(self.bias, self.weight, features * clouds.spread(relative))


class EvoNorm(nn.Module):
    """EvoNorm-S0 (Liu et al., 2020, table 2): x · σ(v · x) / (standard deviation of the group) · weight + bias.

    The deviation is taken over the occupied sites of a cloud and the channels of a group, as in `GroupNorm`.

    Args:
        activation: False leaves out the gate σ(v · x).
        divide: False leaves out the division.
    """

    def __init__(
        self, channels: int, groups: int, eps: float = 1e-5, activation: bool = True, divide: bool = True
    ) -> None:
        super().__init__()
        self.groups, self.eps, self.divide = groups, eps, divide
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.v = nn.Parameter(torch.ones(channels)) if activation else None

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        if self.v is not None:
            nn.init.ones_(self.v)

    def forward(self, x: Voxels) -> Voxels:
        return on_clouds(self._normalise, x)

    def _normalise(self, features: Tensor, clouds: Clouds) -> Tensor:
        gated = features if self.v is None else features * torch.sigmoid(features * self.v)
        if self.divide:
            deviation = self._deviation(features, clouds).unsqueeze(-1)
            gated = (gated.unflatten(-1, (self.groups, -1)) / deviation).flatten(-2)
        return gated * self.weight + self.bias

    def _deviation(self, features: Tensor, clouds: Clouds) -> Tensor:
        """[..., C] → [..., groups]"""
        grouped = features.unflatten(-1, (self.groups, -1))
        mean = clouds.spread(clouds.mean(grouped.mean(-1)))
        variance = clouds.mean((grouped - mean.unsqueeze(-1)).square().mean(-1))
        return clouds.spread((variance + self.eps).sqrt())


class FilterResponseNorm(nn.Module):
    """FRN with its threshold (Singh and Krishnan, 2020): max(x / √(mean x² + eps) · weight + bias, tau).

    The mean is over the occupied sites of a cloud; without `threshold` there is no tau.
    """

    def __init__(self, channels: int, eps: float = 1e-5, threshold: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.tau = nn.Parameter(torch.zeros(channels)) if threshold else None

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        if self.tau is not None:
            nn.init.zeros_(self.tau)

    def forward(self, x: Voxels) -> Voxels:
        return on_clouds(self._normalise, x)

    def _normalise(self, features: Tensor, clouds: Clouds) -> Tensor:
        scale = torch.rsqrt(clouds.mean(features.square()) + self.eps)
        normal = features * clouds.spread(scale) * self.weight + self.bias
        return normal if self.tau is None else torch.maximum(normal, self.tau)
