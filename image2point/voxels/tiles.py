"""Networks on scenes that do not fit the memory: overlapping tiles of voxels, merged by mean probability.

A scene is quantised once, as a whole, and cut afterwards: so a voxel carries the same features in every tile, and
keeps its place on the coarser grids. The outer half of a tile's margin is there to be seen alone; the inner half is
averaged with what the neighbours say. Where the network sees no further than half the overlap, all is as in the whole
scene.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from image2point.errors import InputError
from image2point.voxels import DenseVoxels, VoxelTensor
from image2point.voxels.sites import Sites

ALIGNMENT = 64
"""Tiles are moved by multiples of this, which the strides of networks divide: so coarse voxels stay the same."""


@dataclass(frozen=True, eq=False)
class Tile:
    """Part of a scene.

    rows: int64 [n], its voxels among those of the scene, ascending. core: bool [n], those that lie in no other tile's
    core. counted: bool [n], those about which the tile is asked: the core and the inner half of the margin.
    """

    rows: np.ndarray
    core: np.ndarray
    counted: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def cut(indices: np.ndarray, budget: int, overlap: int) -> list[Tile]:
    """Tiles of at most `budget` voxels that cover a scene; together, their cores hold every voxel once.

    The scene is halved, at the median of its voxels along the longest axis, until every part fits, with all voxels
    around it that are nearer than `overlap`.

    Args:
        indices: integers [N, 3], the voxels of one scene.
        budget: voxels.
        overlap: in voxels.

    Raises:
        InputError: where a part would have to be narrower than half the overlap: nearly all work would go into margins.

    >>> row = np.arange(10)[:, None] * [1, 0, 0]
    >>> [tile.rows.tolist() for tile in cut(row, budget=6, overlap=1)]
    [[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9]]
    """
    indices = np.asarray(indices)
    everything = np.arange(len(indices))
    return list(_halved(indices, everything, indices.min(0), indices.max(0) + 1, budget, overlap))


def _halved(
    indices: np.ndarray, near: np.ndarray, low: np.ndarray, high: np.ndarray, budget: int, overlap: int
) -> Iterator[Tile]:
    """Tiles whose cores fill the box from `low` to below `high`; `near`: rows of all voxels that may be near it."""
    places = indices[near]
    inside = ((places >= low - overlap) & (places < high + overlap)).all(1)
    near, places = near[inside], places[inside]
    core = ((places >= low) & (places < high)).all(1)
    if not core.any():
        return
    if len(near) <= budget:
        inner = ((places >= low - overlap // 2) & (places < high + overlap // 2)).all(1)
        yield Tile(near, core, inner)
        return
    own = places[core]
    low, high = own.min(0), own.max(0) + 1  # the box shrinks to what it holds, which may make it fit
    axis, least = int((high - low).argmax()), max(overlap // 2, 1)
    if high[axis] - low[axis] < 2 * least:
        raise InputError(
            f"data.tiles.voxels = {budget} is too few for one tile: a part of {' × '.join(map(str, high - low))} "
            f"voxels with a margin of {overlap} has {len(near)}; expected more, or a smaller data.tiles.overlap"
        )
    middle = int(np.clip(np.ceil(np.median(own[:, axis])), low[axis] + least, high[axis] - least))
    for side in (0, 1):
        lower, upper = low.copy(), high.copy()
        (lower if side else upper)[axis] = middle
        yield from _halved(indices, near, lower, upper, budget, overlap)


@dataclass(frozen=True, eq=False)
class Said:
    """What a network said about voxels: probabilities float64 [N, C], and of the voxels asked for, in their order,
    features [m, p] and logits [m, C]; all on the CPU."""

    probabilities: Tensor
    features: Tensor
    logits: Tensor


def say(
    embed: Callable[[VoxelTensor | DenseVoxels], tuple[Tensor, Tensor]],
    voxels: VoxelTensor | DenseVoxels,
    asked: Tensor,
    budget: int | None = None,
    overlap: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> Said:
    """Run a network on a batch of scenes, at most `budget` voxels at a time (None: all at once).

    Scenes that fit go whole, several together; larger ones by tiles. A voxel that several tiles count gets the mean of
    their probabilities; its features and logits are those of the tile whose core it lies in.

    Args:
        embed: voxels → features [n, p] and logits [n, C], a row per voxel.
        voxels: of some scenes.
        asked: int64 [m], rows of voxels whose features are wanted.
        progress: called after each pass with the number of voxels that are done by it.

    Raises:
        InputError: as `cut` does.
    """
    count = len(voxels.sites) if isinstance(voxels, VoxelTensor) else int(voxels.mask.sum())
    if budget is None or count <= budget:
        features, logits = embed(voxels)
        progress(count)
        asked = asked.to(features.device)
        return Said(logits.double().softmax(1).cpu(), features[asked].cpu(), logits[asked].cpu())
    dense, sparse = isinstance(voxels, DenseVoxels), voxels.sparse() if isinstance(voxels, DenseVoxels) else voxels
    coordinates = sparse.coordinates.cpu().numpy()
    wanted, place = np.zeros(count, dtype=bool), np.zeros(count, dtype=np.int64)
    wanted[asked.numpy()], place[asked.numpy()] = True, np.arange(len(asked))
    total, times = torch.zeros(0), torch.zeros(count, dtype=torch.float64)
    kept: tuple[Tensor, Tensor] | None = None
    for some in _passes(list(_tiles(coordinates, sparse.batch_size, budget, overlap)), budget):
        features, logits = (each.cpu() for each in embed(_joined(sparse, some, dense)))
        if kept is None:
            total = torch.zeros(count, logits.shape[1], dtype=torch.float64)
            kept = features.new_empty(len(asked), features.shape[1]), logits.new_empty(len(asked), logits.shape[1])
        rows = np.concatenate([tile.rows for tile in some])
        own = np.flatnonzero(np.concatenate([tile.core for tile in some]) & wanted[rows])
        for values, store in ((features, kept[0]), (logits, kept[1])):
            store[torch.from_numpy(place[rows[own]])] = values[torch.from_numpy(own)]
        counted = torch.from_numpy(np.concatenate([tile.counted for tile in some]))
        to = torch.from_numpy(rows)[counted]
        total.index_add_(0, to, logits[counted].double().softmax(1))
        times.index_add_(0, to, torch.ones(len(to), dtype=torch.float64))
        progress(int(sum(tile.core.sum() for tile in some)))
    assert kept is not None
    return Said(total.div_(times.unsqueeze(1)), *kept)


def _tiles(coordinates: np.ndarray, scenes: int, budget: int, overlap: int) -> Iterator[Tile]:
    """The tiles of all scenes of a batch, with rows of the batch."""
    ends = np.searchsorted(coordinates[:, 0], np.arange(scenes + 1))
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        for tile in cut(coordinates[start:end, 1:], budget, overlap):
            yield replace(tile, rows=tile.rows + start)


def _passes(tiles: Sequence[Tile], budget: int) -> Iterator[list[Tile]]:
    """Tiles that run together, in order."""
    some: list[Tile] = []
    for tile in tiles:
        if some and sum(map(len, some)) + len(tile) > budget:
            yield some
            some = []
        some.append(tile)
    yield some


def _joined(voxels: VoxelTensor, tiles: Sequence[Tile], dense: bool) -> VoxelTensor | DenseVoxels:
    """The tiles as a batch of scenes."""
    rows = torch.from_numpy(np.concatenate([tile.rows for tile in tiles])).to(voxels.device)
    sizes = torch.tensor([len(tile) for tile in tiles], device=voxels.device)
    number = torch.repeat_interleave(torch.arange(len(tiles), device=voxels.device), sizes)
    places = voxels.coordinates[rows, 1:].long()
    lowest = places.new_zeros(len(tiles), 3).scatter_reduce(
        0, number.unsqueeze(1).expand_as(places), places, "amin", include_self=False
    )
    places = places - torch.div(lowest, ALIGNMENT, rounding_mode="floor")[number] * ALIGNMENT
    sites = Sites(torch.cat([number.unsqueeze(1), places], 1).to(torch.int32), len(tiles), voxels.stride)
    joined = VoxelTensor(voxels.features[rows], sites)
    return joined.dense() if dense else joined
