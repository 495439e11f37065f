"""How many multiplications a network makes: of its convolutions and linear layers, counted while it runs.

A multiply–accumulate (MAC) is one product with an entry of a weight. Biases, norms, activations, pooling and the
sums of neighbours that share a weight are not counted, as is usual.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from image2point.lifting.activations import Input, MaskedImages, evaluating
from image2point.voxels import DenseVoxels, Sites, TransposedConv, VoxelConv, VoxelTensor, Window, neighbour_table
from image2point.voxels.conv.structure import Structure, whole

COUNTED = (VoxelConv, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True)
class Cost:
    """Multiply–accumulates of one or several layers.

    Attributes:
        macs: one for every entry of the kernel at every input that it meets: in a sparse convolution the occupied
            neighbours, on a grid all cells, padding included.
        summed: what is left where neighbours with equal weights are summed before they are multiplied, and slices of
            zeros skipped, as the sparse convolution does with an inflated kernel that takes no gradient.
        grid: `macs` of the same layer on a grid, which for sparse voxels is the box around each cloud.
    """

    macs: float = 0.0
    summed: float = 0.0
    grid: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.macs + other.macs, self.summed + other.summed, self.grid + other.grid)

    def __truediv__(self, number: float) -> Cost:
        return Cost(self.macs / number, self.summed / number, self.grid / number)


def costs(network: nn.Module, batches: Iterable[Input]) -> dict[str, Cost]:
    """Cost per input of each convolution and linear layer, averaged over all inputs of the batches.

    Args:
        network: a lifted network, or any 2D one.
        batches: voxels for a 3D network; images [B, C, H, W] or `MaskedImages` for a 2D one.
    """
    with evaluating(network), counting(network) as counted:
        for batch in batches:
            network(batch.image if isinstance(batch, MaskedImages) else batch)
    return counted.result()


class Counting:
    """Costs of the layers of a network, growing with each batch that it runs."""

    def __init__(self) -> None:
        self._inputs, self._layers = 0, dict[str, Cost]()

    def watch(self, network: nn.Module) -> list[RemovableHandle]:
        """Count from now on, until the handles are removed."""

        def see_batch(network: nn.Module, inputs: Any) -> None:
            self._inputs += _batch_size(inputs[0])

        def see(name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
            self._layers[name] = self._layers.get(name, Cost()) + layer_cost(layer, inputs[0], output)

        layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, COUNTED)]
        handles = [layer.register_forward_hook(partial(see, name)) for name, layer in layers]
        return [network.register_forward_pre_hook(see_batch), *handles]

    def result(self) -> dict[str, Cost]:
        """Cost per input of every layer that was called."""
        return {name: cost / self._inputs for name, cost in self._layers.items()}


@contextmanager
def counting(network: nn.Module) -> Iterator[Counting]:
    """Count the costs of a network while the block runs it."""
    counted = Counting()
    handles = counted.watch(network)
    try:
        yield counted
    finally:
        for handle in handles:
            handle.remove()


def layer_cost(layer: nn.Module, x: Any, y: Any) -> Cost:
    """Cost of one call of a layer that made y from x."""
    weight = layer.kernel() if isinstance(layer, VoxelConv) else layer.weight
    assert isinstance(weight, Tensor)
    transposed = isinstance(layer, TransposedConv | nn.ConvTranspose2d)
    if transposed:
        x, y = y, x  # as the convolution that leads from its outputs to its inputs
    if isinstance(layer, VoxelConv) and isinstance(x, VoxelTensor):
        return sparse_cost(x.sites, layer.window, weight.shape, layer.structure(), transposed)
    if isinstance(y, VoxelTensor):
        return Cost(*(len(y.sites) * weight.numel(),) * 2, grid_cells(y.sites) * weight.numel())
    grid = y.grid if isinstance(y, DenseVoxels) else y
    # Every output is the product of one row of the weight with what it reads.
    return Cost(*(grid.numel() * prod(weight.shape[1:]),) * 3)


def sparse_cost(
    sites: Sites,
    window: Window,
    kernel: tuple[int, ...],
    structure: Structure | None = None,
    transposed: bool = False,
) -> Cost:
    """Cost of a sparse convolution over given sites.

    Args:
        kernel: shape of the kernel, [C_out, C_in / groups, Kx, Ky, Kz].
        structure: slices of zeros and repetitions in its values; None for none.
        transposed: whether it leads to these sites, from those of the stride; kernel [C_in, C_out / groups, ...].
    """
    structure = structure or whole(window)
    outputs, inputs = kernel[:2]
    cells = grid_cells(sites.coarsen(window.stride)) * window.taps
    untied = _products(sites, window, frozenset(), transposed)
    products = untied, _products(sites, structure.window, structure.tied, transposed)
    return Cost(*(float(number * outputs * inputs) for number in (*products, cells)))


def grid_cells(sites: Sites) -> int:
    """Cells of the boxes from index 0 to the largest index of each cloud."""
    box = torch.full((sites.batch_size, 3), -1, dtype=torch.int64, device=sites.device)
    index = sites.batch.unsqueeze(1).expand(-1, 3)
    box.scatter_reduce_(0, index, sites.coordinates[:, 1:].long(), "amax")
    return int((box + 1).prod(1).sum())


def _products(sites: Sites, window: Window, tied: frozenset[int], transposed: bool) -> int:
    """Products of a row with a matrix: one for each tap that finds a voxel, taps along tied axes together."""
    if window.is_pointwise():
        return len(sites)

    def count() -> int:
        table = neighbour_table(sites, window)
        present = (table.entries(backward=transposed) >= 0).view(*table.kernel, -1)
        for axis in tied:
            present = present.any(axis, keepdim=True)
        return int(present.sum())

    return sites.plan(("products", window, tied, transposed), count)


def _batch_size(x: Any) -> int:
    return x.batch_size if isinstance(x, VoxelTensor | DenseVoxels) else len(x)
