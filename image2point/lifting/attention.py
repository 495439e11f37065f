"""Channel attention that is more than a chain of layers."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image2point.voxels import Voxels, functional


class EfficientChannelAttention(nn.Module):
    """ECA (Wang et al., 2020): a gate per channel from a 1D convolution along the channels' means over a cloud.

    Children and parameter names are those of timm's EcaModule and CecaModule.

    Args:
        circular: near and far channels are neighbours.
    """

    def __init__(
        self, conv: nn.Module, act: nn.Module | None, conv2: nn.Module | None, gate: nn.Module, circular: int
    ) -> None:
        super().__init__()
        self.conv, self.gate = copy.deepcopy(conv), copy.deepcopy(gate)
        self.act, self.conv2 = copy.deepcopy(act), copy.deepcopy(conv2)
        self.circular = circular

    def forward(self, x: Voxels) -> Voxels:
        y = functional.global_mean(x).unsqueeze(1)
        if self.circular:
            y = F.pad(y, (self.circular, self.circular), mode="circular")
        y = self.conv(y)
        if self.conv2 is not None:
            y = self.conv2(self.act(y) if self.act is not None else y)
        return functional.multiply(x, self.gate(y).flatten(1))


class RadixSoftmax(nn.Module):
    """Softmax over the radix of split attention (Zhang et al., ResNeSt, 2020), of a vector per cloud [B, C]."""

    def __init__(self, radix: int, groups: int) -> None:
        super().__init__()
        self.radix, self.groups = radix, groups

    def forward(self, x: Tensor) -> Tensor:
        if self.radix == 1:
            return torch.sigmoid(x)
        return x.unflatten(1, (self.groups, self.radix, -1)).transpose(1, 2).softmax(1).flatten(1)
