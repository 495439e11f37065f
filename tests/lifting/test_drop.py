"""Dropping whole clouds' branches and channels."""

from __future__ import annotations

import pytest
import torch
from lifting_samples import clouds, rows
from torch import nn

import image2point as i2p
from image2point.lifting.drop import ChannelDropout, DropPath
from image2point.networks.timm_import import load_timm
from image2point.voxels import VoxelTensor, voxelize


def many_clouds() -> VoxelTensor:
    draw = torch.Generator().manual_seed(0)
    points = [torch.rand(20, 3, generator=draw) for _ in range(400)]
    return voxelize(points, 0.2, [torch.ones(20, 6) for _ in points])


@pytest.mark.parametrize("layer", [DropPath(0.25), ChannelDropout(0.25)], ids=["path", "channel"])
def test_one_draw_per_cloud(layer: nn.Module) -> None:
    x = many_clouds()
    torch.manual_seed(0)
    sparse = layer(x)
    torch.manual_seed(0)
    dense = layer(x.dense())
    assert torch.equal(rows(dense), sparse.features)
    kept = sparse.features > 0
    for cloud in range(3):
        mine = kept[x.sites.batch == cloud]
        assert bool((mine == mine[0]).all())
    if isinstance(layer, DropPath):
        assert bool((kept == kept[:, :1]).all())
    first = torch.stack([sparse.features[x.sites.batch == cloud][0] for cloud in range(400)])
    assert float((first > 0).float().mean()) == pytest.approx(0.75, abs=0.07)
    torch.testing.assert_close(first[first > 0], torch.full_like(first[first > 0], 1 / 0.75))
    assert torch.equal(layer.eval()(x).features, x.features)


def test_lifted_from_timm() -> None:
    net = i2p.lift(load_timm().create_model("resnet18", drop_path_rate=0.2, drop_rate=0.3))
    drops = [m for m in net.modules() if isinstance(m, DropPath)]
    assert len(drops) == 7 and drops[-1].probability == pytest.approx(0.2)
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.3]
    net.eval()
    x = clouds().to(torch.float32)
    assert torch.equal(net(x), net(x))
    net.train()
    i2p.freeze(net, "head")  # a linear probe sees the body without its noise
    first, second = (rows(net.forward_features(x)["layer4"]) for _ in range(2))
    assert torch.equal(first, second)
