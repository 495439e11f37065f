"""Norms per cloud, gates, blur, upsampling, channels: sparse = masked dense, and = torch on a full grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from voxel_samples import full_grid, random_voxels, relative

from image2point.networks.timm_import import load_timm
from image2point.voxels import (
    AvgPool,
    BlurPool,
    DenseVoxels,
    EvoNorm,
    FilterResponseNorm,
    GlobalResponseNorm,
    GroupNorm,
    LayerNorm,
    RmsNorm,
    VoxelError,
    VoxelTensor,
    Window,
    functional,
    upsample,
)

GATE = torch.randn(3, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
OPERATIONS: dict[str, Callable[..., Any]] = {
    "layer norm": LayerNorm(4),
    "rms norm": RmsNorm(4),
    "simple norm": RmsNorm(4, centred=True),
    "group norm": GroupNorm(2, 4),
    "group norm of one group": GroupNorm(1, 4, affine=False),
    "grn": GlobalResponseNorm(4),
    "evonorm": EvoNorm(4, 2),
    "evonorm, scale and shift only": EvoNorm(4, 2, activation=False),
    "frn": FilterResponseNorm(4),
    "gate per cloud": lambda x: functional.multiply(x, GATE[: _clouds(x)]),
    "shift per cloud": lambda x: functional.add(x, GATE[: _clouds(x)]),
    "scale per channel": lambda x: functional.multiply(x, GATE[0]),
    "shift per channel": lambda x: functional.subtract(x, GATE[0]),
    "divide by a number": lambda x: functional.divide(x, 3.0),
    "channels": lambda x: functional.channels(x, 1, 3),
    "split": lambda x: functional.split(x, (1, 3))[1],
    "chunk": lambda x: functional.chunk(x, 3)[1],
    "shuffle": lambda x: functional.shuffle(x, 2),
    "sum of parts": lambda x: functional.sum_parts(x, 2),
    "channel mean": functional.channel_mean,
    "gate per site": lambda x: functional.multiply(x, functional.channel_max(x)),
    "softmax mean": lambda x: functional.multiply(x, softmax_mean(x)),
    "blur": BlurPool(Window((3, 3, 3), 2, (1, 1, 1))),
    "flat blur": BlurPool(Window((3, 3, 1), 2, (1, 1, 0)), "zeros"),
    "wide blur": BlurPool(Window((5, 5, 5), 1, (2, 2, 2))),
    "up and down": lambda x: upsample(AvgPool(Window((2, 2, 2), 2))(x), x, 2),
}


def softmax_mean(x: Any) -> Tensor:
    return functional.weighted_sum(x, functional.softmax_over_sites(functional.channel_mean(x)))


BORDERS = ("blur", "flat blur", "wide blur")  # a plain grid is padded as images are, voxels have no border


def _clouds(x: Any) -> int:
    return len(x) if isinstance(x, Tensor) else x.batch_size


def prepared(name: str) -> Callable[..., Any]:
    operation = OPERATIONS[name]
    if isinstance(operation, nn.Module):
        operation.double()
        draw = torch.Generator().manual_seed(3)
        for parameter in operation.parameters():
            parameter.data.uniform_(0.5, 1.5, generator=draw)
    return operation


def parameters(operation: Callable[..., Any]) -> list[Tensor]:
    return list(operation.parameters()) if isinstance(operation, nn.Module) else []


@pytest.mark.parametrize("name", OPERATIONS)
def test_sparse_equals_masked_dense(name: str) -> None:
    operation, x = prepared(name), random_voxels()
    x = x.replace(x.features.requires_grad_())
    sparse, dense = operation(x), operation(x.dense())
    assert torch.equal(sparse.coordinates, dense.sparse().coordinates)
    assert relative(dense.rows, sparse.features) < 1e-10
    assert not dense.grid[~dense.mask.expand_as(dense.grid)].any()
    upstream = torch.randn_like(sparse.features)
    inputs = [x.features, *parameters(operation)]
    for found, expected in zip(
        torch.autograd.grad(dense.rows, inputs, upstream),
        torch.autograd.grad(sparse.features, inputs, upstream),
        strict=True,
    ):
        assert relative(found, expected) < 1e-10


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in BORDERS])
def test_sparse_equals_the_plain_grid_where_it_is_full(name: str) -> None:
    operation, grid = prepared(name), full_grid().requires_grad_()
    full = DenseVoxels(grid, torch.ones(2, 1, 5, 6, 7, dtype=torch.bool))
    plain, sparse = operation(grid), operation(full.sparse())
    rows = plain.permute(0, 2, 3, 4, 1).flatten(0, 3)
    assert relative(sparse.features, rows) < 1e-10
    upstream = torch.randn_like(rows)
    assert relative(*(torch.autograd.grad(y, grid, upstream)[0] for y in (sparse.features, rows))) < 1e-10


def of_timm(name: str) -> nn.Module:
    load_timm()
    from timm import layers
    from timm.layers.grn import GlobalResponseNorm as ResponseNormOfTimm

    make: dict[str, Callable[[], nn.Module]] = {
        "layer norm": lambda: layers.LayerNorm2d(4, eps=1e-5),
        "rms norm": lambda: layers.RmsNorm2d(4),
        "simple norm": lambda: layers.SimpleNorm2d(4),
        "group norm": lambda: nn.GroupNorm(2, 4),
        "grn": lambda: ResponseNormOfTimm(4, channels_last=False),
        "evonorm": lambda: layers.EvoNorm2dS0(4, groups=2),
        "frn": lambda: layers.FilterResponseNormTlu2d(4),
        "blur": lambda: layers.BlurPool2d(4),
        "flat blur": lambda: layers.BlurPool2d(4, pad_mode="constant"),
        "wide blur": lambda: layers.BlurPool2d(4, filt_size=5, stride=1),
    }
    return make[name]()


@pytest.mark.parametrize(
    "name",
    ["layer norm", "rms norm", "simple norm", "group norm", "grn", "evonorm", "frn", "blur", "flat blur", "wide blur"],
)
def test_a_grid_one_cell_thick_is_the_image(name: str) -> None:
    """The same state dict, and the same result as the 2D layer."""
    operation, layer = prepared(name), of_timm(name).double()
    assert isinstance(operation, nn.Module)
    layer.load_state_dict(operation.state_dict())
    image = full_grid(size=(6, 8, 1))
    found = operation(image)
    single = name in ("evonorm", "frn")  # timm takes these statistics in single precision
    assert relative(found.squeeze(-1), layer(image.squeeze(-1))) < (1e-6 if single else 1e-10)


def test_statistics_do_not_mix_clouds() -> None:
    x = random_voxels()
    for name in ("group norm", "grn", "evonorm", "frn", "softmax mean"):
        together = prepared(name)(x) if name != "softmax mean" else softmax_mean(x)
        for cloud in range(3):
            mine = x.sites.batch == cloud
            alone = random_voxels().dense()
            single = DenseVoxels(alone.grid[cloud : cloud + 1], alone.mask[cloud : cloud + 1]).sparse()
            if name == "softmax mean":
                apart = softmax_mean(single)
                weights = torch.softmax(single.features.mean(1), 0)
                torch.testing.assert_close(apart[0], (weights.unsqueeze(1) * single.features).sum(0))
                torch.testing.assert_close(together[cloud], apart[0])
            else:
                torch.testing.assert_close(prepared(name)(single).features, together.features[mine])


def test_blur_keeps_equal_features_equal() -> None:
    x = random_voxels()
    x = x.replace(torch.full_like(x.features, 3.0))
    for name in ("blur", "wide blur"):
        assert relative(prepared(name)(x).features, torch.tensor(3.0, dtype=torch.float64)) < 1e-12


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (5, 2, 2)])
def test_padding_counts_as_in_torch(size: int, stride: int, padding: int) -> None:
    grid = full_grid(size=(6, 8, 4))
    window = Window((size, size, 1), stride, (padding, padding, 0))
    found = AvgPool(window, frozenset((0, 1)))(grid)[..., 0]
    torch.testing.assert_close(found, F.avg_pool2d(grid[..., 0], size, stride, padding))


def test_upsampling_needs_the_finer_sites() -> None:
    x, other = random_voxels(), random_voxels(seed=5)
    coarse = AvgPool(Window((2, 2, 2), 2))(x)
    assert isinstance(coarse, VoxelTensor)
    up = upsample(coarse, x, 2)
    assert isinstance(up, VoxelTensor) and up.sites is x.sites
    for row in (0, len(x.sites) // 2, len(x.sites) - 1):
        parent = x.coordinates[row] // torch.tensor([1, 2, 2, 2])
        assert torch.equal(up.features[row], coarse.features[(coarse.coordinates == parent).all(1)][0])
    with pytest.raises(VoxelError, match="do not coarsen"):
        upsample(coarse, other, 2)
    with pytest.raises(VoxelError, match="DenseVoxels onto VoxelTensor"):
        upsample(coarse.dense(), x, 2)
