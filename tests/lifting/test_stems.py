"""The strided stem for networks that cut their image into patches."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from equivalence import randomise
from lifting_samples import clouds, relative, rows, small_resnet
from torch import nn

import image2point as i2p
from image2point.lifting import LiftedNetwork
from image2point.networks.timm_import import load_timm
from image2point.voxels import VoxelTensor


@functools.cache
def small_convnext() -> nn.Module:
    load_timm()
    from timm.models.convnext import ConvNeXt

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomise(ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 12, 12), num_classes=7))


def lifted(**options: Any) -> LiftedNetwork:
    return i2p.lift(small_convnext(), **{"num_classes": 4, **options}).double().eval()


@pytest.mark.parametrize(("patch", "size"), [(None, 4), (4, 4), (3, 3), (2, 2)])
def test_kernel_and_stride_are_the_patch(patch: int | None, size: int) -> None:
    net = lifted(stem="patch", patch=patch, in_channels=5)
    stem = net.get_parameter("stem.0.weight").detach()
    assert stem.shape == (8, 5, size, size, size) and net.lifting.options.patch == size
    assert float(stem.std()) == pytest.approx((2 / 8 / size**3) ** 0.5, rel=0.1)
    assert net.lifting.options.downsample == "exact"
    maps = net.forward_features(clouds(5))
    strides = [m.stride for m in maps.values() if isinstance(m, VoxelTensor)]
    assert strides[-4:] == [size, 2 * size, 4 * size, 8 * size]
    found = {r.name: (r.role, r.origin) for r in net.lifting.parameters}
    assert found["stem.0.weight"] == found["stem.1.weight"] == found["stem.0.bias"] == ("input", "fresh")
    assert bool((net.get_parameter("stem.1.weight") == 1).all())
    assert found["stages.1.downsample.1.weight"] == ("body", "inflated")
    replaced = {s.name for s in net.lifting.sources if s.fate == "replaced"}
    assert {"stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias"} <= replaced


def test_a_patch_is_a_product_with_its_own_voxels_alone() -> None:
    """Each output site is the kernel times the voxels of one cube, empty ones as zeros."""
    net = lifted(stem="patch", patch=3)
    x = clouds()
    conv = dict(net.named_modules())["stem.0"]
    with torch.no_grad():
        found = conv(x)
    weight, bias = net.get_parameter("stem.0.weight").detach(), net.get_parameter("stem.0.bias").detach()
    expected = torch.zeros(len(found.features), 8, dtype=torch.float64) + bias
    row = {tuple(site): i for i, site in enumerate(found.coordinates.tolist())}
    assert len(row) == len({(b, i // 3, j // 3, k // 3) for b, i, j, k in x.coordinates.tolist()})
    for (b, i, j, k), feature in zip(x.coordinates.tolist(), x.features, strict=True):
        expected[row[b, i // 3, j // 3, k // 3]] += weight[:, :, i % 3, j % 3, k % 3] @ feature
    assert relative(found.features, expected) < 1e-12


@pytest.mark.parametrize("patch", [None, 3, 2])
def test_sparse_equals_masked_dense(patch: int | None) -> None:
    """Stage maps, class scores and gradients."""
    net, x = lifted(stem="patch", patch=patch), clouds()
    results = []
    for form in (x, x.dense()):
        net.zero_grad()
        maps = [rows(m) for m in net.forward_features(form).values()]
        scores = net(form)
        scores.tanh().sum().backward()
        gradient = net.get_parameter("stem.0.weight").grad
        assert gradient is not None
        results.append([*maps, scores, gradient.clone()])
    for sparse, dense in zip(*results, strict=True):
        assert relative(dense, sparse) < 1e-10


def test_auto_stays_what_it_was() -> None:
    options = lifted(stem="auto").lifting.options
    assert options.stem == "paper" and options.patch is None


class Two(nn.Module):
    """A stem of two convolutions, the first of which cuts into patches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.ReLU(), nn.Conv2d(8, 8, 2, 2))
        self.body = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self.stem(x))


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (small_resnet, {"stem": "patch"}, r"begins with 7×7 and stride 2; use stem=paper"),
        (Two, {"stem": "patch"}, r"2×2 and stride 2 and has 2 convolutions"),
        (small_convnext, {"stem": "patch", "patch": 5}, r"expected 2 to 4 voxels, .* found 5"),
        (small_convnext, {"stem": "patch", "patch": 1}, "found 1"),
        (small_convnext, {"stem": "paper", "patch": 2}, "the stem is 'paper'"),
        (small_convnext, {"patch": 2}, "the stem is 'paper'"),
    ],
)
def test_patches_that_cannot_be(network: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(i2p.InputError, match=message):
        i2p.lift(network(), **options)


def test_the_occupancy_of_a_batch_scales_what_was_lifted_and_not_the_fresh_stem() -> None:
    plain, scaled = lifted(stem="patch"), lifted(stem="patch", variance="occupancy", calibration=clouds())
    assert torch.equal(scaled.get_parameter("stem.0.weight"), plain.get_parameter("stem.0.weight"))
    name = "stages.1.downsample.1.weight"
    assert not torch.equal(scaled.get_parameter(name), plain.get_parameter(name))
