"""Upsampling to the nearest parent: against a loop over the voxels, on all substrates, and its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from voxel_samples import full_grid, random_voxels

from image2point.voxels import AvgPool, DenseVoxels, Sites, VoxelError, VoxelTensor, Window, upsample
from image2point.voxels.gather import Gathering
from image2point.voxels.upsample import parents


def map_of(finer: VoxelTensor, *strides: int, channels: int = 3) -> VoxelTensor:
    """A map on sites that were coarsened by each of the strides in turn."""
    sites = finer.sites
    for stride in strides:
        sites = sites.coarsen(stride)
    generator = torch.Generator().manual_seed(len(sites))
    return VoxelTensor(torch.randn(len(sites), channels, generator=generator, dtype=torch.float64), sites)


def by_loop(coarse: VoxelTensor, finer: VoxelTensor, scale: int) -> Tensor:
    rows = {tuple(place): row for row, place in enumerate(coarse.coordinates.tolist())}
    found = [rows[batch, x // scale, y // scale, z // scale] for batch, x, y, z in finer.coordinates.tolist()]
    return torch.stack([coarse.features[row] for row in found])


@pytest.mark.parametrize("strides", [(1,), (2,), (2, 2), (4, 2), (2, 2, 2, 2), (3,)])
def test_each_voxel_takes_what_its_parent_has(strides: tuple[int, ...]) -> None:
    finer = random_voxels()
    coarse = map_of(finer, *strides)
    found = upsample(coarse, finer)
    assert isinstance(found, VoxelTensor) and found.sites is finer.sites
    scale = int(torch.tensor(strides).prod())
    assert torch.equal(found.features, by_loop(coarse, finer, scale))
    # Sites that do not know the finer ones: from a file, from another process, or coarsened in one step.
    strange = VoxelTensor(coarse.features, Sites.of(coarse.coordinates.clone(), 3, scale))
    again = upsample(strange, random_voxels())
    assert isinstance(again, VoxelTensor) and torch.equal(again.features, found.features)


def test_between_two_maps_that_are_both_coarse() -> None:
    x = random_voxels()
    finer, coarse = map_of(x, 2), map_of(x, 2, 2, 2)
    found = upsample(coarse, finer)
    assert isinstance(found, VoxelTensor) and torch.equal(found.features, by_loop(coarse, finer, 4))


def test_negative_indices_have_parents_below() -> None:
    sites = Sites.of(torch.tensor([[0, -3, 0, 0], [0, -1, 0, 0], [0, 1, 0, 0]], dtype=torch.int32))
    coarse = VoxelTensor(
        torch.tensor([[5.0], [6.0], [7.0]]),
        Sites.of(torch.tensor([[0, -2, 0, 0], [0, -1, 0, 0], [0, 0, 0, 0]], dtype=torch.int32), 1, 2),
    )
    found = upsample(coarse, VoxelTensor(torch.zeros(3, 1), sites))
    assert isinstance(found, VoxelTensor) and found.features.flatten().tolist() == [5.0, 6.0, 7.0]


@pytest.mark.parametrize("strides", [(2,), (2, 2), (2, 2, 2)])
def test_sparse_is_masked_dense(strides: tuple[int, ...]) -> None:
    finer = random_voxels()
    coarse = map_of(finer, *strides)
    coarse.features.requires_grad_()
    weight = torch.randn(len(finer.features), 3, dtype=torch.float64)
    sparse, dense = upsample(coarse, finer), upsample(coarse.dense(), finer.dense())
    assert isinstance(sparse, VoxelTensor) and isinstance(dense, DenseVoxels)
    assert torch.equal(dense.rows, sparse.features)
    assert not dense.grid.permute(0, 2, 3, 4, 1)[~dense.mask[:, 0]].any()
    gradients = [
        torch.autograd.grad((rows * weight).sum(), coarse.features)[0] for rows in (sparse.features, dense.rows)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_plain_grids_repeat_their_cells() -> None:
    grid = full_grid(2, 2, (5, 6, 7))
    coarse = AvgPool(Window((2, 2, 2), 2))(AvgPool(Window((2, 2, 2), 2))(grid))
    assert isinstance(coarse, Tensor)
    found = upsample(coarse, grid)
    assert isinstance(found, Tensor)
    for x, y, z in ((0, 0, 0), (3, 5, 3), (4, 5, 6)):
        assert torch.equal(found[:, :, x, y, z], coarse[:, :, x // 4, y // 4, z // 4])
    again = upsample(coarse, grid, 4)
    assert isinstance(again, Tensor) and torch.equal(again, found)
    with pytest.raises(
        VoxelError, match=r"no power of two leads from a grid \[5, 6, 7\] to \[2, 2, 3\]: give the scale"
    ):
        upsample(grid[:, :, :2, :2, :3], grid)


def test_the_gradient_is_that_of_a_difference_and_has_one_itself() -> None:
    finer = random_voxels(clouds=2, points=12, channels=1)
    coarse = map_of(finer, 2, 2, channels=2)
    gathering = parents(finer.sites, coarse.sites)
    rows = coarse.features.requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: gathering.take(rows), rows)
    assert torch.autograd.gradgradcheck(lambda rows: gathering.take(rows).square(), rows)
    values = torch.randn(len(finer.sites), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: gathering.sum(values), values)


def test_rows_that_nobody_takes_get_zero() -> None:
    gathering = Gathering(torch.tensor([3, 1, 3, 3]), 5)
    values = torch.tensor([[1.0], [10.0], [100.0], [1000.0]])
    assert gathering.sum(values).flatten().tolist() == [0.0, 10.0, 0.0, 1101.0, 0.0]
    assert gathering.take(torch.arange(5.0).unsqueeze(1)).flatten().tolist() == [3.0, 1.0, 3.0, 3.0]


def test_parents_are_found_once_and_without_a_search_where_they_are_known() -> None:
    finer = random_voxels()
    coarse = map_of(finer, 2, 2)
    assert parents(finer.sites, coarse.sites) is parents(finer.sites, coarse.sites)
    assert finer.sites._known_rows(coarse.sites) is not None
    assert finer.sites._known_rows(Sites.of(coarse.coordinates, 3, 4)) is None


def test_what_does_not_fit_is_named() -> None:
    finer, other = random_voxels(), random_voxels(seed=5)
    coarse = map_of(finer, 2)
    with pytest.raises(VoxelError, match=r"do not coarsen to the sites.*have no parent, the first at"):
        upsample(coarse, other)
    with pytest.raises(VoxelError, match="stride 2 onto one of stride 4"):
        upsample(coarse, map_of(finer, 4))
    with pytest.raises(VoxelError, match="by 4: the strides are 2 and 1"):
        upsample(coarse, finer, 4)
    with pytest.raises(VoxelError, match="VoxelTensor onto DenseVoxels"):
        upsample(coarse, finer.dense())
