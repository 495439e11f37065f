"""The transposed convolution: a strided convolution's kernel map, read from coarse sites to fine ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from image2point.voxels.conv import reference
from image2point.voxels.conv.autograd import data_gradient, transpose
from image2point.voxels.errors import VoxelError
from image2point.voxels.modules import AXES, TiedConv, VoxelConv, autocast_type, check_type
from image2point.voxels.plan import NeighbourTable
from image2point.voxels.tensor import DenseVoxels, Voxels, VoxelTensor


class TransposedConv(VoxelConv):
    """Transposed convolution (`ConvTranspose2d` in 2D) onto the sites of an earlier, finer map.

    A coarse site i adds weight[k] · x(i) to the fine site stride · i − padding + k · dilation, for every tap k, where
    there is such a site. So it is the data gradient of the convolution of the same kernel, stride, padding and
    dilation that leads from the fine sites to the coarse ones, and runs over the same kernel map. At stride 1 the
    sites stay what they are. Sparse voxels and masks do not know what they were before they were coarsened, so the
    finer map is given; a far-side size (`output_padding` in 2D) is never needed.

    Args:
        in_channels: on the coarse sites. All other arguments are as in `VoxelConv`.

    Attributes:
        weight: [C_in, C_out / groups, Kx, Ky, Kz], as torch lays it out.
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
        super().__init__(
            out_channels, in_channels, kernel_size, stride, padding, dilation, groups, False, axis, depth_padding,
            engine,
        )  # fmt: skip
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Voxels, finer: Voxels | None = None) -> Voxels:
        """Coarse voxels, and any voxels on the finer sites (not needed at stride 1) → voxels on the finer sites.

        Raises:
            VoxelError: where the finer sites do not coarsen to the sites of x.
        """
        if finer is None:
            if self.window.stride > 1:
                raise VoxelError("a transposed convolution with a stride needs voxels on the finer sites")
            finer = x
        dtype = autocast_type(x)
        bias: Tensor | None = self.bias
        if dtype is not None:
            x, bias = x.to(dtype), None if bias is None else bias.to(dtype)
        else:
            check_type(x, self.weight.dtype)
        if isinstance(x, VoxelTensor) and isinstance(finer, VoxelTensor):
            if self.depth_padding != "zeros":
                raise VoxelError('depth_padding="replicate" has no meaning on sparse voxels, which have no border')
            if not x.sites.same(finer.sites.coarsen(self.window.stride)):
                raise VoxelError(
                    f"a transposed convolution of stride {self.window.stride}: the finer sites do not coarsen to the "
                    "sites of the voxels"
                )
            rows = self._onto(finer, x, dtype)
            return finer.replace(rows if bias is None else rows + bias)
        if isinstance(x, DenseVoxels) and isinstance(finer, DenseVoxels):
            return finer.replace(self._grid(x.grid, self._weight_as(dtype, None), bias, finer.grid))
        if isinstance(x, Tensor) and isinstance(finer, Tensor):
            return self._grid(x, self._weight_as(dtype, None), bias, finer)
        raise VoxelError(f"cannot convolve {type(x).__name__} onto {type(finer).__name__}")

    def _onto(self, finer: VoxelTensor, x: VoxelTensor, dtype: torch.dtype | None) -> Tensor:
        """Rows [N, C_out] at the finer sites."""
        kernel, table, forms = self._prepare(finer, dtype)
        if table is None:
            return x.features @ kernel.flatten(1)
        if self.engine != "reference":
            return data_gradient(x.features, kernel, table, self.groups, self.engine, forms)
        onto = table.form("onto", lambda: NeighbourTable(table.kernel, table.entries(backward=True), table.targets))
        return reference.convolve(x.features, transpose(kernel, self.groups), onto, self.groups)

    def _grid(self, grid: Tensor, weight: Tensor, bias: Tensor | None, finer: Tensor) -> Tensor:
        """[B, C_in, X, Y, Z] → [B, C_out, …], as many cells as `finer` has."""
        window, starts = self.window, list(self.window.padding)
        if self.depth_padding == "replicate":
            axis = AXES.index(self.axis)
            border = ((window.kernel[axis] - 1) * window.dilation + window.padding[axis]) // window.stride + 1
            size = grid.shape[2 + axis]
            index = torch.arange(-border, size + border, device=grid.device).clamp_(0, size - 1)
            grid = grid.index_select(2 + axis, index)
            starts[axis] += border * window.stride
        kernel = self._repeat(weight)
        whole = F.conv_transpose3d(grid, kernel, None, window.stride, 0, 0, self.groups, window.dilation)
        for axis, start in enumerate(starts):
            wanted, there = finer.shape[2 + axis], whole.shape[2 + axis] - start
            whole = whole.narrow(2 + axis, start, min(wanted, there))
            if there < wanted:
                whole = F.pad(whole, [0] * (2 * (2 - axis)) + [0, wanted - there])
        return whole if bias is None else whole + bias.view(-1, 1, 1, 1)

    def extra_repr(self) -> str:
        inputs, outputs = self.weight.shape[:2]
        return f"{inputs}, {outputs * self.groups}, {self.window}, groups={self.groups}, bias={self.bias is not None}"


class TiedTransposedConv(TransposedConv, TiedConv):
    """A `TransposedConv` whose parameter is a 2D kernel, repeated along the depth axis whenever it is applied."""
