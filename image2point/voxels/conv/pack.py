"""Kernels as one matrix per column, as several engines need them."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from image2point.voxels.remember import Forms


def pack(weight: Tensor, groups: int, forms: Forms | None = None) -> Tensor:
    """[C_out, C_in / groups, kx, ky, kz] → a matrix per column and group, [G, groups, C_in / groups, C_out / groups].

    A kernel and its transpose share one packed form; forms: see `kept`.
    """
    if groups == 1 and weight.stride(0) < weight.stride(1):  # inputs and outputs are exchanged: a data gradient
        return pack(weight.transpose(0, 1), 1, forms).transpose(2, 3)

    def build() -> Tensor:
        matrices = weight.detach().flatten(2).unflatten(0, (groups, -1)).permute(3, 0, 2, 1)
        return matrices.clone(memory_format=torch.contiguous_format)

    return kept(forms, weight, ("matrices", groups), build)


def kept(forms: Forms | None, kernel: Tensor, key: Hashable, build: Callable[[], Tensor]) -> Tensor:
    """The result of `build` for a kernel, taken from `forms` if it is there; it must not share memory with the kernel.

    Args:
        forms: those of the weight that the kernel is a view of, perhaps in another type; None builds it every time.
    """
    if forms is None:
        return build()
    return forms.of((key, kernel.dtype, kernel.shape, kernel.stride(), kernel.storage_offset()), build)
