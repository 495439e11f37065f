"""The one cache of what is made of weights: packed matrices, converted types, what their values allow to leave out.

It is valid as long as the weight's bytes stay the same, all of them, and that is looked at whenever the weight is used.
Torch's count of changes would cost less, but misses whatever is written through `weight.data`, NumPy or the storage, as
moving averages, pruning and some optimizers do.
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
    """What has been made of one content of a weight."""

    def __init__(self, weight: Tensor) -> None:
        self._weight, self._content, self._made = weight.detach(), _Content(weight), dict[Hashable, Any]()

    def of(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` makes of the weight; made once per key.

        It may be asked for after the weight was written again, in a backward pass. What is made then is not kept.
        Gradients may be taken through it later, so it is made outside of inference mode, and takes none itself.
        """
        if key not in self._made:
            with torch.inference_mode(False), torch.no_grad():
                made = make()
            if not self.fits(self._weight):
                return made
            self._made[key] = made
        return self._made[key]

    def fits(self, weight: Tensor) -> bool:
        """Whether this is the content of a weight: the same bytes in the same layout."""
        return self._content.is_that_of(weight)


class Remembered:
    """The forms of a weight as it is now; copies and pickles begin anew."""

    def __init__(self) -> None:
        self._forms: Forms | None = None

    def forms(self, weight: Tensor) -> Forms:
        """Those made before if the weight still has the same content, else none yet."""
        if self._forms is None or not self._forms.fits(weight):
            self._forms = Forms(weight)
        return self._forms

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()


class _Content:
    """The bytes of a weight and their layout.

    On a CPU with a compiler the bytes are known by a fingerprint (remember.cpp), elsewhere by a copy.
    """

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
