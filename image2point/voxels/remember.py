"""The one cache of what is computed from weights: packed matrices, converted types, the structure of kernels.

An entry is valid as long as every byte of the weight stays the same, and this is checked in each forward pass. Torch's
version counter would be cheaper, but it misses writes through `weight.data`, NumPy or the storage, which moving
averages, pruning and some optimizers use.

On a CPU the check reads the weight once, and one changed element is always noticed (remember.cpp). On other devices,
and without a compiler, the weight is compared with a copy; the host has to wait for a GPU's answer, since it decides
what runs next. A kernel that trains has no entries, and neither has one under CUDA graph capture.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

from image2point.voxels.compiled import call, library

T = TypeVar("T")

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Forms:
    """What has been computed from one state of a weight."""

    def __init__(self, weight: Tensor) -> None:
        self._weight, self._content, self._made = weight.detach(), _Content(weight), dict[Hashable, Any]()

    def of(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result of `make`, which is called once per key; it must not share memory with the weight.

        A backward pass may ask after the weight was overwritten: the result is not kept then. `make` runs without
        gradients and outside of inference mode, so that its result can be used wherever gradients are taken.
        """
        if key not in self._made:
            with torch.inference_mode(False), torch.no_grad():
                made = make()
            if not self.fits(self._weight):
                return made
            self._made[key] = made
        return self._made[key]

    def fits(self, weight: Tensor) -> bool:
        """Whether a weight is in that state: the same bytes in the same layout."""
        return self._content.is_that_of(weight)


class Remembered:
    """The forms of a weight in its present state; copies and pickles start empty."""

    def __init__(self) -> None:
        self._forms: Forms | None = None

    def forms(self, weight: Tensor) -> Forms:
        """The forms computed so far, or a new, empty object if the weight has changed."""
        forms = self._forms
        if forms is None or not forms.fits(weight):
            self._forms = forms = Forms(weight)
        return forms  # not self._forms: another thread may have replaced it

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()


class _Content:
    """What identifies the state of a weight: its layout, and a fingerprint or a copy of its bytes."""

    def __init__(self, weight: Tensor) -> None:
        self._layout = _layout(weight)
        content = _bytes(weight)
        self._known: tuple[int, ...] | Tensor = _fingerprint(content) if _is_compiled(content) else content.clone()

    def is_that_of(self, weight: Tensor) -> bool:
        if _layout(weight) != self._layout:
            return False
        content = _bytes(weight)
        if isinstance(self._known, Tensor):
            return torch.equal(content, self._known)
        return _is_compiled(content) and _fingerprint(content) == self._known


def _layout(weight: Tensor) -> Hashable:
    return weight.device, weight.dtype, weight.shape, weight.stride(), weight.storage_offset()


def _bytes(weight: Tensor) -> Tensor:
    """The weight's bits in memory order; copied only where there are gaps between them."""
    order = sorted(range(weight.ndim), key=weight.stride, reverse=True)
    return weight.detach().permute(order).contiguous().view(_BITS.get(weight.element_size(), torch.uint8))


def _is_compiled(content: Tensor) -> bool:
    return content.device.type == "cpu" and library() is not None


def _fingerprint(content: Tensor) -> tuple[int, ...]:
    sums = torch.empty(2, dtype=torch.int64)
    call("fingerprint", content, content.nbytes, sums)
    return tuple(sums.tolist())
