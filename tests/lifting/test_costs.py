"""Multiply–accumulates against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import image2point as i2p
from image2point.lifting.costs import Cost, costs, sparse_cost
from image2point.voxels import Sites, TiedConv, VoxelConv, VoxelTensor, Window
from image2point.voxels.conv.structure import whole

CUBE = Window((3, 3, 3), padding=(1, 1, 1))


def sites(*places: tuple[int, int, int, int]) -> Sites:
    return Sites.of(torch.tensor(sorted(places), dtype=torch.int32))


LINE = sites((0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 0, 2))


@pytest.mark.parametrize(
    ("tied", "summed"),
    [
        (frozenset(), 7),  # each voxel reads itself, and four read one neighbour more
        (frozenset({2}), 3),  # all neighbours lie along z: one product per voxel
        (frozenset({0}), 7),  # none lie along x
        (frozenset({0, 1, 2}), 3),
    ],
)
def test_three_voxels_in_a_row(tied: frozenset[int], summed: int) -> None:
    found = sparse_cost(LINE, CUBE, (5, 4, 3, 3, 3), whole(CUBE, tied))
    assert found == Cost(7 * 20, summed * 20, 3 * 27 * 20)


def test_strides_and_separate_clouds() -> None:
    """Two clouds; each output cell of 2×2×2 reads the voxels in it."""
    place = sites((0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 0, 2), (1, 0, 0, 0), (1, 3, 0, 0))
    corners = Window((2, 2, 2), stride=2)
    found = sparse_cost(place, corners, (2, 3, 2, 2, 2), whole(corners, frozenset({0, 1, 2})))
    # Boxes of the outputs: 1×1×2 for the first cloud, 2×1×1 for the second.
    assert found == Cost(5 * 6, 4 * 6, (2 + 2) * 8 * 6)
    assert sparse_cost(place, Window((1, 1, 1)), (2, 3, 1, 1, 1)) == Cost(5 * 6, 5 * 6, (3 + 4) * 6)
    # A strided 1×1×1 reads the voxels with even indices.
    assert sparse_cost(place, Window((1, 1, 1), stride=2), (2, 3, 1, 1, 1)) == Cost(3 * 6, 3 * 6, 4 * 6)


def test_images() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 5, padding=2, groups=8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )  # fmt: skip
    batches = [torch.zeros(2, 3, 12, 10), torch.zeros(1, 3, 12, 10)]
    found = costs(network, batches)
    first, second = 6 * 5 * 8 * 27, 6 * 5 * 8 * 25
    assert found == {"0": Cost(first, first, first), "1": Cost(second, second, second), "4": Cost(80, 80, 80)}


class Twice(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: VoxelTensor) -> VoxelTensor:
        return self.conv(self.conv(x))


def test_kernels_speak_for_themselves_and_calls_add_up() -> None:
    repeated = VoxelConv(4, 4, (3, 3, 3), padding=(1, 1, 1))
    tied = TiedConv(4, 4, (3, 3, 3), padding=(1, 1, 1))
    tied.weight = nn.Parameter(torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0)))
    x = VoxelTensor(torch.ones(3, 4), LINE)
    assert costs(Twice(repeated), [x])["conv"] == Cost(2 * 7 * 16, 2 * 7 * 16, 2 * 81 * 16)
    with torch.no_grad():
        repeated.weight.copy_(tied.kernel())
    expected = Cost(2 * 7 * 16, 2 * 3 * 16, 2 * 81 * 16)
    assert costs(Twice(repeated), [x])["conv"] == costs(Twice(tied), [x])["conv"] == expected
    with torch.no_grad():  # as `center` has it: slices of zeros are left out
        repeated.weight[..., [0, 2]] = 0.0
    assert costs(Twice(repeated), [x])["conv"] == expected
    # On a grid nothing is summed, and the padding is multiplied too.
    assert costs(Twice(tied), [x.dense()])["conv"] == Cost(*(2 * 81 * 16,) * 3)


def test_a_lifted_network_per_cloud() -> None:
    """Depthwise, pointwise and squeeze-and-excite layers, and a head on pooled features."""
    net = i2p.lift("test_efficientnet", weights="random", num_classes=7)
    x = VoxelTensor(torch.ones(3, 3), LINE)
    two = VoxelTensor(torch.ones(6, 3), sites(*(tuple(row) for b in (0, 1) for row in _in_cloud(LINE, b))))
    one, both = costs(net, [x]), costs(net, [two])
    assert one == both
    assert one["classifier"] == Cost(*(7 * net.classifier.in_features,) * 3)
    stem = net.get_parameter("conv_stem.weight")
    assert one["conv_stem"] == Cost(7 * stem.shape[0] * 3, 7 * stem.shape[0] * 3, 81 * stem.shape[0] * 3)
    depthwise = {n: m for n, m in net.named_modules() if isinstance(m, VoxelConv) and m.groups > 1}
    assert depthwise
    for name, module in depthwise.items():
        assert one[name].grid % module.weight.numel() == 0 and one[name].summed <= one[name].macs <= one[name].grid


def _in_cloud(place: Sites, batch: int) -> list[list[int]]:
    return [[batch, *row[1:]] for row in place.coordinates.tolist()]
