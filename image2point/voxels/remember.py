"""The one cache of what is computed from weights: packed matrices, converted types, the structure of kernels.

An entry is valid as long as every byte of the weight stays the same, and this is checked in each forward pass. Torch's
version counter would be cheaper, but it misses writes through `weight.data`, NumPy or the storage, which moving
averages, pruning and some optimizers use.

On a CPU the check reads the weight once, and one changed element is always noticed (remember.cpp). On other devices,
and without a compiler, the weight is compared with a copy. The host has to wait for a GPU's answer, since it decides
what runs next, so a network compares all its weights at once (`compared_at_once`) and waits once in a forward pass. A
kernel that trains has no entries, and neither has one under CUDA graph capture, but for weights that are unchanging.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from image2point.voxels.compiled import call, library

T = TypeVar("T")

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Found(threading.local):
    """What has been compared already, in this thread and this pass."""

    unchanged: frozenset[_Content] = frozenset()


_found = _Found()


class Forms:
    """What has been computed from one state of a weight."""

    def __init__(self, weight: Tensor) -> None:
        self._weight, self.content, self._made = weight.detach(), _Content(weight), dict[Hashable, Any]()

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
        return self.content.is_that_of(weight)


class Remembered:
    """The forms of a weight in its present state; copies and pickles start empty."""

    def __init__(self) -> None:
        self._forms: Forms | None = None
        self._trusted: Forms | None = None
        self.trusting = False
        """Whether what was found to fit once is taken to fit from then on (`unchanging`)."""

    def forms(self, weight: Tensor) -> Forms:
        """The forms computed so far, or a new, empty object if the weight has changed."""
        if self.trusting and self._trusted is not None:
            return self._trusted
        forms = self._forms
        if forms is None or not forms.fits(weight):
            self._forms = forms = Forms(weight)
        self._trusted = forms if self.trusting else None
        return forms  # not self._forms: another thread may have replaced it

    def is_empty(self) -> bool:
        """Whether there are no forms."""
        return self._forms is None

    def copied(self, weight: Tensor) -> _Content | None:
        """What the weight has to be compared with, where that is a copy."""
        content = None if self._forms is None or (self.trusting and self._trusted is not None) else self._forms.content
        return content if content is not None and content.copy.numel() and content.fits_layout(weight) else None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()


@contextmanager
def compared_at_once(weights: Iterable[tuple[Remembered, Tensor]]) -> Iterator[None]:
    """Compare the weights that are held against copies, with one answer for each device and type.

    Those of an answer "all unchanged" are not compared again in the `with` block, where no weight may be written. Of
    the others each is compared when it is used.
    """
    groups: dict[Hashable, list[tuple[_Content, Tensor]]] = {}
    for remembered, weight in weights:
        content = remembered.copied(weight)
        if content is not None:
            groups.setdefault((weight.device, weight.dtype), []).append((content, _bytes(weight)))
    before, same = _found.unchanged, set[_Content]()
    for group in groups.values():
        known, now = (
            [part.flatten() for part in parts] for parts in zip(*((c.copy, w) for c, w in group), strict=True)
        )
        if torch.equal(torch.cat(known), torch.cat(now)):
            same.update(content for content, _ in group)
    _found.unchanged = before | same
    try:
        yield
    finally:
        _found.unchanged = before


@contextmanager
def unchanging(weights: Iterable[Remembered]) -> Iterator[None]:
    """Weights that nobody writes to in the `with` block: each is compared when it is first used there, and not again.

    A training loop knows that of kernels that it does not train; between steps, a GPU need not be waited for then.
    """
    weights = list(weights)
    for each in weights:
        each.trusting, each._trusted = True, None
    try:
        yield
    finally:
        for each in weights:
            each.trusting, each._trusted = False, None


class _Content:
    """What identifies the state of a weight: its layout, and a fingerprint or a copy of its bytes."""

    def __init__(self, weight: Tensor) -> None:
        self._layout = _layout(weight)
        content = _bytes(weight)
        self._sums = _fingerprint(content) if _is_compiled(content) else None
        self.copy = content.clone() if self._sums is None else content.new_empty(0)

    def is_that_of(self, weight: Tensor) -> bool:
        if not self.fits_layout(weight):
            return False
        if self in _found.unchanged:
            return True
        content = _bytes(weight)
        if self._sums is None:
            return torch.equal(content, self.copy)
        return _is_compiled(content) and _fingerprint(content) == self._sums

    def fits_layout(self, weight: Tensor) -> bool:
        return _layout(weight) == self._layout


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
