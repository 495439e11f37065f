"""Which axis is the depth is only a name: lifted along another, a network does the same to the turned cloud."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equivalence
import pytest
import torch
from lifting_samples import randomise, relative, small_resnet
from torch import nn

import image2point as i2p
from image2point.lifting import kernels

RULES = (*kernels.RULES, "tied")


def submanifold() -> nn.Module:
    """Kernels of stride 1: a square one, a depthwise one, one that is dilated."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.Tanh(),
        nn.Conv2d(8, 4, 3, padding=2, dilation=2),
    )  # fmt: skip


def strided() -> nn.Module:
    """Odd and even kernels with a stride, and both kinds of pooling."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 4, 2, padding=1), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 8, 2, 2), nn.AvgPool2d(2), nn.Conv2d(8, 4, 1, 2),
    )  # fmt: skip


def lines() -> nn.Module:
    """Kernels that are not square."""
    return nn.Sequential(nn.Conv2d(3, 6, (1, 5), padding=(0, 2)), nn.Tanh(), nn.Conv2d(6, 4, (5, 3), 2, (2, 1)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "submanifold": submanifold, "strided": strided, "lines": lines, "whole": lambda: small_resnet("Bottleneck"),
}  # fmt: skip


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomise(NETWORKS[name]())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_rule(name: str, rule: str) -> None:
    if (name, rule) == ("lines", "rotate"):
        pytest.skip("rotate needs square kernels")
    check(network(name), rule=rule)


@pytest.mark.parametrize("options", [{"variance": "1/K"}, {"downsample": "paper"}, {"control": "shuffled"}], ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_with_other_options(rule: str, options: dict[str, str]) -> None:
    """`shuffled` permutes the entries of the 2D kernel, before any axis is chosen."""
    check(network("whole"), rule=rule, **options)


def test_on_masked_grids() -> None:
    check(network("whole"), rule="center", substrate="dense")


@pytest.mark.parametrize("rule", RULES)
def test_alternating_axes(rule: str) -> None:
    """z, x, y, z, … on a cloud and x, y, z, x, … on the cloud turned the same way.

    Turned again, the image axes of a layer change places, so that this holds for kernels that equal their transpose. A
    1×3 kernel that passes on its middle takes the first turn, and does nothing under any rule but `rotate`, to which
    all axes are the same.
    """
    plain = network("whole")
    with torch.no_grad():
        for module in plain.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_((module.weight + module.weight.transpose(2, 3)) / 2)
    passing = nn.Conv2d(3, 3, (1, 3), padding=(0, 1), bias=False).double()
    passing.weight.data = torch.eye(3).double()[:, :, None, None] * torch.tensor([0.0, 1.0, 0.0]).double()
    shifted = plain if rule == "rotate" else nn.Sequential(passing, plain)
    first, second = (equivalence.lifted(n, rule=rule, axis="alternate") for n in (plain, shifted))
    axes = {conv.axis for conv in first.modules() if isinstance(conv, i2p.voxels.VoxelConv)}
    assert axes == {"x", "y", "z"}
    scores, turned = equivalence.turned(first, "z")[-1], equivalence.turned(second, "x")[-1]
    assert relative(turned, scores) < 1e-10


def test_a_wrong_turn_is_seen() -> None:
    """The comparison can fail: the cloud turned along an axis that is not the network's gives something else."""
    net = equivalence.lifted(network("whole"), rule="repeat")
    assert equivalence.worst(equivalence.turned(net, "x"), equivalence.turned(net, "z")) > 1e-3


def check(plain: nn.Module, **options: Any) -> None:
    on_z, on_x, on_y = (equivalence.turned(equivalence.lifted(plain, axis=axis, **options)) for axis in "zxy")
    assert equivalence.worst(on_x, on_z) < 1e-10
    assert equivalence.worst(on_y, on_z) < 1e-10
