"""The voxel convolution as a module, and elementwise modules on voxels."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from image2point.voxels.conv import dense
from image2point.voxels.conv.autograd import convolve
from image2point.voxels.conv.engines import ENGINES
from image2point.voxels.conv.epilogue import Epilogue
from image2point.voxels.conv.fused import convolve_and_finish
from image2point.voxels.conv.structure import Structure, read_structure, whole
from image2point.voxels.errors import VoxelError
from image2point.voxels.plan import NeighbourTable, Window, neighbour_table
from image2point.voxels.pool import coarse_mask
from image2point.voxels.relu import ceiling, relu
from image2point.voxels.remember import Forms, Remembered, compared_at_once, unchanging
from image2point.voxels.tensor import DenseVoxels, Voxels, VoxelTensor

AXES = ("x", "y", "z")


def autocast_type(x: Voxels) -> torch.dtype | None:
    """The type in which autocast wants a convolution of x; None where it is off."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if device != "meta" and torch.is_autocast_enabled(device) else None


def check_type(x: Voxels, wanted: torch.dtype) -> None:
    """Raise VoxelError where voxels and weights differ in their number type, which torch words less well."""
    found = (x.features if isinstance(x, VoxelTensor) else x.grid if isinstance(x, DenseVoxels) else x).dtype
    if found != wanted:
        raise VoxelError(
            f"expected voxels of the network's number type {wanted}, found {found}; "
            f"convert the voxels (voxels.to({wanted})) or the network (network.to({found}))"
        )


class VoxelConv(nn.Module):
    """Convolution of sparse voxels (submanifold at stride 1), masked dense grids and plain grids.

    Output sites are the input sites at stride 1, and the unique floor(index / stride) otherwise; output o reads
    stride · o − padding + [0, K) · dilation. Far-side padding is what makes ceil(n / stride) outputs.

    Args:
        kernel_size: per axis x, y, z.
        padding: per axis, on the near side.
        axis: the depth axis, along which the kernel was inflated.
        depth_padding: "replicate" repeats the border slices of a dense grid along the depth axis.
        engine: what runs it on sparse voxels, see `conv.engines`.

    Attributes:
        weight: [C_out, C_in / groups, Kx, Ky, Kz].
        bias: [C_out] or None.
        lora_up, lora_down, lora_fill: where `set_low_rank` was called.
    """

    bias: nn.Parameter | None
    lora_up: nn.Parameter
    lora_down: nn.Parameter
    lora_fill: Tensor

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
        self.register_parameter("bias", nn.Parameter(torch.empty(out_channels)) if bias else None)
        self._remembered = Remembered()
        if not self.weight.is_meta:  # there, nothing is drawn, and it would take long
            nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def structure(self, forms: Forms | None = None) -> Structure:
        """Which part of the kernel has to be computed, according to its present values.

        Args:
            forms: those of the weight, if the caller has them.
        """
        if self.weight.is_meta:
            return whole(self.window)
        forms = forms or self._remembered.forms(self.weight)
        return forms.of("structure", lambda: read_structure(self._all_kernels(), self.window))

    def set_low_rank(self, up: Tensor, down: Tensor, fill: Tensor) -> None:
        """Add a change of rank R to the 2D kernel: weight + up · down, which fills the depth as the kernel does.

        Args:
            up: [C_out, R]. down: [R, C_in / groups, K1, K2].
            fill: [Kx, Ky, Kz], or 1 along an axis: the kernel that an entry of the change becomes. It is not used where
                the weight is a 2D kernel itself.
        """
        self.lora_up, self.lora_down = nn.Parameter(up), nn.Parameter(down)
        self.register_buffer("lora_fill", fill, persistent=False)

    def has_low_rank(self) -> bool:
        """Whether `set_low_rank` was called."""
        return "lora_up" in self._parameters

    def applied(self) -> Tensor:
        """The weight that is applied: with its change of low rank, if any."""
        if not self.has_low_rank():
            return self.weight
        return self.weight + self._lifted(
            (self.lora_up @ self.lora_down.flatten(1)).view(-1, *self.lora_down.shape[1:])
        )

    def _lifted(self, flat: Tensor) -> Tensor:
        """A change [.., C_in / groups, K1, K2] as one of the weight."""
        return flat if self.weight.ndim == 4 else flat.unsqueeze(2 + AXES.index(self.axis)) * self.lora_fill

    def _all_kernels(self) -> Tensor:
        """What the kernel has in common, whatever its change of low rank is: itself, and beside it a general change."""
        if not self.has_low_rank():
            return self.kernel()
        shape = self.lora_down.shape[1:]
        change = self._lifted(torch.arange(1, shape.numel() + 1).view(1, *shape).to(self.weight))
        return self._repeat(torch.cat([self.weight, change]))

    def _forms(self) -> Forms | None:
        """What has been computed from the weight in its present state; None where nothing may depend on its values.

        That is so while the weight trains: its gradient needs every tap, and it changes in every step. A traced program
        and a CUDA graph will run with other values, unless whoever records it sees to that (`kernels_unchanging`). The
        reference engine stays simple.
        """
        if self._trains() or self.engine == "reference" or self.weight.is_meta or torch.compiler.is_compiling():
            return None
        if self.weight.is_cuda and torch.cuda.is_current_stream_capturing() and not self._remembered.trusting:
            return None
        return self._remembered.forms(self.weight)

    def _trains(self) -> bool:
        return torch.is_grad_enabled() and self.weight.requires_grad

    def kernel(self) -> Tensor:
        """The kernel that is applied, [C_out, C_in / groups, Kx, Ky, Kz]."""
        return self._repeat(self.applied())

    def _compact(self, weight: Tensor) -> Tensor:
        """The kernel of a weight, of size 1 along the axes where every tap has the same parameter."""
        return weight

    def _repeat(self, weight: Tensor) -> Tensor:
        return self._compact(weight).expand(-1, -1, *self.window.kernel)

    def forward(self, x: Voxels) -> Voxels:
        dtype = autocast_type(x)
        bias: Tensor | None = self.bias
        if dtype is not None:
            x, bias = x.to(dtype), None if bias is None else bias.to(dtype)
        else:
            check_type(x, self.weight.dtype)
        if isinstance(x, VoxelTensor):
            if self.depth_padding != "zeros":
                raise VoxelError('depth_padding="replicate" has no meaning on sparse voxels, which have no border')
            rows = self._on_rows(x, dtype)
            return VoxelTensor(rows if bias is None else rows + bias, x.sites.coarsen(self.window.stride))
        replicate = AXES.index(self.axis) if self.depth_padding == "replicate" else None
        grid = x.grid if isinstance(x, DenseVoxels) else x
        grid = self._on_grid(grid, dtype, replicate)
        if bias is not None:
            grid = grid + bias.view(-1, 1, 1, 1)
        if isinstance(x, DenseVoxels):
            return x.coarser(grid, coarse_mask(x.mask, self.window.stride), self.window.stride)
        return grid

    def _on_rows(self, x: VoxelTensor, dtype: torch.dtype | None) -> Tensor:
        """[N, C_in] → [M, C_out], without the bias."""
        kernel, table, forms = self._prepare(x, dtype)
        if table is None:
            return x.features @ kernel.flatten(1).T
        return convolve(x.features, kernel, table, self.groups, self.engine, forms)

    def _on_grid(self, grid: Tensor, dtype: torch.dtype | None, replicate: int | None) -> Tensor:
        """[B, C_in, X, Y, Z] → [B, C_out, ...], without the bias."""
        return dense.convolve(grid, self._untied(dtype), self.window, self.groups, replicate)

    def _weight_as(self, dtype: torch.dtype | None, forms: Forms | None) -> Tensor:
        """The weight in another type; None: as it is."""
        if dtype is None or dtype == self.weight.dtype:
            return self.applied()
        if forms is None or self.has_low_rank():
            return self.applied().to(dtype)
        return forms.of(dtype, lambda: self.weight.to(dtype))

    def _untied(self, dtype: torch.dtype | None) -> Tensor:
        """The kernel, of size 1 along the axes where every tap has the same weight."""
        forms = self._forms() if self.window.taps > 1 else None
        weight = self._weight_as(dtype, forms)
        if self.engine == "reference":
            return self._repeat(weight)
        if forms is None:
            return self._compact(weight)
        return whole(self.window, self.structure(forms).tied).cut(self._repeat(weight))

    def _prepare(self, x: VoxelTensor, dtype: torch.dtype | None) -> tuple[Tensor, NeighbourTable | None, Forms | None]:
        """What of the kernel is computed, over which neighbours (None: each voxel alone), and the weight's forms."""
        window = self.window
        if window.is_pointwise() and self.groups == 1:  # there is nothing to leave out or to pack
            return self._compact(self._weight_as(dtype, None)), None, None
        forms = self._forms()
        weight = self._weight_as(dtype, forms)
        kernel = self._compact(weight)
        if forms is not None:
            structure = self.structure(forms)
            kernel, window = structure.cut(self._repeat(weight)), structure.window
        if window.is_pointwise() and self.groups == 1:
            return kernel, None, None
        return kernel, neighbour_table(x.sites, window), None if self.has_low_rank() else forms

    def finished(self, x: VoxelTensor, steps: Epilogue) -> VoxelTensor:
        """The convolution without its bias, and the steps that follow it, in one; its weight counts as a constant.

        Raises VoxelError as `conv.fused.convolve_and_finish` does.
        """
        dtype = autocast_type(x)
        if dtype is not None:
            x = x.to(dtype)
        kernel, table, forms = self._prepare(x, dtype)
        rows = convolve_and_finish(x.features, kernel, table, steps, self.groups, self.engine, forms)
        return VoxelTensor(rows, x.sites.coarsen(self.window.stride))

    def extra_repr(self) -> str:
        outputs, inputs = self.weight.shape[:2]
        return f"{inputs * self.groups}, {outputs}, {self.window}, groups={self.groups}, bias={self.bias is not None}"


def kernels_compared(net: nn.Module) -> AbstractContextManager[None]:
    """For one forward pass: look for changes of all kernels at once, where that means to wait for a device."""
    convs = [part for part in net.modules() if isinstance(part, VoxelConv) and not part._trains()]
    return compared_at_once([(part._remembered, part.weight) for part in convs])


def kernels_in_use(net: nn.Module) -> list[Forms | None]:
    """What has been computed of each kernel that does not train, in its present state; None of one not used so far."""
    with kernels_compared(net):
        return [
            None if part._remembered.is_empty() else part._remembered.forms(part.weight)
            for part in net.modules()
            if isinstance(part, VoxelConv) and not part._trains()
        ]


def kernels_unchanging(net: nn.Module) -> AbstractContextManager[None]:
    """For passes between which nobody writes to frozen kernels: each is compared in the first of them alone."""
    return unchanging(
        [part._remembered for part in net.modules() if isinstance(part, VoxelConv) and not part._trains()]
    )


class TiedConv(VoxelConv):
    """A convolution whose parameter is a 2D kernel, repeated along the depth axis whenever it is applied.

    It computes what `VoxelConv` does with the repeated kernel, and has the parameters of the 2D layer: the gradient of
    an entry is the sum over its copies.

    Attributes:
        weight: [C_out, C_in / groups, K1, K2], on the two axes that are not the depth axis; or [.., 1, 1], repeated
            along all three axes.
    """

    def _compact(self, weight: Tensor) -> Tensor:
        return weight.unsqueeze(2 + AXES.index(self.axis))


class Pointwise(nn.Module):
    """An elementwise module (an activation) applied to the features of voxels; empty cells stay zero.

    Of a ReLU on sparse voxels a bit (on a GPU, a byte) per element is kept for the gradient (`voxels.relu`).
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Voxels) -> Voxels:
        if isinstance(x, VoxelTensor):
            return x.replace(self._on_rows(x.features))
        return x.replace(self.module(x.grid)) if isinstance(x, DenseVoxels) else self.module(x)

    def _on_rows(self, rows: Tensor) -> Tensor:
        """[N, C] → [N, C]"""
        top = ceiling(self.module)
        if top is None or not (torch.is_grad_enabled() and rows.requires_grad) or torch.compiler.is_compiling():
            return self.module(rows)
        return relu(rows, self.module, top)
