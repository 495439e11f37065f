"""Small clouds whose voxels, neighbours and maxima can be written down."""

from __future__ import annotations

import pytest
import torch
from voxel_samples import random_voxels, relative

from image2point.voxels import GlobalPool, Sites, VoxelConv, VoxelTensor, Window, lookup, voxelize
from image2point.voxels.functional import shuffle
from image2point.voxels.reduce import segment_max


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_indices_do_not_depend_on_the_precision_of_the_points(dtype: torch.dtype) -> None:
    """0.7 lies below seven tenths in single precision, and 0.3 / 0.1 below 3 in double precision."""
    points = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.6, 0.7], [1.1, 1.3, 1.7], [5.9, 7.7, 12.3]], dtype=dtype)
    expected = torch.tensor([[0, 0, 0], [3, 6, 7], [11, 13, 17], [59, 77, 123]], dtype=torch.int32)
    assert not torch.equal(torch.floor(points / 0.1).int(), expected)  # or this would show nothing
    assert torch.equal(voxelize([points], 0.1).coordinates[:, 1:], expected)


@pytest.mark.parametrize("way", ["compiled", "direct", "search"])
def test_no_neighbours_in_other_clouds(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The voxel that comes next in order lies where a neighbour would, but in the next cloud."""
    if way != "compiled":
        monkeypatch.setattr(lookup, "library", lambda: None)
    if way == "search":
        monkeypatch.setattr(lookup, "_DIRECT_CELLS", 0)
    sites = Sites.of(torch.tensor([[0, 0, 0, 0], [1, 0, 1, 0], [2, 0, 1, 1]], dtype=torch.int32))
    reads = lookup.look_up(sites, sites, Window((3, 3, 3), 1, (1, 1, 1)))
    assert reads[13].tolist() == [0, 1, 2]
    assert int((reads >= 0).sum()) == 3


def test_the_maximum_of_negative_features_is_negative() -> None:
    sites = Sites.of(torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]], dtype=torch.int32))
    x = VoxelTensor(torch.tensor([[-2.0], [-1.0], [-3.0]]), sites)
    for form in (x, x.dense()):
        assert GlobalPool("max")(form).tolist() == [[-1.0], [-3.0]]
    assert segment_max(x.features, torch.tensor([0, 0, 2]), 3).tolist() == [[-1.0], [0.0], [-3.0]]


def test_strides_multiply() -> None:
    sites = Sites.of(torch.tensor([[0, 0, 0, 0], [0, 5, 6, 7]], dtype=torch.int32))
    coarse = sites.coarsen(2).coarsen(3)
    assert coarse.stride == 6 and coarse.coordinates.tolist() == [[0, 0, 0, 0], [0, 0, 1, 1]]


def test_a_shuffle_deals_the_channels_of_each_group_in_turn() -> None:
    sites = Sites.of(torch.tensor([[0, 0, 0, 0]], dtype=torch.int32))
    x = VoxelTensor(torch.arange(6.0).unsqueeze(0), sites)
    for form in (x, x.dense()):
        found = shuffle(form, 2)
        rows = found.features if isinstance(found, VoxelTensor) else found.rows
        assert rows.tolist() == [[0, 3, 1, 4, 2, 5]]


def evaluated(layer: VoxelConv, x: VoxelTensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a frozen layer gives by its own engine, and by the reference."""
    layer.requires_grad_(False)
    found = layer(x).features
    layer.engine = "reference"
    return found, layer(x).features


def test_a_kernel_is_tied_only_if_all_its_channels_are() -> None:
    layer = VoxelConv(4, 6, (3, 3, 3), 1, (1, 1, 1)).double()
    with torch.no_grad():
        layer.weight[:4] = layer.weight[:4, ..., :1]
    assert relative(*evaluated(layer, random_voxels())) < 1e-12


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("face", [0, 2])
def test_slices_of_zeros_are_left_out_in_place(dilation: int, face: int) -> None:
    layer = VoxelConv(4, 6, (3, 3, 3), 1, (dilation,) * 3, dilation).double()
    with torch.no_grad():
        layer.weight[:, :, face] = 0
        layer.weight[..., 2 - face] = 0
    assert layer.structure().window.kernel == (2, 3, 2)
    assert relative(*evaluated(layer, random_voxels())) < 1e-12
