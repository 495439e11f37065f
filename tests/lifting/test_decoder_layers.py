"""Decoders: how `ConvTranspose2d` is inflated, and U-Nets made of it."""

from __future__ import annotations

from typing import Any

import equivalence
import pytest
import torch
from lifting_samples import clouds, relative, rows
from torch import Tensor, nn
from torch.nn import functional as F

import image2point as i2p
from image2point.lifting import LiftError
from image2point.lifting.costs import Cost, costs
from image2point.lifting.rules.transposed import inflate_transposed
from image2point.voxels import TransposedConv, VoxelTensor


class UNet(nn.Module):
    """Two scales down and up again, as the networks that people segment with have it: a class for each pixel."""

    def __init__(self, bilinear: bool = False, rest: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8 * n, 8 * n + 8, 3, padding=1), nn.BatchNorm2d(8 * n + 8))
            for n in (1, 2)
        )
        self.up = nn.ModuleList(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            if bilinear
            else nn.ConvTranspose2d(8 * n + 8, 8 * n + 8, 2, 2)
            for n in (2, 1)
        )
        self.after = nn.ModuleList(nn.Conv2d(16 * n + 8, 8 * n, 3, padding=1) for n in (2, 1))
        self.classes = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [torch.relu(self.stem(x))]
        for down in self.down:
            maps.append(torch.relu(down(maps[-1])))
        x = maps.pop()
        for up, after in zip(self.up, self.after, strict=True):
            x, skip = up(x), maps.pop()
            rows, columns = skip.size()[2] - x.size()[2], skip.size()[3] - x.size()[3]
            x = F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
            x = torch.relu(after(torch.cat([skip, x], dim=1)))
        return self.classes(x)


def test_a_unet() -> None:
    """A class for each voxel, at the sites of the cloud."""
    network = equivalence.randomise(UNet())
    error, completed = equivalence.depth_constant(network)
    assert error < 1e-10 and completed == 0
    net, x = equivalence.lifted(network, rule="repeat"), clouds()
    assert equivalence.sparse_against_masked(net) < 1e-10
    full = equivalence.occupied_against_plain(net)
    assert full is not None and full < 1e-10
    scores: Any = net(x)
    assert isinstance(scores, VoxelTensor) and scores.sites is x.sites and scores.features.shape[1] == 5
    assert net.lifting.counts["source"]["used"] == net.lifting.counts["source"]["total"]


def test_a_unet_that_aligns_corners_needs_a_grid() -> None:
    network = equivalence.randomise(UNet(bilinear=True))
    with pytest.raises(LiftError, match=r"align_corners.*substrate='dense'"):
        equivalence.lifted(network)
    assert equivalence.depth_constant(network, substrate="dense")[0] < 1e-10


class There(nn.Module):
    """Down, and up by a transposed convolution."""

    def __init__(self, up: nn.Module | None = None) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, 2, 1)
        self.up = up or nn.ConvTranspose2d(8, 6, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x).relu())


@pytest.mark.parametrize("size", [(2, 0, 0), (3, 1, 1), (4, 1, 0)])
def test_under_center_each_slice_is_what_its_parent_gives_in_2d(size: tuple[int, int, int]) -> None:
    kernel, padding, rest = size
    network = equivalence.randomise(There(nn.ConvTranspose2d(8, 6, kernel, 2, padding, rest)))
    net = equivalence.lifted(network, rule="center", axis="y")
    volume = torch.randn(1, 3, 12, 8, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        result: Any = net(volume)
        for slice_ in range(8):
            expected = network(volume[:, :, :, 2 * (slice_ // 2)])
            assert relative(result[:, :, :, slice_], expected) < 1e-12


def test_slices_of_the_kernel() -> None:
    kernel = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    repeat, mean, center, rotate = (
        inflate_transposed(kernel, rule, "z", stride=2, padding=1, dilation=1)
        for rule in ("repeat", "mean", "center", "rotate")
    )
    ones = torch.ones(3, dtype=torch.float64)
    assert torch.equal(repeat, kernel.unsqueeze(4) * ones)
    assert torch.equal(mean, kernel.unsqueeze(4) * torch.tensor([0.5, 1, 0.5]))
    assert torch.equal(center, kernel.unsqueeze(4) * torch.tensor([0.0, 1, 1]))
    planes = [kernel.unsqueeze(2), kernel.transpose(2, 3).unsqueeze(3), kernel.unsqueeze(4)]
    profile = torch.tensor([0.0, 1, 1], dtype=torch.float64)
    shapes = [(3, 1, 1), (1, 3, 1), (1, 1, 3)]
    expected = sum(plane * profile.view(shape) for plane, shape in zip(planes, shapes, strict=True)) / 3
    torch.testing.assert_close(rotate, expected)


def test_rules_and_variance() -> None:
    network = equivalence.randomise(There())
    kernel = network.get_parameter("up.weight").detach()
    by_rule = {rule: equivalence.lifted(network, rule=rule).get_submodule("up") for rule in ("repeat", "mean", "tied")}
    assert by_rule["tied"].weight.shape == kernel.shape  # type: ignore[union-attr]
    torch.testing.assert_close(by_rule["tied"].kernel(), by_rule["repeat"].kernel())  # type: ignore[operator]
    divided = equivalence.lifted(network, rule="repeat", variance="1/K").get_parameter("up.weight")
    torch.testing.assert_close(divided, by_rule["mean"].weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["repeat", "tied", "center"])
def test_occupancy(rule: str) -> None:
    """The mean over output voxels of the squares that they read is what a pixel has in 2D, Σ w² / stride²."""
    network, x = equivalence.randomise(There()), clouds()
    net = equivalence.lifted(network, rule=rule, variance="occupancy", calibration=x)
    up = net.get_submodule("up")
    assert isinstance(up, TransposedConv)
    squares = TransposedConv(1, 1, up.window.kernel, 2, up.window.padding).double()
    with torch.no_grad():
        squares.weight.copy_(up.kernel().square().sum((0, 1)))
    coarse = x.sites.coarsen(2)
    energy = squares(VoxelTensor(torch.ones(len(coarse), 1, dtype=torch.float64), coarse), x).features.mean()
    expected = network.get_parameter("up.weight").square().sum() / 4
    torch.testing.assert_close(energy, expected, rtol=1e-10, atol=0)


def test_axes_take_turns_and_patterns_reach_it() -> None:
    network = equivalence.randomise(There(nn.ConvTranspose2d(8, 6, (2, 4), 2, (0, 1))))
    by_turn = equivalence.lifted(network, axis="alternate").get_submodule("up")
    by_name = equivalence.lifted(network, axis={"up": "y", "*": "z"}).get_submodule("up")
    assert by_turn.window.kernel == (2, 2, 4) and by_turn.axis == "x"  # type: ignore[union-attr]
    assert by_name.window.kernel == (2, 2, 4) and by_name.axis == "y"  # type: ignore[union-attr]


def test_controls() -> None:
    network = equivalence.randomise(There())
    kernel = network.get_parameter("up.weight").detach().double()
    shuffled, random, scratch = (
        i2p.lift(network, stem="inflate", num_classes=None, control=control).get_parameter("up.weight").detach()
        for control in ("shuffled", "random", "scratch")
    )
    assert not torch.equal(shuffled[..., 0].double(), kernel)
    torch.testing.assert_close(shuffled[..., 0].double().flatten(2).sort().values, kernel.flatten(2).sort().values)
    assert float(random.std()) == pytest.approx(float(kernel.std()), rel=0.1)
    # fan_out = 6 channels · 64 taps
    assert float(scratch.std()) == pytest.approx((2 / (6 * 64)) ** 0.5, rel=0.1)


def test_costs() -> None:
    """Each output voxel of a 2×2×2 kernel of stride 2 has one parent, so one product."""
    network, x = There(nn.ConvTranspose2d(8, 6, 2, 2)), clouds()
    found = costs(equivalence.lifted(network), [x])["up"]
    fine = len(x.sites) / 2 * 8 * 6
    boxes = sum(int((c + 1).prod()) for c in _largest(x.sites.coarsen(2).coordinates))
    assert found == Cost(fine, fine, boxes / 2 * 8 * 8 * 6)
    image = torch.zeros(1, 3, 16, 12, dtype=torch.float64)
    assert costs(network.double(), [image])["up"].macs == 8 * 6 * 8 * 6 * 4


def _largest(coordinates: Tensor) -> list[Tensor]:
    return [coordinates[coordinates[:, 0] == cloud][:, 1:].amax(0) for cloud in (0, 1)]


def test_only_sizes_of_one_scale_differ_by_nothing() -> None:
    class Pads(There):
        def forward(self, x: Tensor) -> Tensor:
            down = self.down(x)
            return self.up(F.pad(down, [0, x.size(3) - down.size(3), 0, 0]))

    with pytest.raises(LiftError, match="no rule for padding by"):
        equivalence.lifted(Pads())


def test_refusals() -> None:
    with pytest.raises(LiftError, match="it would be finer than the voxels"):
        equivalence.lifted(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 2, 2)))
    with pytest.raises(LiftError, match="leaves gaps"):
        equivalence.lifted(There(nn.ConvTranspose2d(8, 6, 1, 2, output_padding=1)))
    with pytest.raises(LiftError, match="padding 2 of a transposed convolution under center"):
        equivalence.lifted(There(nn.ConvTranspose2d(8, 6, 3, 2, 2, output_padding=1)), rule="center")
    jump = nn.Sequential(nn.Conv2d(3, 8, 3, 3, 1), nn.Conv2d(8, 8, 2, 2), nn.ConvTranspose2d(8, 8, 3, 3))
    with pytest.raises(LiftError, match="no earlier features"):
        equivalence.lifted(jump)
    pooled = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.ConvTranspose2d(8, 8, 3))
    with pytest.raises(LiftError, match="laid out as BC11"):
        equivalence.lifted(pooled)


def test_rows_are_given_at_every_scale() -> None:
    """A transposed convolution that is called twice finds the finer sites anew."""

    class Twice(There):
        def forward(self, x: Tensor) -> Tensor:
            down = self.down(x)
            return self.up(down) + self.up(down.relu())

    network = equivalence.randomise(Twice())
    net, x = equivalence.lifted(network), clouds()
    assert equivalence.depth_constant(network)[0] < 1e-10
    with torch.no_grad():
        assert relative(rows(net(x)), rows(net(x.dense()))) < 1e-10  # type: ignore[arg-type]
