"""The convolution whose 2D kernel stays as it is, while the numbers by which it fills the depth train."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from image2point.voxels.conv import dense
from image2point.voxels.conv.depth import convolve_along, expand
from image2point.voxels.conv.structure import Structure, whole
from image2point.voxels.modules import AXES, VoxelConv
from image2point.voxels.plan import neighbour_table
from image2point.voxels.remember import Forms, Remembered
from image2point.voxels.tensor import VoxelTensor

Kind = TypeVar("Kind", bound=VoxelConv)


class DepthConv(VoxelConv):
    """A convolution with the kernel V[o, c, i, j, k] = depth[k] · weight[o, c, i, j], k along the depth axis, or with
    depth[c, k], c the input channel.

    `of` makes one of another convolution.

    Attributes:
        weight: [C_out, C_in / groups, K1, K2], on the two axes that are not the depth axis.
        depth: [K], the same for all channels, or [C_in, K].
    """

    depth: nn.Parameter

    @classmethod
    def of(cls, conv: VoxelConv, weight: Tensor, depth: Tensor) -> DepthConv:
        """A convolution of this kind in the place of another, with its window, its bias and what was attached to it."""
        made = _as(cls, conv)
        made.weight = nn.Parameter(weight, requires_grad=conv.weight.requires_grad)
        made.depth = nn.Parameter(depth)
        return made

    def structure(self, forms: Forms | None = None) -> Structure:
        """One product per column, whatever the values."""
        return whole(self.window, frozenset({AXES.index(self.axis)}))

    def kernel(self) -> Tensor:
        """The kernel that is applied, [C_out, C_in / groups, Kx, Ky, Kz]."""
        return expand(self._compact(self.applied()), self.depth, self.window.kernel)

    def _compact(self, weight: Tensor) -> Tensor:
        return weight.unsqueeze(2 + AXES.index(self.axis))

    def _on_rows(self, x: VoxelTensor, dtype: torch.dtype | None) -> Tensor:
        forms = None if self.has_low_rank() else self._forms()
        kernel, table = self._compact(self._weight_as(dtype, forms)), neighbour_table(x.sites, self.window)
        return convolve_along(x.features, kernel, self.depth, table, self.groups, self.engine, forms)

    def _on_grid(self, grid: Tensor, dtype: torch.dtype | None, replicate: int | None) -> Tensor:
        weight = self._weight_as(dtype, None)
        if self.engine == "reference" or self.depth.ndim > 1:
            kernel = expand(self._compact(weight), self.depth, self.window.kernel)
            return dense.convolve(grid, kernel, self.window, self.groups, replicate)
        depth = self.depth.to(weight.dtype)
        return dense.convolve(grid, self._compact(weight), self.window, self.groups, replicate, depth)


def plain(conv: VoxelConv) -> VoxelConv:
    """A convolution with the kernel that another one applies as its parameter, and with all else as it is there."""
    made = _as(VoxelConv, conv)
    made._parameters.pop("depth", None)
    made.weight = nn.Parameter(conv.kernel().detach().contiguous(), requires_grad=conv.weight.requires_grad)
    return made


def _as(kind: type[Kind], conv: VoxelConv) -> Kind:
    """A convolution of another kind that shares the parameters, settings and hooks of `conv`."""
    made = kind.__new__(kind)
    made.__dict__.update(conv.__dict__)
    made._parameters, made._remembered = dict(conv._parameters), Remembered()
    return made
