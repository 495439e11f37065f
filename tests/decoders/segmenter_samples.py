"""Small segmenters and clouds for the tests of this folder."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import image2point as i2p
from image2point.decoders import Segmenter
from image2point.networks.timm_import import load_timm
from image2point.voxels import DenseVoxels, Voxels, VoxelTensor

CLASSES = 4


@functools.cache
def small(name: str) -> nn.Module:
    """A thin timm network with the stages of `resnet`, `efficientnet` (no pool in the stem) or `convnext` (patches)."""
    load_timm()
    from timm.models import convnext, efficientnet, resnet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "resnet":
            return resnet.ResNet(resnet.BasicBlock, layers=(1, 1, 1, 1), channels=(8, 16, 16, 24), num_classes=7)
        if name == "convnext":
            return convnext.ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 12, 12), num_classes=7)
        return efficientnet.test_efficientnet(num_classes=7)


def segmenter(name: str = "resnet", decoder: Any = "light", **options: Any) -> Segmenter:
    """A segmenter in float64 with random norms, since zeros and ones would hide what they multiply."""
    options = {"width": 1.0 if decoder == "hypercolumn" else 0.06, **options}
    net = i2p.segmenter(small(name), num_classes=CLASSES, decoder=decoder, **options).double()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, _BatchNorm):
                for tensor, low, high in (
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.5, 0.5),
                    (module.running_mean, -0.5, 0.5),
                    (module.running_var, 0.5, 2.0),
                ):
                    assert tensor is not None
                    tensor.uniform_(low, high, generator=draw)
    return net


def clouds(channels: int = 3, seed: int = 2) -> VoxelTensor:
    """Two random clouds as float64 voxels, dense enough to have neighbours at every scale."""
    draw = torch.Generator().manual_seed(seed)
    points = [torch.rand(n, 3, generator=draw) for n in (160, 90)]
    return i2p.voxelize(points, 0.1, [torch.randn(len(p), channels, generator=draw) for p in points]).double()


def rows(x: Voxels) -> Tensor:
    if isinstance(x, VoxelTensor):
        return x.features
    return x.rows if isinstance(x, DenseVoxels) else x.permute(0, 2, 3, 4, 1).flatten(0, 3)


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest error relative to the largest expected magnitude."""
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())
