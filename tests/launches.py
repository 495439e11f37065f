"""What a stretch of code would start on a GPU, and where the host would wait for it, counted on a CPU.

A torch operation counts as one launch, unless it only looks at memory differently or allocates it; so does a Triton
kernel, which is counted and not run: what it would have written is whatever lay there. What is counted is thus the
number of calls that the host makes; some of torch's start more than one kernel (a sort, a norm by batch statistics).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NO_KERNEL = {
    "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "_unsafe_view", "_reshape_alias",
    "lift_fresh", "is_same_size", "sym_size", "sym_numel", "_record_function_enter_new", "_record_function_exit",
}  # fmt: skip
"""Operations that allocate, or that only look."""


class Launches(TorchDispatchMode):
    """Counts by name what is started (`launches`) and after what the host waits for the device (`waits`).

    Both have a counter for each of "step", "plan" (what makes neighbour tables and what is derived from them),
    "loading" (what makes batches, on the CPU) and "late" (numbers that are read when the next step has begun).
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: dict[str, Counter[str]]
        self.waits: dict[str, Counter[str]]
        self.clear()
        self._phases = ["step"]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in NO_KERNEL:
            self.started(name)
            if _asks_for_values(func, name, args):
                self.waited(name)
        return func(*args, **(kwargs or {}))

    def started(self, name: str) -> None:
        """Count a launch."""
        self.launches[self._phases[-1]][name] += 1

    def waited(self, name: str) -> None:
        """Count a wait."""
        self.waits[self._phases[-1]][name] += 1

    def inside(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, what it does counted in a phase."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._phases.append(phase)
            try:
                return function(*args, **kwargs)
            finally:
                self._phases.pop()

        return counted

    def waiting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, a call of which is a wait that torch's dispatcher is not told of."""

        def waited(*args: Any, **kwargs: Any) -> Any:
            self.waited(function.__name__)
            return function(*args, **kwargs)

        return waited

    def clear(self) -> None:
        """Begin again at nothing."""
        self.launches, self.waits = (
            {phase: Counter() for phase in ("step", "plan", "loading", "late")} for _ in range(2)
        )


def _asks_for_values(func: Any, name: str, args: Any) -> bool:
    """Whether what comes next depends on values: torch says which operations are so, but for indices of booleans."""
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return any(isinstance(leaf, Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(args[1]))
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags))


@contextmanager
def counted() -> Iterator[Launches]:
    """Count in the `with` block."""
    from triton.runtime.jit import KernelInterface

    from image2point.training import batches, loop
    from image2point.voxels.plan import NeighbourTable
    from image2point.voxels.sites import Sites

    counter = Launches()

    def count(kernel: Any, grid: Any) -> Callable[..., None]:
        return lambda *args, **kwargs: counter.started(kernel.__name__)

    with pytest.MonkeyPatch.context() as patch, counter:
        patch.setattr(KernelInterface, "__getitem__", count)
        for kind, name, phase in (
            (Sites, "plan", "plan"),
            (NeighbourTable, "form", "plan"),
            (batches._Samples, "__getitem__", "loading"),
            (batches._Samples, "collate", "loading"),
            (loop.Reading, "values", "late"),
        ):
            patch.setattr(kind, name, counter.inside(phase, getattr(kind, name)))
        for kind, name in (*((Tensor, n) for n in ("tolist", "cpu", "numpy", "new_tensor")), (torch, "tensor")):
            patch.setattr(kind, name, counter.waiting(getattr(kind, name)))
        yield counter


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Tensors of the CPU go the ways that those of a GPU go: no compiled functions, bytes for ReLU, pooling at once.

    Networks have to name the engine triton; a kernel is compared with a copy, and optimizers take lists of tensors, as
    on a GPU.
    """
    from image2point.voxels import lookup, pool, relu, remember
    from image2point.voxels.conv import triton_engine

    assert triton_engine.unavailable(torch.device("cpu")) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relu, "is_compiled", lambda rows: False)
        patch.setattr(relu, "passing", relu.outside)
        patch.setattr(remember, "_is_compiled", lambda content: False)
        patch.setattr(lookup, "library", lambda: None)
        patch.setattr(pool, "_winner_by_pairs", pool._winner_at_once)
        for module in map(import_module, ("torch.optim.sgd", "torch.optim.adam")):
            patch.setattr(module, "_default_to_fused_or_foreach", lambda *_, **__: (False, True), raising=False)
        yield
