"""Batches of nearly equal numbers of voxels, for clouds that differ much in size."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapreplace

import numpy as np
import torch
from torch import Tensor

from image2point.datasets.class_split import Labelled
from image2point.errors import InputError
from image2point.training.batches import Preparation, batches, in_order
from image2point.voxels import DenseVoxels, VoxelTensor

_AT_ONCE = 64


def count_voxels(
    clouds: Labelled, recipe: Preparation, workers: int = 0, rank: int = 0, world: int = 1
) -> Iterator[np.ndarray]:
    """Occupied voxels of each cloud, int64, as it is without augmentation; some clouds at a time, in order. Of several
    processes each counts its contiguous share."""
    for batch in batches(clouds, in_order(len(clouds), _AT_ONCE, rank, world), recipe.still, 0, workers):
        yield _counts(batch.voxels).numpy()


def _counts(voxels: VoxelTensor | DenseVoxels | Tensor) -> Tensor:
    if isinstance(voxels, VoxelTensor):
        return voxels.sites.counts
    assert isinstance(voxels, DenseVoxels)
    return torch.count_nonzero(voxels.mask.flatten(1), 1)


def steps(counts: np.ndarray, budget: int, processes: int = 1) -> int:
    """Batches of an epoch: as many as have at least `budget` voxels on average.

    Raises:
        InputError: where a batch could be left without a cloud for each process.
    """
    largest = int(counts.max())
    if budget < (processes + 1) * largest:
        raise InputError(
            f"training.batch_voxels = {budget}: the largest cloud has {largest} voxels, and every batch needs "
            f"{'a cloud' if processes == 1 else f'{processes} clouds'}; expected at least {(processes + 1) * largest}"
        )
    return max(int(counts.sum()) // budget, 1)


def packed(counts: np.ndarray, budget: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The global batches of an epoch: the permutation that `batches.shuffled` makes, cut where the voxels of whole
    clouds come nearest to equal shares from below. The number of batches is the same in every epoch."""
    order = np.random.default_rng((seed, epoch)).permutation(len(counts))
    number = steps(counts, budget)
    ends = np.cumsum(counts[order])
    return np.split(order, np.searchsorted(ends, np.arange(1, number) * (ends[-1] / number)))


def share(indices: np.ndarray, counts: np.ndarray, rank: int, world: int) -> np.ndarray:
    """What process `rank` of `world` takes of a batch, in the batch's order, so that all have nearly as many voxels.

    From the largest to the smallest, each cloud goes to the process that has the fewest voxels so far (Graham, 1969).

    >>> counts = np.array([9, 1, 2, 8])
    >>> [share(np.arange(4), counts, rank, 2).tolist() for rank in (0, 1)]
    [[0, 1], [2, 3]]
    """
    order = np.argsort(-counts[indices], kind="stable")
    taker, loads = np.empty(len(indices), np.int64), [(0, process) for process in range(world)]
    for place, count in zip(order.tolist(), counts[indices[order]].tolist(), strict=True):
        load, taker[place] = loads[0]
        heapreplace(loads, (load + count, int(taker[place])))
    return indices[taker == rank]
