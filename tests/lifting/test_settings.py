"""Settings of single 2D layers that the lifted ones keep."""

from __future__ import annotations

import pytest
import torch
from lifting_samples import image, randomise, relative, small_resnet
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import image2point as i2p


def test_norms_keep_epsilon_and_momentum() -> None:
    flat = small_resnet("BasicBlock")
    for module in flat.modules():
        if isinstance(module, _BatchNorm):
            module.eps, module.momentum = 2e-3, 0.03
    net = i2p.lift(flat, stem="inflate")
    found = [(module.eps, module.momentum) for module in net.modules() if isinstance(module, _BatchNorm)]
    assert len(found) > 5 and set(found) == {(2e-3, 0.03)}


@pytest.mark.parametrize("padding", [(1, 0, 0, 1), (0, 1, 1, 0)], ids=["left and bottom", "right and top"])
@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_padding_on_one_side_stays_there(padding: tuple[int, int, int, int], axis: str) -> None:
    flat = randomise(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.ZeroPad2d(padding), nn.Conv2d(8, 8, 2),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        )
    )  # fmt: skip
    net = i2p.lift(
        flat, axis=axis, rule="mean", stem="inflate", substrate="dense", num_classes=None, depth_padding="replicate"
    ).eval()
    depth, x = 2 + "xyz".index(axis), image(size=6)
    with torch.no_grad():
        assert relative(net(x.unsqueeze(depth).repeat_interleave(4, depth)), flat(x)) < 1e-12
