"""Scenes by overlapping tiles: every voxel is covered, and what a network sees from there is what it would see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import image2point as i2p
from image2point.errors import InputError
from image2point.voxels import DenseVoxels, VoxelTensor, tiles
from image2point.voxels.modules import VoxelConv


def scene(seed: int = 0, points: int = 3000, extent: float = 40.0) -> Tensor:
    torch.manual_seed(seed)
    return torch.rand(points, 3) * torch.tensor([extent, extent, 6.0])


@pytest.mark.parametrize("overlap", [0, 1, 3])
def test_tiles_cover_the_scene_within_the_budget(overlap: int) -> None:
    indices = i2p.voxelize([scene()], 1.0).coordinates[:, 1:].numpy()
    found = tiles.cut(indices, 1200, overlap)
    assert len(found) > 1 and all(len(tile) <= 1200 for tile in found)
    assert sorted(np.concatenate([tile.rows[tile.core] for tile in found])) == list(range(len(indices)))
    for tile in found:
        own = indices[tile.rows[tile.core]]
        near = ((indices >= own.min(0) - overlap) & (indices <= own.max(0) + overlap)).all(1)
        assert set(np.flatnonzero(near)) <= set(tile.rows)  # everything within the overlap is there


def test_a_scene_that_fits_is_one_tile() -> None:
    (tile,) = tiles.cut(np.arange(12).reshape(4, 3), 4, 5)
    assert tile.rows.tolist() == [0, 1, 2, 3] and tile.core.all()


def test_a_budget_too_small_for_one_tile_is_named() -> None:
    indices = i2p.voxelize([scene()], 1.0).coordinates[:, 1:].numpy()
    with pytest.raises(InputError, match=r"data.tiles.voxels = 300 is too few .* smaller data.tiles.overlap"):
        tiles.cut(indices, 300, 8)


class Net(torch.nn.Module):
    """A convolution of stride 2 and one of stride 1, read from the coarse voxel of each fine one; reach: 5 voxels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = VoxelConv(3, 8, (3, 3, 3), 2, (1, 1, 1))
        self.second = VoxelConv(8, 8, (3, 3, 3), 1, (1, 1, 1))
        self.last = torch.nn.Linear(8, 4)

    def embed(self, x: VoxelTensor | DenseVoxels) -> tuple[Tensor, Tensor]:
        sparse = x.sparse() if isinstance(x, DenseVoxels) else x
        coarse = self.second(self.first(sparse))
        assert isinstance(coarse, VoxelTensor)
        features = coarse.features[sparse.sites.parents(2)]
        return features, self.last(features)


@pytest.mark.parametrize("dense", [False, True])
def test_with_enough_overlap_a_tile_sees_what_the_whole_scene_shows(dense: bool) -> None:
    """Two scenes in a batch, the larger in tiles; features are in metres of the scene, not of the tile."""
    net = Net().double()
    voxels = i2p.voxelize([scene(0), scene(1, 400, 12.0)], 1.0).double()
    given = voxels.dense() if dense else voxels
    asked = torch.arange(3, len(voxels.sites), 7)
    with torch.no_grad():
        whole = tiles.say(net.embed, given, asked)
        seen: list[int] = []

        def embed(x: VoxelTensor | DenseVoxels) -> tuple[Tensor, Tensor]:
            assert isinstance(x, DenseVoxels) == dense
            features, logits = net.embed(x)
            seen.append(len(features))
            return features, logits

        parts = tiles.say(embed, given, asked, budget=2000, overlap=12)
    assert len(seen) > 2 and max(seen) <= 2000
    for name in ("features", "logits", "probabilities"):
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name), rtol=1e-9, atol=1e-12)


def test_probabilities_of_overlapping_tiles_are_averaged() -> None:
    """A network that says one thing in its first call and another in its second."""
    voxels = i2p.voxelize([torch.arange(10.0)[:, None] * torch.tensor([1.0, 0, 0])], 1.0)
    calls: list[int] = []

    def embed(x: VoxelTensor | DenseVoxels) -> tuple[Tensor, Tensor]:
        calls.append(len(x.features))  # type: ignore[union-attr]
        logits = torch.tensor([[0.0, -100.0]] if len(calls) == 1 else [[-100.0, 0.0]]).expand(calls[-1], 2)
        return logits, logits

    said = tiles.say(embed, voxels, torch.tensor([4, 5]), budget=7, overlap=2)
    assert calls == [7, 7]
    assert said.probabilities[:, 0].tolist() == pytest.approx([1, 1, 1, 1, 0.5, 0.5, 0, 0, 0, 0])
    assert said.logits[:, 0].tolist() == [0, -100]  # each from the tile whose core it lies in
