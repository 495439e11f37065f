"""Looking inside a lifted network: the named layers give what the network computes there."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import image2point as i2p
from image2point.errors import InputError
from image2point.networks.layer_names import blocks, choose_layers
from image2point.voxels import VoxelTensor
from image2point.voxels.functional import global_mean


def voxels() -> VoxelTensor:
    generator = torch.Generator().manual_seed(0)
    return i2p.voxelize([torch.rand(n, 3, generator=generator) for n in (90, 60, 30)], 0.15)


@pytest.mark.parametrize("substrate", ["sparse", "dense"])
def test_layers_give_what_the_stages_and_the_head_give(substrate: str) -> None:
    net = i2p.lift("test_resnet", weights="random", num_classes=5, substrate=substrate).eval()
    x = voxels()
    with torch.no_grad():
        stages, (features, _) = net.forward_features(x), net.embed(x)
        seen = net.observe([*stages, "features"])(x)
        each = net.observe(list(stages), per_site=True)(x)
    assert torch.equal(seen["features"][0], features)
    for name, stage in stages.items():
        means, clouds = seen[name]
        assert torch.equal(means, global_mean(stage)) and clouds.tolist() == [0, 1, 2]
        rows, clouds = each[name]
        sparse = stage if isinstance(stage, VoxelTensor) else stage.sparse()
        assert torch.equal(rows, sparse.features) and torch.equal(clouds, sparse.sites.batch)


class Overwriting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        self.act(x)
        return self.second(x)


def test_a_layer_is_read_before_the_next_overwrites_it() -> None:
    net = i2p.lift(Overwriting(), stem="inflate", num_classes=2).eval()
    with torch.no_grad():
        seen = net.observe(["first", "act"], per_site=True)(voxels())
    assert (seen["first"][0] < 0).any() and (seen["act"][0] >= 0).all()


def test_copies_have_the_same_layers_and_unknown_ones_are_named() -> None:
    net = i2p.lift("test_resnet", weights="random", num_classes=5)
    assert copy.deepcopy(net).layer_names() == net.layer_names()
    assert net.block_names() == ("conv1", "layer1.0", "layer2.0", "layer3.0", "layer4.0", "features")
    with pytest.raises(InputError, match=r"no layer 'layer9'.*layer1\.0"):
        net.observe(["layer9"])


def test_blocks_are_what_holds_kernels() -> None:
    resnet = ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.downsample.0.weight", "layer1.1.conv1.weight"]
    assert blocks(resnet) == ("conv1", "layer1.0", "layer1.1")
    assert blocks(["stages.0.conv_dw.weight", "stages.0.mlp.fc1.weight", "stages.1.conv_dw.weight", "a.weight"]) == (
        "stages.0", "stages.1", "a",
    )  # fmt: skip
    assert blocks(["features.0.weight", "features.3.weight"]) == ("features.0", "features.3")


def test_patterns_choose_layers_in_order() -> None:
    there = ("conv1", "layer1.0", "layer1.1", "layer2.0", "features")
    assert choose_layers(["features", "layer1.*"], there, ()) == ("layer1.0", "layer1.1", "features")
    assert choose_layers(["blocks"], there, there[1:3]) == ("layer1.0", "layer1.1")
    with pytest.raises(InputError, match="no layer matches 'layer7'"):
        choose_layers(["layer7"], there, ())
