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
        self._kept: tuple[list[Hashable], T] | None = None

    def of(self, tensors: tuple[Tensor | None, ...], key: Hashable, make: Callable[[], T]) -> T:
        """What `make` makes, now or before: made again after every change of the tensors, and for every other key.

        Inference tensors do not count their changes, so of them it is made every time. It is made outside of inference
        mode, without gradients, since it may be used again where gradients are taken.
        """
        if torch.compiler.is_compiling():
            return make()
        state: list[Hashable] = [key]
        for tensor in tensors:
            if tensor is not None:
                if tensor.is_inference():
                    return make()
                state += tensor.data_ptr(), tensor._version
        if self._kept is None or self._kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                self._kept = (state, make())
        return self._kept[1]
