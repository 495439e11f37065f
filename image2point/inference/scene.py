"""A label for every point of a scene, however large: voxels are made part by part, and the network runs by tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from image2point.datasets.cloud import Cloud
from image2point.datasets.features import Ground, brightest, by_brightest
from image2point.datasets.parts import Parts
from image2point.datasets.recipe import Recipe, prepare, to_voxels_and_rows
from image2point.networks.interface import Network
from image2point.voxels import VoxelTensor
from image2point.voxels.sites import unique_sites
from image2point.voxels.tiles import say

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how much of how much is done."""


@dataclass(frozen=True, eq=False)
class SceneLabels:
    """What a network says of each of P points.

    shares: float32 [N, C], the probability of each class in each voxel; index: int32 [P], the voxel of each point.
    """

    shares: np.ndarray
    index: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """The most probable class of each point, of the smallest unsigned type [P]."""
        return self.shares.argmax(1).astype(np.min_scalar_type(self.shares.shape[1]))[self.index]

    def probabilities(self, number: int) -> PointColumn:
        """Those of one class at the points."""
        return PointColumn(self.shares[:, number], self.index)


@dataclass(frozen=True, eq=False)
class PointColumn:
    """A value for each point that is looked up in its voxel when it is asked for: an array only as long as its slices.

    >>> PointColumn(np.array([0.5, 0.25], dtype=np.float32), np.array([1, 1, 0]))[1:]
    array([0.25, 0.5 ], dtype=float32)
    """

    values: np.ndarray
    index: np.ndarray

    @property
    def dtype(self) -> np.dtype:
        return self.values.dtype

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.asarray(self.values[self.index[rows]])


def label_scene(
    network: Network,
    parts: Parts,
    recipe: Recipe,
    where: str,
    budget: int | None = None,
    overlap: int = 0,
    progress: Progress = lambda what, done, of: None,
) -> SceneLabels:
    """The labels of a scene; the network sees at most `budget` voxels at once (None: all), see `voxels.tiles`.

    The points may come in parts, and no part has to hold a region of its own: voxels are those of the whole scene.
    In memory are one part, four bytes for each point, and the voxels. Raises InputError, which begins with `where`,
    for points that lack what the input features need, and as `tiles.say` does.
    """
    voxels, index = scene_voxels(parts, recipe, where, progress)
    count, done = len(voxels.sites), 0

    def more(voxels: int) -> None:
        nonlocal done
        done += voxels
        progress("labelling", done, count)

    nothing = torch.empty(0, dtype=torch.int64)
    with torch.no_grad():
        said = say(network.embed, fitted(voxels, network), nothing, budget, overlap, more)
    return SceneLabels(said.probabilities.float().numpy(), index)


def fitted(voxels: Any, network: Network) -> Any:
    """Voxels on the device and of the number type of a network."""
    parameter = next(network.parameters())
    return voxels.to(parameter.dtype).to(parameter.device)


def scene_voxels(
    parts: Parts, recipe: Recipe, where: str, progress: Progress = lambda what, done, of: None
) -> tuple[VoxelTensor, np.ndarray]:
    """The voxels of a scene as `datasets.recipe` makes them of the whole, and the row of each point's, int32 [P]."""
    whole = _Whole(parts, recipe)
    recipe = replace(recipe, intensity="given", substrate="sparse")
    found, counts, rows, done = list[VoxelTensor](), list[np.ndarray](), list[np.ndarray](), 0
    for part in parts:
        cloud = prepare(whole.complete(part), where, recipe)
        voxels, (own,) = to_voxels_and_rows([cloud], recipe, [where])
        assert isinstance(voxels, VoxelTensor)
        found.append(voxels)
        rows.append(own.to(torch.int32).numpy())
        counts.append(np.bincount(rows[-1], minlength=len(voxels.sites)).astype(np.float32))
        done += len(cloud)
        progress("reading", done, len(parts))
    if len(found) == 1:
        return found[0], rows[0]
    return _joined(found, counts, rows, recipe.voxel_size)


def _joined(
    found: list[VoxelTensor], counts: list[np.ndarray], rows: list[np.ndarray], size: float
) -> tuple[VoxelTensor, np.ndarray]:
    """The voxels of all parts as those of one scene; voxels of several parts get the mean over all their points."""
    corners = [torch.round(each.sites.placed()[0] / size) for each in found]  # of index 0, in voxels
    lowest = torch.cat(corners).amin(0)
    places = [each.coordinates for each in found]
    for place, corner in zip(places, corners, strict=True):
        place[:, 1:] += (corner[0] - lowest).to(torch.int32)
    sites, voxel = unique_sites(torch.cat(places), 1, 1, lowest.unsqueeze(0) * size, size)
    total = torch.zeros(len(sites), found[0].features.shape[1])
    weight = torch.zeros(len(sites), 1)
    index, ends = [], np.cumsum([0, *map(len, places)])
    for number, each in enumerate(found):
        to, times = voxel[ends[number] : ends[number + 1]], torch.from_numpy(counts[number]).unsqueeze(1)
        total.index_add_(0, to, each.features * times)
        weight.index_add_(0, to, times)
        index.append(to.to(torch.int32).numpy()[rows[number]])
        rows[number] = np.empty(0, dtype=np.int32)
    return VoxelTensor(total.div_(weight), sites), np.concatenate(index)


class _Whole:
    """What the input features of a part need to know of the whole scene; looked through where need be."""

    def __init__(self, parts: Parts, recipe: Recipe) -> None:
        self.recipe, self.low = recipe, parts.low.astype(np.float32)
        self.ground = None
        if "ground_height" in recipe.features:
            self.ground = Ground(recipe.up, recipe.ground_cell, self.low)
            self.lowest = self.ground.lowest(part.points.astype(np.float32) for part in parts)
        self.brightest: float | None = None
        if recipe.intensity == "scene" and "intensity" in recipe.features:
            seen = [part.attributes["intensity"] for part in parts if "intensity" in part.attributes]
            self.brightest = brightest(np.concatenate(seen).astype(np.float32)) if seen else None

    def complete(self, part: Cloud) -> Cloud:
        points, known = part.points.astype(np.float32), dict(part.attributes)
        if self.ground is not None and "ground_height" not in known:
            known["ground_height"] = self.ground.height(points, self.lowest)
        if "height" in self.recipe.features and self.recipe.up is not None:
            axis = "xyz".index(self.recipe.up)
            known["height"] = points[:, axis] - self.low[axis]
        if self.brightest is not None:
            known["intensity"] = by_brightest(known["intensity"].astype(np.float32), self.brightest)
        return replace(part, attributes=known)
