"""The kernels of spconv-triton (Apache-2.0) on this project's neighbour tables: general convolution on a GPU.

It knows neither groups nor kernels that repeat along an axis, so the latter are expanded. Only its public
operations are used; the one for the weight gradient computes the data gradient too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from image2point.voxels.conv import number_types
from image2point.voxels.conv.pack import kept
from image2point.voxels.plan import NeighbourTable
from image2point.voxels.remember import Forms

_WORD = 32  # bits of the masks by which it skips taps; larger kernels go without
_ALL_BITS = [np.array([0xFFFFFFFF], dtype=np.uint32)]


@dataclass(frozen=True, eq=False)
class _Pairs:
    """A table as spconv has it.

    Attributes:
        rows: int32 [taps, M], the row read through each tap, −1 where there is none.
        masks: int32 [M, 1] in increasing order, bit k set where tap k reads something; none for large kernels.
        order: int32 [M], the row that each mask belongs to.
    """

    rows: Tensor
    masks: list[Tensor]
    order: list[Tensor]


def unavailable(device: torch.device) -> str | None:
    """Why this engine cannot run on `device`, or None."""
    for package in ("triton", "spconv_triton"):
        if find_spec(package) is None:
            return f"the package {package.replace('_', '-')} is not installed: pip install 'image2point[spconv]'"
    return None if device.type == "cuda" else f"it needs a CUDA device, and the voxels are on {device}"


def unsupported(features: Tensor, weight: Tensor, table: NeighbourTable, groups: int) -> str | None:
    """Why this engine cannot run a convolution, or None."""
    if groups != 1:
        return f"spconv has no groups, and there are {groups}"
    return number_types.unsupported(features, weight)


def multiply(
    features: Tensor,
    weight: Tensor,
    table: NeighbourTable,
    groups: int = 1,
    backward: bool = False,
    forms: Forms | None = None,
) -> Tensor:
    """As `engines.Engine.multiply`."""
    from spconv_triton.pytorch import ops

    def build() -> Tensor:
        kernel = weight.detach().expand(-1, -1, *table.kernel).permute(0, 2, 3, 4, 1)
        return kernel.clone(memory_format=torch.contiguous_format)

    pairs = _pairs(table, backward)
    with _precision():
        return ops.implicit_gemm(
            features.contiguous(),
            kept(forms, weight, ("spconv", table.kernel), build),  # [C_out, kx, ky, kz, C_in]
            pairs.rows,
            pairs.masks,
            pairs.order,
            pairs.rows.shape[1],
            _ALL_BITS,
            is_train=False,
            is_subm=table.submanifold,
            fp32_accum=True,
        )[0]


def weight_gradient(
    features: Tensor,
    gradient: Tensor,
    table: NeighbourTable,
    shape: tuple[int, int, int],
    groups: int = 1,
    backward: bool = False,
) -> Tensor:
    """As `engines.Engine.weight_gradient`."""
    from spconv_triton.pytorch import ops

    forward, reverse = _pairs(table, backward), _pairs(table, not backward)
    inputs, outputs = features.shape[1], gradient.shape[1]
    with _precision():
        _, kernel = ops.implicit_gemm_backward(
            features.contiguous(),
            features.new_zeros(outputs, *table.kernel, inputs),
            gradient.contiguous(),
            forward.rows,
            reverse.rows,
            forward.masks,
            reverse.masks,
            forward.order,
            reverse.order,
            None,
            _ALL_BITS,
            -1,
            is_subm=table.submanifold,
            fp32_accum=True,
        )
    tied = [axis + 2 for axis in range(3) if shape[axis] < table.kernel[axis]]
    kernel = kernel.permute(0, 4, 1, 2, 3)
    return kernel.sum(tied, keepdim=True) if tied else kernel.contiguous()


def _pairs(table: NeighbourTable, backward: bool) -> _Pairs:
    """The table in spconv's form, made when first asked for and kept with it."""

    def build() -> _Pairs:
        rows = table.entries(backward).contiguous()
        if len(rows) > _WORD:
            return _Pairs(rows, [], [])
        bit = 1 << torch.arange(len(rows), device=rows.device)
        mask = ((rows >= 0) * bit[:, None]).sum(0)
        mask = torch.where(mask < 1 << 31, mask, mask - (1 << 32)).to(torch.int32)
        mask, order = torch.sort(mask, stable=True)
        return _Pairs(rows, [mask.unsqueeze(1)], [order.to(torch.int32)])

    return table.form(("spconv", backward), build)


@contextmanager
def _precision() -> Iterator[None]:
    """Let it use tf32 where torch's own float32 products would."""
    from spconv_triton import constants

    before = constants.SPCONV_ALLOW_TF32
    constants.SPCONV_ALLOW_TF32 = torch.get_float32_matmul_precision() != "highest"
    try:
        yield
    finally:
        constants.SPCONV_ALLOW_TF32 = before
