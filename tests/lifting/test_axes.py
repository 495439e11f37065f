"""The depth axis of each layer, by patterns over the layers' names."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch
from lifting_samples import clouds, relative, small_resnet

import image2point as i2p
from image2point.lifting import LiftedNetwork, Lifting
from image2point.voxels import MaxPool, VoxelConv

MIXED = {"layer[12].*": "x", "*.conv2": "y", "*": "z"}


network = functools.cache(small_resnet)


def lifted(axis: Any, **options: Any) -> LiftedNetwork:
    settings = {"stem": "inflate", "num_classes": None, **options}
    return i2p.lift(network(), axis=axis, **settings).double().eval()


def test_the_first_pattern_that_matches_counts() -> None:
    net = lifted(MIXED)
    for name, module in net.named_modules():
        if isinstance(module, VoxelConv) and module.window.kernel != (1, 1, 1):
            expected = "x" if name.startswith(("layer1", "layer2")) else "y" if name.endswith("conv2") else "z"
            assert module.axis == expected and module.structure().tied == {"xyz".index(expected)}, name


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_one_pattern_for_all_is_that_axis(axis: str) -> None:
    by_pattern, plain = lifted({"*": axis}), lifted(axis)
    with torch.no_grad():
        assert torch.equal(by_pattern(clouds()), plain(clouds()))


@pytest.mark.parametrize("rule", ["repeat", "mean", "center", "rotate", "tied"])
def test_sparse_equals_masked_dense(rule: str) -> None:
    net, x = lifted(MIXED, rule=rule), clouds()
    assert {m.window.kernel for m in net.modules() if isinstance(m, MaxPool)} == {(3, 3, 3)}
    with torch.no_grad():
        assert relative(net(x.dense()), net(x)) < 1e-10


def test_the_record_keeps_patterns_and_their_order() -> None:
    lifting = lifted(MIXED).lifting
    again = Lifting.from_dict(json.loads(lifting.to_json()))
    assert again == lifting and isinstance(again.options.axis, dict) and list(again.options.axis) == list(MIXED)


def test_a_fresh_stem_has_no_axis() -> None:
    lifted({"conv1": "x", "*": "z"})
    with pytest.raises(i2p.InputError, match="the pattern 'conv1' matches no layer"):
        lifted({"conv1": "x", "*": "z"}, stem="paper")


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ({"layer9.*": "x", "*": "z"}, r"'layer9\.\*' matches no layer; .* conv1, layer1\.0\.conv1, layer1\.0\.conv2,"),
        ({"layer2.0.downsample.0": "x", "*": "z"}, "matches no layer"),  # 1×1: it has no depth
        ({"*": "z", "layer1.*": "x"}, r"'layer1\.\*' comes after others that match all its layers"),
        ({"layer*": "x"}, 'no pattern matches conv1 of ResNet; end with "\\*"'),
        ({"*": "w"}, r"expected each pattern to have one of x, y, z, found \{'\*': 'w'\}"),
        ({"*": "alternate"}, "one of x, y, z"),
        ({}, "found no pattern"),
        ("xy", "x, y, z, alternate, or a mapping"),
    ],
)
def test_patterns_that_cannot_be(axis: Any, message: str) -> None:
    with pytest.raises(i2p.InputError, match=message):
        lifted(axis)
