"""The transposed convolution: the data gradient of the convolution that it turns round, and torch's on a full grid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from voxel_samples import full_grid, random_voxels, relative

from image2point.voxels import (
    DenseVoxels,
    TiedTransposedConv,
    TransposedConv,
    VoxelConv,
    VoxelError,
    VoxelTensor,
    neighbour_table,
)

# kernel, stride, padding, dilation, groups
WINDOWS = [
    ((2, 2, 2), 2, (0, 0, 0), 1, 1),
    ((3, 3, 3), 2, (1, 1, 1), 1, 1),
    ((4, 4, 2), 2, (1, 1, 0), 1, 2),
    ((5, 4, 4), 4, (1, 0, 0), 1, 1),
    ((3, 3, 3), 2, (3, 3, 3), 3, 4),
    ((3, 3, 3), 1, (1, 1, 1), 1, 1),
    ((2, 1, 3), 1, (0, 0, 2), 1, 2),
    ((1, 1, 1), 1, (0, 0, 0), 1, 1),
    ((1, 1, 1), 2, (0, 0, 0), 1, 1),
]


def layer(window: tuple[object, ...], **named: object) -> TransposedConv:
    """4 → 8 channels, float64, random."""
    kernel, stride, padding, dilation, groups = window
    torch.manual_seed(0)
    conv = TransposedConv(4, 8, kernel, stride, padding, dilation, groups, bias=True, **named)  # type: ignore[arg-type]
    nn.init.normal_(conv.bias)
    return conv.double()


def coarse(finer: VoxelTensor, stride: int) -> VoxelTensor:
    sites = finer.sites.coarsen(stride)
    draw = torch.Generator().manual_seed(7)
    return VoxelTensor(torch.randn(len(sites), 4, generator=draw, dtype=torch.float64), sites)


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_it_is_the_data_gradient_of_the_convolution(window: tuple[object, ...], engine: str) -> None:
    up, finer = layer(window, engine=engine), random_voxels(8)
    assert up.bias is not None
    down = VoxelConv(8, 4, *window, engine="reference").double()  # type: ignore[arg-type]
    with torch.no_grad():
        down.weight.copy_(up.weight)
    x = coarse(finer, up.window.stride)
    features = finer.features.clone().requires_grad_()
    (expected,) = torch.autograd.grad(down(finer.replace(features)).features, features, x.features)
    result = up(x, finer)
    assert result.sites is finer.sites
    assert relative(result.features, expected + up.bias) < 1e-12


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_sparse_equals_masked_dense(window: tuple[object, ...], frozen: bool) -> None:
    """Values and every gradient, of kernels that are and are not constants, on an even number of cells."""
    up, finer = layer(window), random_voxels(8, edge=0.5)
    assert finer.sites.bounds == ([0, 0, 0], [9, 9, 9])
    with torch.no_grad():
        up.weight.copy_(up.weight[..., :1].expand_as(up.weight))  # tied: summed first where it is frozen
    up.weight.requires_grad_(not frozen)
    x = coarse(finer, up.window.stride)
    results: list[list[Tensor]] = []
    for form in (lambda voxels: voxels, lambda voxels: voxels.dense()):
        voxels, onto = form(x), form(finer)
        given = (voxels.features if isinstance(voxels, VoxelTensor) else voxels.grid).clone().requires_grad_()
        y = up(voxels.replace(given), onto)
        rows = y.features if isinstance(y, VoxelTensor) else y.rows
        up.zero_grad()
        (rows * torch.linspace(-1, 1, rows.numel(), dtype=rows.dtype).view_as(rows)).sum().backward()
        gradient = given.grad
        assert gradient is not None
        if isinstance(voxels, DenseVoxels):
            gradient = voxels.replace(gradient).rows
        results.append([rows, gradient, *(p.grad for p in up.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1]) == (3 if frozen else 4)
    for sparse, dense in zip(*results, strict=True):
        assert relative(sparse, dense) < 1e-12


@pytest.mark.parametrize(
    ("window", "output_padding"),
    [(WINDOWS[0], 0), (WINDOWS[1], 1), (((4, 4, 4), 2, (1, 1, 1), 1, 2), 0), (WINDOWS[4], 1), (WINDOWS[5], 0)],
    ids=str,
)
def test_of_a_grid_it_is_torchs(window: tuple[object, ...], output_padding: int) -> None:
    """As far as the finer map reaches, which has an odd number of cells too; and so do voxels where all are there."""
    kernel, stride, padding, dilation, groups = window
    up, grid = layer(window), full_grid()
    assert isinstance(stride, int)
    torchs = nn.ConvTranspose3d(
        4, 8, kernel, stride, padding, output_padding, groups, True, dilation  # type: ignore[arg-type]
    ).double()  # fmt: skip
    torchs.load_state_dict(up.state_dict())
    expected = torchs(grid)
    for missing in (0, stride - 1):
        x, y, z = (n * stride - missing for n in grid.shape[2:])
        assert expected.shape[2:] == tuple(n * stride for n in grid.shape[2:])
        finer = torch.ones(2, 1, x, y, z, dtype=torch.float64)
        torch.testing.assert_close(up(grid, finer), expected[:, :, :x, :y, :z])
        full = DenseVoxels(finer, torch.ones_like(finer, dtype=torch.bool))
        cells = DenseVoxels(grid, torch.ones_like(grid[:, :1], dtype=torch.bool), stride)
        sparse = up(VoxelTensor(cells.rows, full.sparse().sites.coarsen(stride)), full.sparse())
        torch.testing.assert_close(sparse.dense().grid, expected[:, :, :x, :y, :z])


def test_repeated_border_slices() -> None:
    """With `replicate` a grid that is constant along the depth stays so; with zeros its border loses."""
    window = ((4, 4, 4), 2, (1, 1, 1), 1, 1)
    grid = full_grid(size=(3, 4, 1)).expand(-1, -1, -1, -1, 5)
    finer = torch.ones(2, 1, 6, 8, 9, dtype=torch.float64)
    repeated, zeros = (layer(window, depth_padding=padding)(grid, finer) for padding in ("replicate", "zeros"))
    torch.testing.assert_close(repeated, repeated[..., 2:4].repeat(1, 1, 1, 1, 5)[..., :9])
    torch.testing.assert_close(repeated[..., 1:-1], zeros[..., 1:-1])
    assert relative(repeated[..., 0], zeros[..., 0]) > 0.1


def test_a_frozen_inflated_kernel_runs_over_the_encoders_map_with_its_taps_summed() -> None:
    up, finer = layer(WINDOWS[1]), random_voxels(8)
    with torch.no_grad():
        up.weight.copy_(up.weight[..., :1].expand_as(up.weight))
    up.weight.requires_grad_(False)
    kernel, table, _ = up._prepare(finer, None)
    assert kernel.shape == (4, 8, 3, 3, 1) and table is neighbour_table(finer.sites, up.window)
    with torch.no_grad():
        up.weight[..., 1] += 1
    assert up._prepare(finer, None)[0].shape == (4, 8, 3, 3, 3)


def test_a_tied_kernel_is_the_repeated_one() -> None:
    tied = TiedTransposedConv(4, 8, (4, 4, 4), 2, (1, 1, 1), axis="y").double()
    tied.weight = nn.Parameter(torch.randn(4, 8, 4, 4, dtype=torch.float64))
    whole = layer(((4, 4, 4), 2, (1, 1, 1), 1, 1))
    with torch.no_grad():
        whole.weight.copy_(tied.weight.unsqueeze(3).expand_as(whole.weight))
        whole.bias.zero_()  # type: ignore[union-attr]
    finer = random_voxels(8)
    x = coarse(finer, 2)
    assert relative(tied(x, finer).features, whole(x, finer).features) < 1e-12


def test_refusals() -> None:
    up, finer = layer(WINDOWS[0]), random_voxels(8)
    x = coarse(finer, 2)
    with pytest.raises(VoxelError, match="needs voxels on the finer sites"):
        up(x)
    with pytest.raises(VoxelError, match="do not coarsen"):
        up(x, random_voxels(8, seed=1))
    with pytest.raises(VoxelError, match="cannot convolve VoxelTensor onto DenseVoxels"):
        up(x, finer.dense())
    with pytest.raises(VoxelError, match="no border"):
        layer(WINDOWS[0], depth_padding="replicate")(x, finer)
