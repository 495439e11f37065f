"""Hypercolumns: every map brought to stride 1 and concatenated, without a parameter."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from image2point.decoders.parts import Maps
from image2point.voxels import Voxels
from image2point.voxels.functional import cat
from image2point.voxels.upsample import upsample


class Hypercolumn(nn.Module):
    """The features of a voxel at all stages, one after another (Hariharan et al., 2015).

    A linear layer on them is the dense linear probe: nothing before it was learned from the labels. The input voxels
    give their sites and not their features.
    """

    def __init__(self, maps: Maps) -> None:
        super().__init__()
        self.out_channels = sum(maps.channels)
        self.strides = maps.strides

    def forward(self, x: Voxels, maps: Sequence[Voxels]) -> Voxels:
        """Input voxels and stage maps, the finest first → a map at stride 1."""
        return cat([each if s == 1 else upsample(each, x) for each, s in zip(maps, self.strides, strict=True)])
