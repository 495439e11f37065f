"""Points ⇄ voxels: the voxel of each point, where voxels lie, and features of any stage back at the points."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import image2point as i2p
from image2point.voxels import (
    AvgPool,
    BlurPool,
    DenseVoxels,
    MaxPool,
    Pointwise,
    Sites,
    SpaceToDepth,
    VoxelConv,
    VoxelError,
    VoxelTensor,
    Window,
    to_points,
    voxelize,
)

SIZE = 0.1
LAMBERT = torch.tensor([871_234.56, 6_512_345.78, 312.9], dtype=torch.float64)
"""Metres, as national grids have them: float32 numbers are half a metre apart there."""


def random_clouds(extent: float = 0.7, counts: tuple[int, ...] = (90, 60), seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(n, 3, generator=generator, dtype=torch.float64) * extent - 0.2 for n in counts]


def coarsened(x: Any, *strides: int) -> Any:
    for stride in strides:
        x = AvgPool(Window((stride,) * 3, stride))(x)
    return x


# ------------------------------------------------------------------------------------------------- points to voxels


@pytest.mark.parametrize("substrate", ["sparse", "dense"])
def test_the_index_names_the_voxel_of_each_point(substrate: str) -> None:
    clouds = random_clouds()
    voxels, index = voxelize(clouds, SIZE, substrate=substrate, return_index=True)
    rows = voxels.rows if isinstance(voxels, DenseVoxels) else voxels.features
    sums, counts = torch.zeros_like(rows), torch.zeros(len(rows), 1)
    for cloud, own in zip(clouds, index, strict=True):
        assert own.dtype == torch.int64 and own.shape == (len(cloud),)
        for point, row in zip(cloud, own.tolist(), strict=True):
            sums[row] += point
            counts[row] += 1
            assert bool(((point - voxels.centres[row]).abs() <= SIZE / 2 + 1e-12).all())
    torch.testing.assert_close(rows, sums / counts)  # features are the means of the coordinates


def test_the_index_follows_mixed_points_cloud_by_cloud() -> None:
    clouds = random_clouds()
    batch = torch.cat([torch.zeros(90), torch.ones(60)]).long()
    order = torch.randperm(150, generator=torch.Generator().manual_seed(1))
    mixed, batch = torch.cat(clouds)[order], batch[order]
    voxels, index = voxelize((mixed, batch), SIZE, return_index=True)
    for number, rows in enumerate(index):
        own = mixed[batch == number]
        assert bool(((own - voxels.centres[rows]).abs() <= SIZE / 2 + 1e-12).all())
    found = to_points(voxels, index, (mixed, batch), mode="linear")
    assert [len(rows) for rows in found] == [90, 60]


def test_projected_coordinates_lose_nothing() -> None:
    near = [cloud.mul(1000).round().div(1000) for cloud in random_clouds(3.0)]  # files keep millimetres
    shift = LAMBERT.mul(20).round().div(20)  # a multiple of the voxels
    far = [cloud + shift for cloud in near]
    values = [torch.randn(len(c), 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64) for c in near]
    here, index = voxelize(near, 0.05, values, return_index=True)
    there, index_there = voxelize(far, 0.05, values, return_index=True)
    assert torch.equal(here.coordinates, there.coordinates) and all(map(torch.equal, index, index_there))
    assert float((there.centres - shift - here.centres).abs().max()) < 2e-9  # of 6.5 million metres
    for coarse_here, coarse_there in ((here, there), (coarsened(here, 2, 2), coarsened(there, 2, 2))):
        linear = to_points(coarse_here, index, near, "linear"), to_points(coarse_there, index, far, "linear")
        torch.testing.assert_close(torch.cat(linear[0]), torch.cat(linear[1]), rtol=0, atol=1e-6)
    with pytest.raises(VoxelError, match=r"float32 numbers are 0\.5 apart"):
        voxelize([cloud.float() for cloud in far], 0.05)


# ---------------------------------------------------------------------------------------------------------- places


@pytest.mark.parametrize("strides", [(), (2,), (2, 2), (4, 2), (3,)])
def test_centres_lie_in_the_middle_at_any_stride(strides: tuple[int, ...]) -> None:
    voxels = voxelize(random_clouds(), SIZE)
    coarse = coarsened(voxels, *strides)
    stride = int(torch.tensor(strides).prod()) if strides else 1
    lowest = [torch.floor(cloud / SIZE).amin(0) * SIZE for cloud in random_clouds()]
    for row, (batch, *place) in enumerate(coarse.coordinates.tolist()):
        expected = lowest[batch] + (torch.tensor(place).double() + 0.5) * SIZE * stride
        torch.testing.assert_close(coarse.centres[row], expected, rtol=0, atol=1e-12)
    on_grid = coarsened(voxels.dense(), *strides)
    assert torch.equal(on_grid.centres, coarse.centres) and coarse.centres.dtype == torch.float64


LAYERS: dict[str, nn.Module] = {
    "max": MaxPool(Window((3, 3, 3), 2, (1, 1, 1))),
    "mean": AvgPool(Window((2, 2, 2), 2)),
    "blur": BlurPool(Window((3, 3, 3), 2, (1, 1, 1))),
    "block": SpaceToDepth(2),
    "convolution": VoxelConv(3, 4, (3, 3, 3), 2, (1, 1, 1)).double(),
    "stride 1": VoxelConv(3, 4, (3, 3, 3), 1, (1, 1, 1)).double(),
    "activation": Pointwise(nn.ReLU()),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_keeps_the_place_and_the_points(name: str) -> None:
    sparse, index = voxelize(random_clouds(), SIZE, return_index=True)
    with torch.no_grad():
        found, on_grid = (LAYERS[name](x) for x in (sparse, sparse.dense()))
    assert isinstance(found, VoxelTensor) and isinstance(on_grid, DenseVoxels)
    assert torch.equal(found.centres, on_grid.centres)
    for mode in ("nearest", "linear"):
        rows = [torch.cat(to_points(x, index, random_clouds(), mode)) for x in (found, on_grid)]
        torch.testing.assert_close(*rows)


MOVES: dict[str, Any] = {
    "type": lambda x: x.to(torch.float32),
    "device": lambda x: x.to("cpu"),
    "double": lambda x: x.double(),
    "other features": lambda x: x.replace((x.features if isinstance(x, VoxelTensor) else x.grid) * 2),
    "grid": lambda x: x.dense() if isinstance(x, VoxelTensor) else x,
    "sparse": lambda x: x.sparse() if isinstance(x, DenseVoxels) else x,
    "grid and back": lambda x: x.dense().sparse() if isinstance(x, VoxelTensor) else x.sparse().dense(),
    "rows": lambda x: x.replace_rows(x.rows * 2) if isinstance(x, DenseVoxels) else x,
}


@pytest.mark.parametrize("substrate", ["sparse", "dense"])
@pytest.mark.parametrize("name", MOVES)
def test_the_place_survives(name: str, substrate: str) -> None:
    voxels = voxelize(random_clouds(), SIZE, None, substrate)
    for x in (voxels, coarsened(voxels, 2)):
        moved = MOVES[name](x)
        place: Any = moved.sites if isinstance(moved, VoxelTensor) else moved
        assert place.voxel_size == SIZE and place.origin.dtype == torch.float64
        assert torch.equal(moved.centres, x.centres)


def test_another_device_takes_the_place_along() -> None:
    voxels = voxelize(random_clouds(), SIZE)
    for x in (coarsened(voxels, 2), coarsened(voxels.dense(), 2)):
        moved = x.to("meta")
        place: Any = moved.sites if isinstance(moved, VoxelTensor) else moved
        assert place.origin.device.type == place.finest.device.type == "meta"


def test_centres_of_a_line_of_a_hundred_kilometres_in_millimetres() -> None:
    far = torch.tensor([[0.0, 0.0, 0.0], [100_000.0005, 0.0, 0.0]], dtype=torch.float64)
    voxels, index = voxelize([far], 0.001, return_index=True)
    torch.testing.assert_close(
        voxels.centres[index[0], 0], torch.tensor([0.0005, 100_000.0005], dtype=torch.float64), rtol=0, atol=1e-9
    )


def test_places_that_nobody_knows() -> None:
    sites = Sites.of(torch.zeros(1, 4, dtype=torch.int32))
    with pytest.raises(VoxelError, match="where these voxels lie is unknown"):
        _ = VoxelTensor(torch.zeros(1, 1), sites).centres
    with pytest.raises(VoxelError, match=r"origin: expected float64 \[1, 3\], found torch.float32 \[1, 3\]"):
        Sites.of(sites.coordinates, origin=torch.zeros(1, 3))
    known = Sites.of(sites.coordinates, 1, 2, torch.tensor([[10.0, 0.0, -1.0]], dtype=torch.float64), 0.5)
    assert known.centres.tolist() == [[10.5, 0.5, -0.5]]


# ------------------------------------------------------------------------------------------------- voxels to points


@pytest.mark.parametrize("substrate", ["sparse", "dense"])
@pytest.mark.parametrize("strides", [(), (2,), (2, 2, 2)])
def test_the_nearest_is_the_voxel_around_the_point(strides: tuple[int, ...], substrate: str) -> None:
    clouds = random_clouds()
    voxels, index = voxelize(clouds, SIZE, substrate=substrate, return_index=True)
    coarse = coarsened(voxels, *strides)
    edge = SIZE * (int(torch.tensor(strides).prod()) if strides else 1)
    for cloud, found in zip(clouds, to_points(coarse, index), strict=True):
        number = 0 if cloud is clouds[0] else 1
        own = coarse.sparse() if substrate == "dense" else coarse
        for point, features in zip(cloud, found, strict=True):
            around = ((point - own.centres).abs() <= edge / 2 + 1e-9).all(1) & (own.coordinates[:, 0] == number)
            assert around.sum() == 1 and torch.equal(own.features[around][0], features)


@pytest.mark.parametrize("strides", [(), (2,), (3,)])
def test_linear_gives_back_what_is_linear(strides: tuple[int, ...]) -> None:
    """Where all eight voxels around a point are occupied, features that are a linear function of the place are met."""
    corner = torch.tensor(list(product(range(12), repeat=3)), dtype=torch.float64) * SIZE + SIZE / 2
    inner = torch.rand(200, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 0.5 + 0.35
    cloud = torch.cat([corner, inner])
    voxels, index = voxelize([cloud], SIZE, return_index=True)
    coarse = coarsened(voxels, *strides)
    found = to_points(coarse.replace(coarse.centres), index, [cloud], mode="linear")[0]
    torch.testing.assert_close(found[-200:], inner, rtol=0, atol=1e-12)


@pytest.mark.parametrize("strides", [(), (2,), (2, 2)])
def test_linear_counts_occupied_voxels_only(strides: tuple[int, ...]) -> None:
    clouds = random_clouds()
    voxels, index = voxelize(clouds, SIZE, return_index=True)
    coarse = coarsened(voxels, *strides)
    edge = SIZE * (int(torch.tensor(strides).prod()) if strides else 1)
    for number, found in enumerate(to_points(coarse, index, clouds, mode="linear")):
        own = coarse.coordinates[:, 0] == number
        distance = (clouds[number].unsqueeze(1) - coarse.centres[own]).abs() / edge
        weight = (1 - distance).clamp(min=0).prod(2)
        torch.testing.assert_close(found, weight @ coarse.features[own] / weight.sum(1, keepdim=True))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_the_gradient(mode: Any) -> None:
    clouds = random_clouds(0.4, (7, 5))
    voxels, index = voxelize(clouds, SIZE, return_index=True)
    coarse = coarsened(voxels, 2)
    for x in (voxels, coarse):
        rows = torch.randn(len(x.sites), 2, dtype=torch.float64, requires_grad=True)

        def at_points(rows: Tensor, x: VoxelTensor = x) -> Tensor:
            return torch.cat(to_points(x.replace(rows), index, clouds, mode))

        assert torch.autograd.gradcheck(at_points, rows)
        assert torch.autograd.gradgradcheck(lambda rows: at_points(rows).square(), rows)
    grid = coarsened(voxels.dense(), 2)
    cells = grid.grid.detach().requires_grad_()
    weight = torch.randn(12, 3, dtype=torch.float64)
    (found,) = torch.autograd.grad(
        (torch.cat(to_points(grid.replace(cells), index, clouds, mode)) * weight).sum(), cells
    )
    rows = coarse.features.detach().requires_grad_()
    (expected,) = torch.autograd.grad(
        (torch.cat(to_points(coarse.replace(rows), index, clouds, mode)) * weight).sum(), rows
    )
    torch.testing.assert_close(found.permute(0, 2, 3, 4, 1)[grid.mask[:, 0]], expected)


def test_points_at_the_very_edge_of_single_precision() -> None:
    """A coordinate that its type rounded below a multiple belongs above it, and interpolation finds it there."""
    cloud = torch.arange(200, dtype=torch.float32).mul(0.1).unsqueeze(1).expand(-1, 3).contiguous() + 100
    voxels, index = voxelize([cloud], 0.1, return_index=True)
    found = to_points(voxels.replace(voxels.features.new_ones(len(voxels.sites), 1)), index, [cloud], "linear")[0]
    torch.testing.assert_close(found, torch.ones(200, 1))


def test_a_lifted_network_brings_every_stage_to_the_points() -> None:
    net = i2p.lift("test_resnet", weights="random", num_classes=None).eval()
    clouds = [cloud.float() for cloud in random_clouds()]
    voxels, index = i2p.voxelize(clouds, 0.05, return_index=True)
    with torch.no_grad():
        stages = net.forward_features(voxels)
    strides = set()
    for stage in stages.values():
        assert isinstance(stage, VoxelTensor)
        strides.add(stage.stride)
        rows = torch.cat([i2p.to_points(stage, index)[0], i2p.to_points(stage, index, clouds, mode="linear")[1]])
        assert rows.shape == (150, stage.features.shape[1]) and bool(torch.isfinite(rows).all())
    assert max(strides) >= 16


def test_the_page_on_points_runs() -> None:
    page = (Path(i2p.__file__).parents[1] / "docs/points.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert [stage.stride for stage in names["stages"].values()] == [1, 1, 2, 4, 8]
    assert [list(each.shape) for each in names["features"]] == [[2000, 1024], [3000, 1024]]


def test_what_does_not_fit_is_named() -> None:
    clouds = random_clouds()
    voxels, index = voxelize(clouds, SIZE, return_index=True)
    coarse = coarsened(voxels, 2)
    for arguments, message in (
        ((voxels, index, clouds, "cubic"), 'mode: expected "nearest" or "linear", found \'cubic\''),
        ((voxels, index, None, "linear"), 'mode="linear" needs the clouds'),
        ((voxels, index[:1]), r"expected one tensor per cloud \(2\), found 1"),
        ((voxels, [index[0], index[1].float()]), r"index of cloud 1: expected int64 \[N\].*found torch.float32 \[60\]"),
        ((voxels, [index[0], index[1].tolist()]), r"index of cloud 1: expected int64 \[N\].*found list"),
        ((coarse, [index[1], index[0]]), "index of cloud 0: row .* is none of its voxels"),
        ((coarse, [index[0], index[1] + 1000]), "index of cloud 1: row .* is none of its voxels"),
        ((voxels, index, [clouds[1], clouds[0]], "linear"), r"with \[90, 60\] points, found \[60, 90\]"),
        ((coarse, index, [clouds[0], clouds[1] * 100], "linear"), "cloud 1: point 0 at .* is not in the voxel"),
        ((coarse.dense(), index), "voxels of stride 2 do not know which input voxels"),
        ((torch.zeros(1, 1, 2, 2, 2), index), "expected a VoxelTensor or DenseVoxels, found Tensor"),
    ):
        with pytest.raises(VoxelError, match=message):
            to_points(*arguments)
