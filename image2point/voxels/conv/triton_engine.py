"""The Triton engine: masked implicit GEMM on a GPU, for inflated, general, grouped and depthwise kernels.

bfloat16, float16 and float32 with float32 sums; float32 products are exact ("ieee") or tf32, as
`torch.set_float32_matmul_precision` says. Results are the same bits in every run with the same configuration.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from image2point.voxels.conv import number_types
from image2point.voxels.conv.epilogue import Epilogue
from image2point.voxels.conv.pack import pack
from image2point.voxels.plan import NeighbourTable
from image2point.voxels.remember import Forms

_INSTALLED = find_spec("triton") is not None
if _INSTALLED or TYPE_CHECKING:
    from image2point.voxels.conv import triton_depthwise, triton_forward, triton_weight
    from image2point.voxels.conv.triton_table import column_rows, sorted_table


def unavailable(device: torch.device) -> str | None:
    """Why this engine cannot run on `device`, or None."""
    if not _INSTALLED:
        return "the package triton is not installed (pip install triton)"
    if triton_forward.INTERPRETED:
        return None
    if device.type != "cuda":
        return f"it needs a CUDA device, and the voxels are on {device}"
    if torch.version.cuda and torch.cuda.get_device_capability(device) < (8, 0):
        return f"it needs compute capability 8.0, and {torch.cuda.get_device_name(device)} has less"
    return None


def unsupported(features: Tensor, weight: Tensor, table: NeighbourTable, groups: int) -> str | None:
    """Why this engine cannot run a convolution, or None."""
    return number_types.unsupported(features, weight)


def multiply(
    features: Tensor,
    weight: Tensor,
    table: NeighbourTable,
    groups: int = 1,
    backward: bool = False,
    forms: Forms | None = None,
    epilogue: Epilogue | None = None,
) -> Tensor:
    """As `engines.Engine.multiply`, and in the same kernel what follows."""
    with torch.cuda.device_of(features):
        rows = sorted_table(table, tuple(weight.shape[2:]), backward)
        matrices = pack(weight, groups, forms)
        epilogue = epilogue or triton_forward.PLAIN
        if weight.shape[1] == 1:
            return triton_depthwise.multiply(features.contiguous(), matrices.flatten(1), rows, epilogue)
        return triton_forward.multiply(features.contiguous(), matrices, rows, epilogue)


def weight_gradient(
    features: Tensor,
    gradient: Tensor,
    table: NeighbourTable,
    shape: tuple[int, int, int],
    groups: int = 1,
    backward: bool = False,
) -> Tensor:
    """As `engines.Engine.weight_gradient`."""
    with torch.cuda.device_of(features):
        rows = column_rows(table, tuple(shape), backward)
        features, gradient = features.contiguous(), gradient.contiguous()
        if features.shape[1] == groups:
            kernel = triton_depthwise.weight_gradient(features, gradient, rows).T.unsqueeze(1)
        else:  # [G, groups, C_in, C_out]
            kernel = triton_weight.weight_gradient(features, gradient, rows, groups).permute(1, 3, 2, 0).flatten(0, 1)
        return kernel.unflatten(2, shape).to(features.dtype, memory_format=torch.contiguous_format)
