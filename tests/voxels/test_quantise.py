"""Points → voxels."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from image2point.voxels import (
    DenseVoxels,
    MapConv,
    Sites,
    VoxelConv,
    VoxelError,
    VoxelTensor,
    reduce,
    tensor,
    voxelize,
)
from image2point.voxels.memory import free_bytes


def naive(clouds: list[torch.Tensor], size: float) -> dict[tuple[int, int, int, int], torch.Tensor]:
    cells: dict[tuple[int, int, int, int], list[torch.Tensor]] = {}
    for number, cloud in enumerate(clouds):
        index = torch.floor(cloud.double() / size).long()
        index -= index.min(0).values
        for cell, point in zip(index.tolist(), cloud, strict=True):
            cells.setdefault((number, *cell), []).append(point)
    return {cell: torch.stack(points).mean(0) for cell, points in cells.items()}


def test_means_per_voxel_in_sorted_order() -> None:
    clouds = [torch.randn(n, 3) for n in (100, 1, 40)]
    expected = naive(clouds, 0.5)
    found = voxelize(clouds, 0.5)
    assert [tuple(row) for row in found.coordinates.tolist()] == sorted(expected)
    for row, feature in zip(found.coordinates.tolist(), found.features, strict=True):
        torch.testing.assert_close(feature, expected[tuple(row)])
    assert found.coordinates.dtype == torch.int32
    Sites.of(found.coordinates)


def test_arrays_and_tensors_and_both_substrates_agree() -> None:
    clouds = [np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32) for _ in range(2)]
    sparse = voxelize(clouds, 0.3)
    dense = voxelize([torch.from_numpy(c) for c in clouds], 0.3, None, "dense")
    assert isinstance(dense, DenseVoxels)
    assert torch.equal(dense.rows, sparse.features)
    assert torch.equal(dense.sparse().coordinates, sparse.coordinates)


def test_features_have_any_width() -> None:
    found = voxelize([torch.rand(30, 3)], 0.2, [torch.ones(30, 5)])
    torch.testing.assert_close(found.features, torch.ones(len(found.features), 5))


def test_both_reductions_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    if reduce.torch_scatter() is None:
        pytest.skip("torch-scatter is not installed (make scatter builds it): only torch's own reductions run")
    rows = torch.randn(200, 3, dtype=torch.float64)
    segment = torch.randint(0, 20, (200,))
    segment[segment == 7] = 8  # an empty segment
    functions = (reduce.segment_sum, reduce.segment_mean, reduce.segment_max)

    def run() -> list[torch.Tensor]:
        results = []
        for function in functions:
            given = rows.clone().requires_grad_()
            output = function(given, segment, 20)
            (gradient,) = torch.autograd.grad((output * torch.arange(3)).sum(), given)
            results += [output.detach(), gradient]
        return results

    with_scatter = run()
    monkeypatch.setattr(reduce, "torch_scatter", lambda: None)
    for found, expected in zip(run(), with_scatter, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("clouds", "size", "message"),
    [
        ([], 0.1, "empty list"),
        ([torch.zeros(0, 3)], 0.1, "cloud 0: expected at least one point"),
        ([torch.zeros(4, 2)], 0.1, r"cloud 0: expected coordinates \[N, 3\]"),
        ([torch.zeros(4, 3, dtype=torch.bool)], 0.1, "cloud 0: expected a dense array of real numbers"),
        ([torch.zeros(4, 3, dtype=torch.complex64)], 0.1, "cloud 0: expected a dense array of real numbers"),
        ([np.zeros((4, 3), dtype=complex)], 0.1, "cloud 0: expected an array of real numbers"),
        ([np.ma.masked_greater(np.ones((4, 3)), 0)], 0.1, "cloud 0: expected plain numbers, found a masked array"),
        ([torch.zeros(4, 3, device="meta")], 0.1, "cloud 0: expected numbers, found a tensor on the device meta"),
        ([np.zeros((4, 3))], True, "voxel_size: expected a positive number, found True"),
        ([np.full((4, 3), "a")], 0.1, "cloud 0: expected an array of real numbers"),
        ([[[0.0, 1.0, 2.0], [0.0]]], 0.1, "cloud 0: expected an array of numbers, found list"),
        ([None], 0.1, "cloud 0: expected an array of real numbers"),
        (None, 0.1, "clouds: expected a list of"),
        ("cloud.ply", 0.1, "clouds: expected a list of .* found str"),
        (torch.zeros(3), 0.1, r"cloud 0: expected coordinates \[N, 3\]"),
        ([torch.zeros(4, 6)], 0.1, r"found torch.float32 \[4, 6\]; further columns go to features="),
        ((torch.zeros(4, 3), torch.tensor([0, 0, 2, 2])), 0.1, "cloud 1: expected at least one point"),
        ((torch.zeros(4, 3), torch.tensor([0, 0, 1])), 0.1, r"batch: expected integers \[4\]"),
        ((torch.zeros(4, 3), torch.tensor([0, -1, 1, 1])), 0.1, "batch: expected cloud numbers from 0 on, found -1"),
        ((torch.zeros(2, 3), torch.tensor([0, 10**12])), 0.1, "cloud 1000000000000 of only 2 points"),
        ((torch.zeros(2, 3), torch.tensor([0.0, 1.0])), 0.1, "batch: expected integers"),
        ([torch.zeros(4, 3), torch.tensor([[0.0, 1.0, float("nan")]])], 0.1, "cloud 1: expected finite"),
        ([torch.tensor([[0.0, 0.0, float("inf")]])], 0.1, "cloud 0: expected finite"),
        ([torch.tensor([[0.0, 0, 0], [1e9, 0, 0]]).double()], 0.1, "cloud 0: a voxel index of 1e[+]10 does not fit"),
        ([torch.tensor([[0.0, 0, 0], [-1e9, 0, 0]])], 0.1, "cloud 0: near 1e[+]09, float32 numbers are 64 apart"),
        ([torch.zeros(1, 3), np.array([[1e308, 0, 0]])], 0.1, "cloud 1: near 1e[+]308, float64 numbers are"),
        ([np.array([[-1e308, 0, 0], [1e308, 0, 0]])], 1e296, "cloud 0: a voxel index of .* does not fit"),
        ([torch.full((1, 3), 100.0).half()], 0.05, "cloud 0: near 100, float16 numbers are 0.0625 apart"),
        ([torch.tensor([[2**60, 0, 0]])], 1.0, "cloud 0: near 1.15292e[+]18, int64 numbers are"),
        ([torch.zeros(4, 3)], "small", "voxel_size: expected a positive number, found 'small'"),
        ([torch.zeros(4, 3)], 0.0, "voxel_size: expected a positive number"),
        ([torch.zeros(4, 3)], float("nan"), "voxel_size: expected a positive number"),
    ],
)
def test_bad_input_is_refused_by_name(clouds: list[torch.Tensor], size: float, message: str) -> None:
    with pytest.raises(VoxelError, match=message):
        voxelize(clouds, size)


def test_bad_features_and_substrate() -> None:
    cloud = torch.rand(5, 3)
    with pytest.raises(VoxelError, match="features of cloud 0"):
        voxelize([cloud], 0.1, [torch.rand(4, 3)])
    with pytest.raises(VoxelError, match="one width"):
        voxelize([cloud, cloud], 0.1, [torch.rand(5, 3), torch.rand(5, 2)])
    with pytest.raises(VoxelError, match="substrate"):
        voxelize([cloud], 0.1, None, "octree")
    with pytest.raises(VoxelError, match=r"expected one array per cloud \(1\), found 2"):
        voxelize([cloud], 0.1, [cloud, cloud])
    with pytest.raises(VoxelError, match=r"features of cloud 1: expected finite values, found .* in row 2"):
        voxelize([cloud, cloud], 0.1, [cloud[:, :1], torch.tensor([[0.0], [0.0], [torch.nan], [0.0], [0.0]])])
    with pytest.raises(VoxelError, match="features of cloud 1: the sum over the points of a voxel exceeds"):
        voxelize([cloud, cloud], 2.0, [cloud[:, :1], torch.full((5, 1), 3e38)])


POINTS = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
READ_ONLY = POINTS.copy()
READ_ONLY.flags.writeable = False

ONE_CLOUD: dict[str, Callable[[], Any]] = {
    "a list": lambda: [POINTS],
    "an iterator": lambda: iter([POINTS]),
    "lists of numbers": lambda: [POINTS.tolist()],
    "one array": lambda: POINTS,
    "one tensor": lambda: torch.from_numpy(POINTS),
    "a batch of one": lambda: POINTS[None],
    "float64": lambda: [POINTS.astype(np.float64)],
    "long double": lambda: [POINTS.astype(np.longdouble)],
    "big-endian": lambda: [POINTS.astype(">f4")],
    "big-endian float64": lambda: [POINTS.astype(">f8")],
    "a reversed view": lambda: [POINTS[::-1].copy()[::-1]],
    "every second column": lambda: [np.repeat(POINTS, 2, axis=1)[:, ::2]],
    "a read-only array": lambda: [READ_ONLY],
    "PyG's style": lambda: (torch.from_numpy(POINTS), torch.zeros(60, dtype=torch.int64)),
    "PyG's style, one cloud": lambda: (torch.from_numpy(POINTS), None),
    "PyG's Data": lambda: SimpleNamespace(pos=torch.from_numpy(POINTS), x=None),
    "PyG's Batch": lambda: SimpleNamespace(pos=torch.from_numpy(POINTS), batch=torch.zeros(60, dtype=torch.int64)),
    "a list of PyG's Data": lambda: [SimpleNamespace(pos=torch.from_numpy(POINTS), batch=None)],
    "Open3D's tensors": lambda: [SimpleNamespace(point={"positions": Numpy(POINTS)})],
    "Open3D's legacy clouds": lambda: SimpleNamespace(points=POINTS.astype(np.float64)),
}


class Numpy:
    """An array of another library."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def numpy(self) -> np.ndarray:
        return self.values


@pytest.mark.filterwarnings("error")  # torch warns of arrays that it cannot write
@pytest.mark.parametrize("form", ONE_CLOUD.values(), ids=ONE_CLOUD)
def test_a_cloud_in_any_form_gives_the_same_voxels(form: Callable[[], Any]) -> None:
    expected, found = voxelize([torch.from_numpy(POINTS)], 0.5), voxelize(form(), 0.5)
    assert torch.equal(found.coordinates, expected.coordinates)
    torch.testing.assert_close(found.features.float(), expected.features)


def test_the_features_have_the_type_of_the_points() -> None:
    for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert voxelize([torch.from_numpy(POINTS).to(kind)], 0.5).features.dtype == kind
    for kind in (np.uint8, np.int16, np.int64, np.uint64):
        assert voxelize([np.ones((4, 3), kind)], 0.5).features.dtype == torch.float32
    both = voxelize([torch.zeros(1, 3), torch.zeros(1, 3).double()], 0.5)
    assert both.features.dtype == torch.float64


def test_clouds_and_features_of_a_whole_batch() -> None:
    points, colours = torch.randn(3, 40, 3), torch.rand(3, 40, 2)
    expected = voxelize(list(points), 0.5, list(colours))
    flat, batch = points.flatten(0, 1), torch.arange(3).repeat_interleave(40)
    mixed = torch.randperm(120)
    for clouds, features in (
        (points, colours),
        ((flat, batch), colours.flatten(0, 1)),
        ((flat[mixed], batch[mixed]), colours.flatten(0, 1)[mixed].numpy()),
        (SimpleNamespace(pos=flat, batch=batch), colours.flatten(0, 1)),
        ([SimpleNamespace(pos=cloud, batch=None) for cloud in points], colours),
    ):
        found = voxelize(clouds, 0.5, features)
        assert torch.equal(found.coordinates, expected.coordinates)
        torch.testing.assert_close(found.features, expected.features)
    one = voxelize(points[0], 0.5, colours[0])
    torch.testing.assert_close(one.features, voxelize([points[0]], 0.5, [colours[0]]).features)


@pytest.mark.parametrize("size", [0.05, 0.1, 0.3, 1 / 3])
@pytest.mark.parametrize("origin", [0.0, -3.0, 40.0])
def test_points_on_the_grid_begin_their_voxels(size: float, origin: float) -> None:
    """However the grid was made: rounded once, or computed in its own type."""
    index = torch.cartesian_prod(*[torch.arange(12)] * 3)
    steps = index + round(origin / size)
    grids = [
        (steps.double() * size).to(kind) for kind in (torch.float32, torch.float64)
    ] + [steps.float() * torch.tensor(size), steps.double() / (1 / size)]  # fmt: skip
    for grid in grids:
        assert torch.equal(voxelize([grid], size).coordinates[:, 1:].long(), index)
    cells = voxelize([steps.float() * size + size / 2], size).coordinates[:, 1:]
    assert torch.equal(cells.long(), index)


def test_points_below_the_grid_stay_below() -> None:
    for kind, less in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        points = torch.tensor([[0.0, 0.0, 0.0], [0.3 * (1 - less), 0.0, 0.0]], dtype=kind)
        assert voxelize([points], 0.1).coordinates[-1].tolist() == [0, 2, 0, 0]


def test_integer_coordinates_are_exact() -> None:
    index = torch.cartesian_prod(*[torch.arange(6)] * 3) + 2**40
    for size, kept in ((1.0, index), (2.0, index // 2)):
        found = voxelize([index], size)
        assert torch.equal(found.coordinates[:, 1:].long(), torch.unique(kept - kept.min(0).values, dim=0))


def test_half_precision_sums_many_points() -> None:
    """In float16 a sum of ones ends at 65,504 at the latest."""
    for kind in (torch.float16, torch.bfloat16):
        features = torch.ones(70_000, 2, dtype=kind)
        assert voxelize([torch.zeros(70_000, 3)], 1.0, [features]).features.tolist() == [[1.0, 1.0]]


def test_a_grid_that_does_not_fit_is_refused_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clouds = [torch.zeros(1, 3), torch.tensor([[0.0, 0, 0], [0.9, 0.1, 0.3]])]
    monkeypatch.setattr(tensor, "free_bytes", lambda device: 2 * 10 * 2 * 4 * (2 * 3 * 4 + 1))
    assert voxelize(clouds, 0.1, None, "dense").grid.shape == (2, 3, 10, 2, 4)
    monkeypatch.setattr(tensor, "free_bytes", lambda device: 2 * 10 * 2 * 4 * (2 * 3 * 4 + 1) - 1)
    with pytest.raises(
        VoxelError, match=r"takes 4,000 bytes .* 3,999 are free .* cloud 1 is the widest, with 10 × 2 × 4"
    ):
        voxelize(clouds, 0.1, None, "dense")


def test_a_grid_larger_than_any_machine_is_refused() -> None:
    if free_bytes(torch.device("cpu")) is None:
        pytest.skip("this machine does not say how much memory is free")
    with pytest.raises(VoxelError, match="cloud 0 is the widest"):
        voxelize([np.array([[0.0, 0, 0], [2e9, 2e9, 2e9]])], 1.0, None, "dense")


def test_voxels_of_another_type_than_the_network_are_refused() -> None:
    cloud = torch.rand(20, 3)
    for layer in (VoxelConv(3, 4, (3, 3, 3), 1, (1, 1, 1)), MapConv(3, 4, (1, 1, 1))):
        for voxels in (voxelize([cloud], 0.3), voxelize([cloud], 0.3, None, "dense")):
            if isinstance(layer, MapConv) and isinstance(voxels, VoxelTensor):
                continue
            layer(voxels)
            with pytest.raises(
                VoxelError, match=r"type torch.float32, found torch.float64; .*voxels.to\(torch.float32"
            ):
                layer(voxels.double())


def test_coordinates_from_outside_are_checked() -> None:
    with pytest.raises(VoxelError, match="sorted"):
        Sites.of(torch.tensor([[0, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.int32))
    with pytest.raises(VoxelError, match="unique"):
        Sites.of(torch.zeros(2, 4, dtype=torch.int32))
    with pytest.raises(VoxelError, match="int32"):
        Sites.of(torch.zeros(2, 4))
    with pytest.raises(VoxelError, match="batch indices"):
        Sites.of(torch.tensor([[3, 0, 0, 0]], dtype=torch.int32), batch_size=2)
    with pytest.raises(VoxelError, match="a row per voxel"):
        VoxelTensor(torch.zeros(2, 1), Sites.of(torch.zeros(1, 4, dtype=torch.int32)))
