"""What is computed from tensors that seldom change, kept until one of them does."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Remembered(Generic[T]):
    """The last thing that was made of some tensors."""

    def __init__(self) -> None:
        self._kept: tuple[Hashable, T] | None = None

    def of(self, tensors: tuple[Tensor | None, ...], key: Hashable, make: Callable[[], T]) -> T:
        """What `make` makes, now or before: made again after every change of the tensors, and for every other key.

        Inference tensors do not count their changes, so of them it is made every time. It is made outside of inference
        mode, without gradients, since it may be used again where gradients are taken.
        """
        if torch.compiler.is_compiling():
            return make()
        given = [t for t in tensors if t is not None]
        if any(t.is_inference() for t in given):
            return make()
        state = (key, *((t.data_ptr(), t._version) for t in given))
        if self._kept is None or self._kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                self._kept = (state, make())
        return self._kept[1]
