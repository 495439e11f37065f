"""Small segmenters for the tests of this folder."""

from __future__ import annotations

import functools
from typing import Any

import torch
from lifting_samples import randomise
from torch import nn

import image2point as i2p
from image2point.decoders import Segmenter
from image2point.networks.timm_import import load_timm

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
    randomise(net)
    return net.train()
