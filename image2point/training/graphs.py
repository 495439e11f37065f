"""Steps recorded as CUDA graphs: what was recorded for one batch is replayed for others of the same shapes.

Batches are padded to few sizes (`voxels.padding`), those that are not recorded too, so that results do not depend on
what has been recorded when. A graph holds forward pass, loss and backward pass, on tensors of its own into which each
batch is copied; the optimizer's step, whose learning rate changes, stays outside.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from image2point.lifting.layers import VectorBatchNorm
from image2point.training.batches import Batch
from image2point.voxels import VoxelTensor
from image2point.voxels.modules import kernels_in_use
from image2point.voxels.padding import rows_of

MOST = 16
"""Graphs that are kept; each holds a batch and its tables, and they share the memory of what a step computes."""
NO_TARGET = -100
"""The target of padding, which cross-entropy leaves out and no class hits."""

Step = Callable[[Batch, Tensor], tuple[Tensor, ...]]
"""Forward and backward pass of a batch, its loss times a factor: gives the loss, and how many targets were hit."""
Outputs = list[Tensor | None]
Record = Callable[[Callable[[], Outputs]], tuple[Outputs, Callable[[], None]]]
"""Makes a replay of a function: the outputs, and what computes them again, in place, from the same tensors."""


def recorder(device: torch.device) -> Record | None:
    """What records on a device; None where nothing can."""
    return _CudaGraphs() if device.type == "cuda" else None


def problem(network: nn.Module) -> str | None:
    """Why steps of a network cannot be recorded, or None."""
    for name, module in network.named_modules():
        if isinstance(module, VectorBatchNorm):
            return f"{name} is a norm over clouds, which counts those of the padding"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is None:
            return f"{name} averages over all batches, for whose number the host waits"
    return None


class Graphs:
    """The recorded steps of a training, by the shapes of their batches; the least recently used are dropped.

    A batch of new shapes is not recorded before they come a second time.
    """

    def __init__(self, network: nn.Module, record: Record, say: Callable[[str], None]) -> None:
        self._network, self._record, self._say = network, record, say
        self._recorded: OrderedDict[tuple[int, ...], _Recorded] = OrderedDict()
        self._seen = set[tuple[int, ...]]()
        self._state: Any = None
        self._records = True

    def __len__(self) -> int:
        return len(self._recorded)

    def begin(self) -> None:
        """Before the steps of an epoch: drop what was recorded, if something has changed that it takes for granted."""
        if self._recorded and _state(self._network) != self._state:
            self._recorded.clear()

    def step(self, batch: Batch, factor: float, step: Step) -> tuple[Tensor, ...]:
        """The loss of a padded batch, and the hits; gradients are where `backward` leaves them.

        Both are overwritten by the next step.
        """
        voxels = _voxels(batch)
        missing = voxels.batch_size - len(batch.targets)
        batch = Batch(voxels, F.pad(batch.targets, (0, missing), value=NO_TARGET), batch.indices)
        key = voxels.batch_size, *rows_of(voxels.sites)
        recorded = self._recorded.get(key)
        if recorded is None and key in self._seen and self._records and not _is_watched(self._network):
            recorded = self._recording(batch, step)
        if recorded is None:
            self._seen.add(key)
            return step(batch, _filled(batch, factor))
        self._recorded[key] = recorded
        self._recorded.move_to_end(key)
        if len(self._recorded) > MOST:
            self._recorded.popitem(last=False)
        return recorded.replayed(batch, factor)

    def _recording(self, batch: Batch, step: Step) -> _Recorded | None:
        """A recorded step for batches like this one; None, and it is told, where the device cannot record it."""
        try:
            with _unmoved(self._network):
                recorded = _Recorded(batch, step, self._network, self._record)
            self._state = _state(self._network)
            return recorded
        except RuntimeError as reason:
            self._records = False
            self._say(f"warning: steps are not recorded as graphs any more: {str(reason).splitlines()[0]}")
            return None


class _Recorded:
    """A step on tensors of its own."""

    def __init__(self, batch: Batch, step: Step, network: nn.Module, record: Record) -> None:
        own = dict[int, Tensor]()

        def copied(tensor: Tensor) -> Tensor:
            return own.setdefault(id(tensor), tensor.clone())

        sites, features = _voxels(batch).sites.rebuilt(copied), _voxels(batch).features.clone()
        targets, factor = batch.targets.clone(), _filled(batch, 1.0)
        self._tensors, self._factor = [features, *own.values(), targets], factor
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

        def run() -> Outputs:
            # What is derived from the tables must be made of what they hold when it runs: nothing is kept with them.
            voxels = VoxelTensor(features, sites.rebuilt(lambda tensor: tensor))
            for parameter in self._parameters:
                parameter.grad = None
            outputs = step(Batch(voxels, targets, batch.indices), factor)
            return [*outputs, *(parameter.grad for parameter in self._parameters)]

        self._outputs, self._again = record(run)

    def replayed(self, batch: Batch, factor: float) -> tuple[Tensor, Tensor]:
        by_type = dict[torch.dtype, tuple[list[Tensor], list[Tensor]]]()
        for own, new in zip(self._tensors, _tensors(batch), strict=True):
            for known, tensor in zip(by_type.setdefault(own.dtype, ([], [])), (own, new), strict=True):
                known.append(tensor)
        for owned, given in by_type.values():  # one kernel for each type
            torch._foreach_copy_(owned, given)
        self._factor.fill_(factor)
        self._again()
        loss, hits, *gradients = self._outputs
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        assert loss is not None and hits is not None
        return loss, hits


class _CudaGraphs:
    """Records CUDA graphs, which share their memory: one is replayed after the other, and its results are used up."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, run: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside), torch.random.fork_rng(devices=[torch.cuda.current_device()]):
            run()  # what is compiled, searched for and allocated once is so now
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # The thread that pins the memory of batches goes on meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = run()
        self._pool = graph.pool()
        return outputs, graph.replay


def _filled(batch: Batch, factor: float) -> Tensor:
    """The factor as a tensor, filled on the device: for a copy the host would wait."""
    return batch.targets.new_full((), factor, dtype=torch.float64)


def _tensors(batch: Batch) -> list[Tensor]:
    """All that a step reads of a batch."""
    voxels, found = _voxels(batch), dict[int, Tensor]()
    voxels.sites.rebuilt(lambda tensor: found.setdefault(id(tensor), tensor))
    return [voxels.features, *found.values(), batch.targets]


def _voxels(batch: Batch) -> VoxelTensor:
    assert isinstance(batch.voxels, VoxelTensor)
    return batch.voxels


@contextmanager
def _unmoved(network: nn.Module) -> Iterator[None]:
    """Put buffers back to what they were before, and leave no gradients: recording a step is not one."""
    buffers = list(network.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        for parameter in network.parameters():
            parameter.grad = None


def _state(network: nn.Module) -> Any:
    """What a recorded step takes for granted: where tensors lie, what trains, modes, forms of frozen kernels, hooks."""
    places = [(tensor.data_ptr(), tensor.requires_grad) for tensor in (*network.parameters(), *network.buffers())]
    modes = [module.training for module in network.modules()]
    return places, modes, kernels_in_use(network), _is_watched(network)


def _is_watched(network: nn.Module) -> bool:
    """Whether somebody's function is to be called in each pass."""
    return _has_any_global_hook() or any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in network.modules()
    )
