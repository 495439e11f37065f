"""The decoder of Image2Point's segmentation network, which is MinkUNet's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from image2point.decoders.parts import ConvNormAct, Maps, widths
from image2point.voxels import BatchNorm, Pointwise, TransposedConv, Voxels
from image2point.voxels.functional import add, cat

WIDTHS = (512, 256, 192, 192)
"""Channels after each level, from the coarsest on; a further level has as many as the last."""
DETAIL = 64
"""Channels of the input voxels' own branch, as the paper's stem has."""


class UNet(nn.Module):
    """Level by level from coarse to fine: a transposed convolution onto the sites of the next finer map, that map
    concatenated, and two basic blocks (Xu et al., Image2Point, 2022; Choy et al., MinkowskiNet, 2019).

    There is a level for each stride of the maps but the coarsest. Where no map has stride 1, the last level joins the
    input voxels, after a 3×3×3 convolution, norm and ReLU. All widths are scaled by `width`. The paper's code also has
    dropout, and trilinear trips through the points, which are left out here.
    """

    def __init__(self, maps: Maps, width: float = 1.0) -> None:
        super().__init__()
        channels, strides = list(maps.channels), list(maps.strides)
        self.detail = None
        if not maps.begins_at_one:
            channels, strides = [*widths([DETAIL], width), *channels], [1, *strides]
            self.detail = ConvNormAct(maps.in_channels, channels[0], 3, maps)
        steps = list(zip(strides[1:], strides[:-1], channels[:-1], strict=True))[::-1]
        outputs = widths([WIDTHS[min(i, len(WIDTHS) - 1)] for i in range(len(steps))], width)
        levels, inputs = [], channels[-1]
        for (coarse, fine, skip), made in zip(steps, outputs, strict=True):
            levels.append(Level(inputs, skip, made, coarse // fine, fine == 1, maps))
            inputs = made
        self.levels, self.out_channels = nn.ModuleList(levels), inputs

    def forward(self, x: Voxels, maps: Sequence[Voxels]) -> Voxels:
        """Input voxels and stage maps, the finest first → a map at stride 1."""
        *finer, total = maps
        if self.detail is not None:
            finer.insert(0, self.detail(x))
        for level, each in zip(self.levels, reversed(finer), strict=True):
            total = level(total, each)
        return total


class Level(nn.Module):
    """From one stride to the next finer one.

    Args:
        inputs, skip, outputs: channels of the coarse map, of the finer one that is joined, and of the result.
        ratio: of the two strides.
        last: whether this level leads to stride 1; there the kernel of a doubling is 2×2×2, else 3×3×3.
    """

    def __init__(self, inputs: int, skip: int, outputs: int, ratio: int, last: bool, maps: Maps) -> None:
        super().__init__()
        size, padding = (3, 1) if ratio == 2 and not last else (ratio, 0)
        self.up = TransposedConv(inputs, outputs, (size,) * 3, ratio, (padding,) * 3, **maps.convolution)
        self.norm, self.act = BatchNorm(outputs), Pointwise(nn.ReLU())
        self.blocks = nn.Sequential(BasicBlock(outputs + skip, outputs, maps), BasicBlock(outputs, outputs, maps))

    def forward(self, x: Voxels, finer: Voxels) -> Voxels:
        return self.blocks(cat([self.act(self.norm(self.up(x, finer))), finer]))


class BasicBlock(nn.Module):
    """Two 3×3×3 convolutions with norms, and a shortcut, through a 1×1×1 one where the channels change."""

    def __init__(self, inputs: int, outputs: int, maps: Maps) -> None:
        super().__init__()
        self.first = ConvNormAct(inputs, outputs, 3, maps)
        self.second = ConvNormAct(outputs, outputs, 3, maps, act=False)
        self.shortcut = ConvNormAct(inputs, outputs, 1, maps, act=False) if inputs != outputs else None
        self.act = Pointwise(nn.ReLU())

    def forward(self, x: Voxels) -> Voxels:
        return self.act(add(self.second(self.first(x)), x if self.shortcut is None else self.shortcut(x)))
