"""Kernels as one matrix per column, packed once per kernel and change of its values; for the engines that want that."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# Per tensor that owns the values: its version, and what was packed from it, by the layout of the view packed.
_Layout: TypeAlias = tuple[object, ...]
_packed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def pack(weight: Tensor, groups: int) -> Tensor:
    """[C_out, C_in / groups, kx, ky, kz] → a matrix per column and group, [G, groups, C_in / groups, C_out / groups].

    The packed form of a frozen kernel is kept as long as the tensor given, or the one that it is a view of, and used
    again until that tensor is changed. A kernel and its transpose share one packed form.
    """
    if groups == 1 and weight.stride(0) < weight.stride(1):  # inputs and outputs are exchanged: a data gradient
        return pack(weight.transpose(0, 1), 1).transpose(2, 3)
    owner = weight if weight._base is None else weight._base
    if owner.requires_grad or owner.is_inference():  # it changes in every step, or does not tell when it was changed
        return _pack(weight, groups)
    layout: _Layout = (weight.shape, weight.stride(), weight.storage_offset(), weight.dtype, groups)
    version, forms = _packed.get(owner, (None, {}))
    if version != (owner._version, owner.data_ptr()):
        version, forms = (owner._version, owner.data_ptr()), {}
        _packed[owner] = (version, forms)
    if layout not in forms:
        forms[layout] = _pack(weight, groups)
    return forms[layout]


def _pack(weight: Tensor, groups: int) -> Tensor:
    matrices = weight.detach().flatten(2).unflatten(0, (groups, -1)).permute(3, 0, 2, 1)
    return matrices.clone(memory_format=torch.contiguous_format)
