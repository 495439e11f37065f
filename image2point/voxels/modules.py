"""The voxel convolution as a module, and elementwise modules on voxels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from image2point.voxels.conv import dense, gather, reference
from image2point.voxels.errors import VoxelError
from image2point.voxels.plan import Window, neighbour_table
from image2point.voxels.pool import coarse_mask
from image2point.voxels.tensor import DenseVoxels, Voxels, VoxelTensor

AXES = ("x", "y", "z")
ENGINES = ("auto", "reference")


class VoxelConv(nn.Module):
    """Convolution of sparse voxels (submanifold at stride 1), masked dense grids and plain grids.

    Output sites are the input sites at stride 1, and the unique floor(index / stride) otherwise; output o reads
    stride · o − padding + [0, K) · dilation. Far-side padding is what makes ceil(n / stride) outputs.

    Args:
        kernel_size, padding: per axis x, y, z; `padding` on the near side.
        axis: the depth axis, along which the kernel was inflated.
        depth_padding: "replicate" repeats the border slices of a dense grid along the depth axis.
        engine: "auto" sums neighbours that share a weight before multiplying; "reference" goes tap by tap.

    Attributes:
        weight: [C_out, C_in / groups, Kx, Ky, Kz].
        bias: [C_out] or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int, int],
        stride: int = 1,
        padding: tuple[int, int, int] = (0, 0, 0),
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        axis: str = "z",
        depth_padding: str = "zeros",
        engine: str = "auto",
    ) -> None:
        super().__init__()
        if engine not in ENGINES:
            raise VoxelError(f"engine: expected one of {', '.join(ENGINES)}, found {engine!r}")
        if axis not in AXES or depth_padding not in ("zeros", "replicate"):
            raise VoxelError(
                f"expected an axis of {', '.join(AXES)} and depth_padding zeros or replicate, "
                f"found {axis!r} and {depth_padding!r}"
            )
        self.window = Window(kernel_size, stride, padding, dilation)
        self.groups, self.axis, self.depth_padding, self.engine = groups, axis, depth_padding, engine
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self._tied: tuple[object, frozenset[int]] | None = None
        if not self.weight.is_meta:  # there, nothing is drawn, and it would take long
            nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def tied_axes(self) -> frozenset[int]:
        """Axes (0, 1, 2) along which the kernel is constant: read off its values, again after every change."""
        state = (self.weight.data_ptr(), self.weight._version, self.weight.dtype)
        if self._tied is None or self._tied[0] != state:
            self._tied = (state, tied_axes(self.kernel().detach()))
        return self._tied[1]

    def kernel(self) -> Tensor:
        """The kernel that is applied, [C_out, C_in / groups, Kx, Ky, Kz]."""
        return self.weight

    def forward(self, x: Voxels) -> Voxels:
        window = self.window
        weight = self.kernel()
        bias: Tensor | None = self.bias
        device = x.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            x = x.to(dtype)
            weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        if isinstance(x, VoxelTensor):
            if self.depth_padding != "zeros":
                raise VoxelError('depth_padding="replicate" has no meaning on sparse voxels, which have no border')
            rows = self._sparse(x, weight)
            return VoxelTensor(rows if bias is None else rows + bias, x.sites.coarsen(window.stride))
        replicate = AXES.index(self.axis) if self.depth_padding == "replicate" else None
        grid = x.grid if isinstance(x, DenseVoxels) else x
        grid = dense.convolve(grid, weight, window, self.groups, replicate)
        if bias is not None:
            grid = grid + bias.view(-1, 1, 1, 1)
        if isinstance(x, DenseVoxels):
            mask = coarse_mask(x.mask, window.stride)
            return DenseVoxels(grid, mask, x.stride * window.stride).replace(grid)
        return grid

    def _sparse(self, x: VoxelTensor, weight: Tensor) -> Tensor:
        window = self.window
        if window.is_pointwise() and self.groups == 1:
            return x.features @ weight.flatten(1).T
        table = neighbour_table(x.sites, window)
        if self.engine == "reference":
            return reference.convolve(x.features, weight, table, self.groups)
        return gather.convolve(x.features, weight, table, self.tied_axes(), self.groups)

    def extra_repr(self) -> str:
        outputs, inputs = self.weight.shape[:2]
        return f"{inputs * self.groups}, {outputs}, {self.window}, groups={self.groups}, bias={self.bias is not None}"


class TiedConv(VoxelConv):
    """A convolution whose parameter is a 2D kernel, repeated along the depth axis whenever it is applied.

    It computes what `VoxelConv` does with the repeated kernel, and has the parameters of the 2D layer: the gradient of
    an entry is the sum over its copies.

    Attributes:
        weight: [C_out, C_in / groups, K1, K2], on the two axes that are not the depth axis; or [.., 1, 1], repeated
            along all three axes.
    """

    def kernel(self) -> Tensor:
        return self.weight.unsqueeze(2 + AXES.index(self.axis)).expand(-1, -1, *self.window.kernel)


def tied_axes(kernel: Tensor) -> frozenset[int]:
    """Axes (0, 1, 2) along which a kernel [C_out, C_in, Kx, Ky, Kz] holds the same values."""
    tied = set()
    for axis in range(3):
        if kernel.shape[2 + axis] > 1:
            first = kernel.narrow(2 + axis, 0, 1)
            # A few output channels settle the common case, a kernel that is not tied, at little cost.
            if torch.equal(first[:2].expand_as(kernel[:2]), kernel[:2]) and torch.equal(
                first.expand_as(kernel), kernel
            ):
                tied.add(axis)
    return frozenset(tied)


class Pointwise(nn.Module):
    """An elementwise module (an activation) applied to the features of voxels; empty cells stay zero."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Voxels) -> Voxels:
        if isinstance(x, VoxelTensor):
            return x.replace(self.module(x.features))
        return x.replace(self.module(x.grid)) if isinstance(x, DenseVoxels) else self.module(x)
