"""The light decoder: 1×1×1 laterals to one width, upsampled and summed from coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from image2point.decoders.parts import ConvNormAct, Maps, widths
from image2point.voxels import Pointwise, Voxels
from image2point.voxels.functional import add
from image2point.voxels.upsample import upsample

WIDTH = 96


class Light(nn.Module):
    """The top-down path of a feature pyramid network (Lin et al., 2017) without its 3×3×3 convolutions.

    Each map goes through a 1×1×1 convolution to `96 · width` channels and a norm, so that stages whose features differ
    in size begin with equal weight. From the coarsest map on, the sum so far is brought to the sites of the next finer
    map (each voxel takes what its parent has) and that map is added; ReLU at the end. Where no map has stride 1, the
    input voxels go through a 3×3×3 convolution and a norm, and are the last to be added.
    """

    def __init__(self, maps: Maps, width: float = 1.0) -> None:
        super().__init__()
        (self.out_channels,) = widths([WIDTH], width)
        self.laterals = nn.ModuleList(ConvNormAct(c, self.out_channels, 1, maps, act=False) for c in maps.channels)
        self.detail = None
        if not maps.begins_at_one:
            self.detail = ConvNormAct(maps.in_channels, self.out_channels, 3, maps, act=False)
        self.act = Pointwise(nn.ReLU())

    def forward(self, x: Voxels, maps: Sequence[Voxels]) -> Voxels:
        """Input voxels and stage maps, the finest first → a map at stride 1."""
        *finer, total = (lateral(each) for lateral, each in zip(self.laterals, maps, strict=True))
        if self.detail is not None:
            finer.insert(0, self.detail(x))
        for each in reversed(finer):
            total = add(upsample(total, each), each)
        return self.act(total)
