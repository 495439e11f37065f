"""Lifted kernels against their definition, written as loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from real_data import real_data
from torch import nn

import image2point as i2p
from image2point.lifting import kernels
from image2point.networks.timm_import import load_timm


def by_definition(kernel: np.ndarray, rule: str, axis: str) -> np.ndarray:
    """Element by element: the 2D kernel's indices are those of the two axes that are not the depth axis."""
    if rule == "rotate":
        centred = by_definition(kernel, "center", axis)
        once, twice = centred.transpose(0, 1, 4, 2, 3), centred.transpose(0, 1, 3, 4, 2)
        x, y, z = {"x": (centred, once, twice), "y": (twice, centred, once), "z": (once, twice, centred)}[axis]
        return (x + y + z) / 3
    size = kernel.shape[-1]
    result = np.zeros((*kernel.shape[:2], size, size, size), kernel.dtype)
    for x, y, z in itertools.product(range(size), repeat=3):
        depth = {"x": x, "y": y, "z": z}[axis]
        row, column = {"x": (y, z), "y": (x, z), "z": (x, y)}[axis]
        if rule == "repeat":
            result[:, :, x, y, z] = kernel[:, :, row, column]
        elif rule == "mean":
            result[:, :, x, y, z] = kernel[:, :, row, column] / size
        elif depth == size // 2:
            result[:, :, x, y, z] = kernel[:, :, row, column]
    return result


@given(
    rule=st.sampled_from(kernels.RULES),
    axis=st.sampled_from(kernels.AXES),
    size=st.integers(1, 5),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_inflation_is_the_definition(rule: str, axis: str, size: int, channels: tuple[int, int]) -> None:
    kernel = torch.arange(channels[0] * channels[1] * size * size, dtype=torch.float32).view(*channels, size, size)
    assert np.array_equal(kernels.inflate(kernel, rule, axis).numpy(), by_definition(kernel.numpy(), rule, axis))


@pytest.mark.parametrize("rule", ["repeat", "mean", "center"])
@pytest.mark.parametrize("axis", kernels.AXES)
def test_kernels_that_are_not_square(rule: str, axis: str) -> None:
    """The depth has as many slices as the shorter side: lines stay lines."""
    kernel = torch.randn(2, 3, 5, 3)
    for flat in (kernel, kernel.transpose(2, 3), kernel[..., :1]):
        found = kernels.inflate(flat, rule, axis)
        depth = min(flat.shape[2:])
        sizes = list(flat.shape[2:])
        sizes.insert(kernels.AXES.index(axis), depth)
        assert list(found.shape[2:]) == sizes
        total = found.sum(2 + kernels.AXES.index(axis))
        torch.testing.assert_close(total, flat * depth if rule == "repeat" else flat)


def test_rotate_has_no_axis_of_its_own() -> None:
    kernel = torch.randn(2, 3, 3, 3)
    first = kernels.inflate(kernel, "rotate", "x")
    assert torch.equal(first, kernels.inflate(kernel, "rotate", "z"))
    torch.testing.assert_close(first.permute(0, 1, 3, 4, 2), first)
    torch.testing.assert_close(first.transpose(3, 4), kernels.inflate(kernel, "rotate", "y"))
    symmetric = kernels.inflate(kernel + kernel.transpose(2, 3), "rotate", "z")
    for order in ((0, 1, 3, 4, 2), (0, 1, 4, 3, 2), (0, 1, 2, 4, 3)):
        torch.testing.assert_close(symmetric.permute(order), symmetric)
    with pytest.raises(ValueError, match="square"):
        kernels.inflate(kernel[..., :1], "rotate", "z")


@pytest.fixture(scope="module")
def resnet50() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return load_timm().create_model("resnet50")


@pytest.mark.parametrize("rule", kernels.RULES)
@pytest.mark.parametrize("axis", kernels.AXES)
def test_every_kernel_of_resnet50(rule: str, axis: str, resnet50: nn.Module) -> None:
    """All kernels, norms and statistics of ResNet-50, exactly; only stem and head are fresh."""
    source = resnet50.state_dict()
    net = i2p.lift(resnet50, rule=rule, axis=axis)
    found = net.state_dict()
    assert list(found) == list(source)
    fresh = {name for name in source if name.startswith(("conv1.", "bn1.", "fc."))}
    assert {r.name for r in (*net.lifting.parameters, *net.lifting.buffers) if r.origin == "fresh"} == fresh
    for name in set(source) - fresh:
        expected = source[name].numpy()
        if expected.ndim == 4:
            strided_shortcut = name in {f"layer{i}.0.downsample.0.weight" for i in (2, 3, 4)}
            if strided_shortcut:
                expected = np.broadcast_to(expected[..., None], (*expected.shape[:2], 2, 2, 2))
            else:
                expected = by_definition(expected, rule, axis)
        assert np.array_equal(found[name].numpy(), expected), name


def test_resnet50_with_real_weights() -> None:
    """fp16 kernels are upcast exactly, the stride sits in conv1, and every tensor of the file is accounted for."""
    from safetensors.torch import load_file

    path = real_data("weights/resnet50_caffe_imagenet1k_fp16.safetensors")
    net = i2p.lift("resnet50", weights=f"file:{path}", stride_in="conv1")
    source, found = load_file(path), net.state_dict()
    kernel = source["layer3.0.conv2.weight"].float()
    assert torch.equal(found["layer3.0.conv2.weight"], kernel.unsqueeze(-1).expand(-1, -1, -1, -1, 3))
    entry = source["layer3.0.conv1.weight"].float()
    assert torch.equal(found["layer3.0.conv1.weight"], entry.unsqueeze(-1).expand(-1, -1, 2, 2, 2))
    assert torch.equal(found["layer3.0.bn1.running_var"], source["layer3.0.bn1.running_var"])
    strides = {n: m.window.stride for n, m in net.named_modules() if hasattr(m, "window")}
    assert [strides[f"layer{i}.0.conv1"] for i in (1, 2, 3, 4)] == [1, 2, 2, 2]
    assert {strides[f"layer{i}.0.conv2"] for i in (1, 2, 3, 4)} == {1}
    assert net.lifting.counts["source"] == {"total": 320, "used": 312, "replaced": 8, "skipped": 0}
    assert net.lifting.counts["target"] == {"total": 320, "inflated": 52, "copied": 260, "fresh": 8}


def test_adapting_the_input_keeps_the_response_to_equal_channels() -> None:
    kernel = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    for channels in (1, 2, 3, 4, 6, 7):
        adapted = kernels.adapt_input(kernel, channels)
        assert adapted.shape == (4, channels, 5, 5)
        if channels in (1, 3, 6):
            torch.testing.assert_close(adapted.sum(1), kernel.sum(1))
    assert torch.equal(kernels.adapt_input(kernel, 6)[:, 3:], kernel / 2)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_padding_is_that_of_an_input_that_the_stride_divides(size: int, stride: int, dilation: int) -> None:
    load_timm()
    from timm.layers.padding import pad_same

    length = 12 * stride
    index = torch.arange(1.0, length + 1).view(1, 1, 1, -1).expand(1, 1, length, length)
    padded = pad_same(index, [size, size], [stride, stride], [dilation, dilation])
    assert int((padded[0, 0, padded.shape[2] // 2] != 0).nonzero()[0]) == kernels.same_padding(size, stride, dilation)


def test_draws_depend_on_seed_and_name_only() -> None:
    first = torch.randn(5, generator=kernels.generator(1, "fc"))
    torch.randn(7)
    assert torch.equal(first, torch.randn(5, generator=kernels.generator(1, "fc")))
    assert not torch.equal(first, torch.randn(5, generator=kernels.generator(2, "fc")))
    assert not torch.equal(first, torch.randn(5, generator=kernels.generator(1, "conv1")))


@pytest.mark.parametrize(("shape", "groups"), [((64, 32, 3, 3, 3), 1), ((64, 1, 5, 5, 5), 64)])
def test_kaiming_variance(shape: tuple[int, ...], groups: int) -> None:
    fan_out = shape[0] // groups * shape[2] ** 3
    kernel = kernels.kaiming_normal(shape, groups, kernels.generator(0, "w"))
    assert float(kernel.var()) * fan_out == pytest.approx(2.0, rel=0.1)
    assert abs(float(kernel.mean())) < 4 * (2 / fan_out / kernel.numel()) ** 0.5


def test_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="repeat, mean, center"):
        kernels.inflate(nn.Conv2d(1, 1, 3).weight.detach(), "tile", "z")
