"""What is computed from a weight that seldom changes, kept until it does."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import count
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

T = TypeVar("T")


class Remembered(Generic[T]):
    """The last thing that was made of a weight.

    A change is what torch counts (everything in place but writes to `weight.data`), or other memory, or for a weight
    that trains a step of any optimizer: fused ones write past the count.
    """

    def __init__(self) -> None:
        self._kept: tuple[Hashable, T, Tensor] | None = None

    def of(self, weight: Tensor, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` makes of the weight, now or before: made again after every change of it, and for another key.

        Inference tensors do not count their changes, so of them it is made every time. It is made outside of inference
        mode, without gradients, since it may be used again where gradients are taken.
        """
        if torch.compiler.is_compiling() or weight.is_inference():
            return make()
        state = key, weight.data_ptr(), weight._version, _steps if weight.requires_grad else None
        kept = self._kept
        if kept is None or kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                kept = state, make(), weight.detach()  # held, so that no other weight comes to lie there
            self._kept = kept
        return kept[1]

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Copies and pickles begin anew."""
        return type(self), ()


_numbers, _steps = count(1), 0


def _note_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    global _steps
    _steps = next(_numbers)


register_optimizer_step_post_hook(_note_step)
