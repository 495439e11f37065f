"""Points → voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from image2point.voxels import DenseVoxels, Sites, VoxelError, VoxelTensor, reduce, voxelize


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
        ([torch.zeros(4, 2)], 0.1, r"cloud 0: expected floating-point \[N, 3\]"),
        ([torch.zeros(4, 3, dtype=torch.int64)], 0.1, "cloud 0: expected floating-point"),
        ([torch.zeros(4, 3), torch.tensor([[0.0, 1.0, float("nan")]])], 0.1, "cloud 1: expected finite"),
        ([torch.tensor([[0.0, 0.0, float("inf")]])], 0.1, "cloud 0: expected finite"),
        ([torch.tensor([[0.0, 0, 0], [1e9, 0, 0]])], 0.1, "cloud 0: a voxel index of 1e[+]10 does not fit"),
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
