"""What decoders are made of, and what they are told of the maps that they get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from image2point.voxels import BatchNorm, Pointwise, VoxelConv, Voxels


@dataclass(frozen=True)
class Maps:
    """The maps that a decoder gets besides the input voxels.

    Attributes:
        in_channels: of the input voxels.
        channels, strides: of each map, the finest first.
        convolution: keyword arguments of every convolution: engine, axis, depth_padding.
    """

    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    convolution: Mapping[str, Any]

    @property
    def begins_at_one(self) -> bool:
        """Whether a map has the sites of the input voxels."""
        return self.strides[0] == 1


class ConvNormAct(nn.Module):
    """A convolution of stride 1 and an odd kernel, batch norm and, if asked for, ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int, maps: Maps, act: bool = True) -> None:
        super().__init__()
        padding = (size // 2,) * 3
        self.conv = VoxelConv(inputs, outputs, (size,) * 3, padding=padding, **maps.convolution)
        self.norm = BatchNorm(outputs)
        self.act = Pointwise(nn.ReLU()) if act else None

    def forward(self, x: Voxels) -> Voxels:
        x = self.norm(self.conv(x))
        return x if self.act is None else self.act(x)


def widths(base: Sequence[int], width: float) -> tuple[int, ...]:
    """Numbers of channels, scaled: whole, and at least 1.

    >>> widths((512, 256), 0.25)
    (128, 64)
    """
    return tuple(max(1, round(channels * width)) for channels in base)
