"""Stems that keep the full resolution: the paper's for segmentation, and the 2D stem without its stride."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lifting_samples import clouds, relative, rows
from segmenter_samples import segmenter, small
from torch import nn

import image2point as i2p
from image2point.voxels import VoxelTensor

STRIDES = {
    ("resnet", "full"): [1, 2, 2, 4, 8, 16],
    ("resnet", "inflate1"): [1, 1, 2, 4, 8],
    ("efficientnet", "full"): [1, 2, 4, 8, 16, 32],
    ("efficientnet", "inflate1"): [1, 2, 4, 8, 16],
    ("convnext", "full"): [1, 2, 4, 8, 16],
    ("convnext", "inflate1"): [1, 2, 4, 8],
}


def lifted(name: str, stem: Any, **options: Any) -> Any:
    return i2p.lift(small(name), num_classes=3, stem=stem, **options).double().eval()


@pytest.mark.parametrize(("name", "stem"), STRIDES)
def test_strides_of_the_stages(name: str, stem: str) -> None:
    net = lifted(name, stem)
    assert [stage["reduction"] for stage in net.feature_info] == STRIDES[name, stem]
    first = next(iter(net.forward_features(clouds()).values()))
    assert first.sites.same(clouds().sites)


def test_the_full_stem_is_the_papers() -> None:
    net = lifted("resnet", "full", in_channels=5)
    assert net.lifting.options.downsample == "paper"
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters() if name.startswith(("full", "conv1", "bn1"))}
    assert shapes == {
        "full.0.weight": (64, 5, 3, 3, 3), "full.1.weight": (64,), "full.1.bias": (64,),
        "full.3.weight": (64, 64, 3, 3, 3), "full.4.weight": (64,), "full.4.bias": (64,),
        "conv1.weight": (64, 64, 2, 2, 2), "bn1.weight": (64,), "bn1.bias": (64,),
    }  # fmt: skip
    found = {r.name: (r.role, r.origin) for r in net.lifting.parameters}
    assert {found[name] for name in shapes} == {("input", "fresh")}
    assert {s.fate for s in net.lifting.sources if s.name.startswith(("conv1", "bn1"))} == {"replaced"}
    assert float(net.full[3].weight.detach().std()) == pytest.approx((2 / 64 / 27) ** 0.5, rel=0.05)
    assert float(net.conv1.weight.detach().std()) == pytest.approx((2 / 64 / 8) ** 0.5, rel=0.05)
    assert not torch.equal(net.full[0].weight[:, :1], net.full[3].weight[:, :1])


def test_the_full_stem_step_by_step() -> None:
    """Convolution, norm and ReLU twice at stride 1, then once at stride 2, and no pooling."""
    net, x = segmenter("resnet", stem="full").eval(), clouds()
    maps = net.forward_features(x)
    y = x.dense().grid
    mask = x.dense().mask
    for conv, norm in ((net.full[0], net.full[1]), (net.full[3], net.full[4])):
        y = torch.where(mask, norm(F.conv3d(y, conv.weight, padding=1)).relu(), 0)
    assert relative(maps["full"].features, x.dense().replace(y).rows) < 1e-12
    y = F.conv3d(y, net.conv1.weight, stride=2)
    coarse = F.max_pool3d(mask.double(), 2).bool()
    rows_of_entry = net.bn1(y).relu().permute(0, 2, 3, 4, 1)[coarse[:, 0]]
    assert relative(maps["act1"].features, rows_of_entry) < 1e-12


def test_the_lifted_stem_at_stride_one_has_the_images_kernel() -> None:
    """Every voxel sees what the strided stem shows at every second one."""
    one, two = lifted("resnet", "inflate1"), lifted("resnet", "inflate")
    assert torch.equal(one.conv1.weight, two.conv1.weight) and one.conv1.window.padding == two.conv1.window.padding
    assert {r.origin for r in one.lifting.parameters if r.role == "input"} == {"inflated", "copied"}
    x = clouds()
    fine, coarse = (net.forward_features(x)["act1"] for net in (one, two))
    at = {tuple(site): row for site, row in zip(fine.coordinates.tolist(), fine.features, strict=True)}
    seen = 0
    for (b, i, j, k), row in zip(coarse.coordinates.tolist(), coarse.features, strict=True):
        if (same := at.get((b, 2 * i, 2 * j, 2 * k))) is not None:
            assert relative(same, row) < 1e-12
            seen += 1
    assert seen > 10
    assert lifted("convnext", "inflate1").stem[0].window.padding == (1, 1, 1)


@pytest.mark.parametrize("decoder", ["light", "unet", "hypercolumn"])
@pytest.mark.parametrize(("name", "stem"), STRIDES)
def test_sparse_equals_masked_dense(name: str, stem: str, decoder: str) -> None:
    x = clouds()
    results = []
    for form in (x, x.dense()):
        net = segmenter(name, decoder, stem=stem)
        i2p.freeze(net, "io")
        net.train().requires_grad_()
        leaf = form.features if isinstance(form, VoxelTensor) else form.grid
        leaf.requires_grad_()
        scores = net(form)
        rows(scores).tanh().mul(torch.arange(1.0, 5.0)).sum().backward()
        assert leaf.grad is not None
        given = leaf.grad if isinstance(form, VoxelTensor) else form.replace(leaf.grad).rows
        results.append([rows(scores).detach(), given, *(p.grad for p in net.parameters())])
    largest = max(float(g.abs().max()) for g in results[1])
    assert max(float((a - b).abs().max()) for a, b in zip(*results, strict=True)) / largest < 1e-10


def test_a_decoder_takes_the_full_map_as_its_finest() -> None:
    net = segmenter("resnet", "unet", stem="full")
    assert "detail" not in net.decoder._modules and len(net.decoder.levels) == 4
    sizes = [(level.up.window.kernel[0], level.up.window.stride) for level in net.decoder.levels]
    assert sizes == [(3, 2), (3, 2), (3, 2), (2, 2)]
    joined = net.decoder.levels[3].blocks[0].first.conv.weight.shape[1]
    assert joined == net.decoder.levels[3].up.weight.shape[1] + 64


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 1, 2)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.one(x) + self.two(x)).flatten(1))


@pytest.mark.parametrize("stem", ["full", "inflate1"])
def test_stems_of_several_branches_stay(stem: Any) -> None:
    with pytest.raises(i2p.InputError, match='whose input feeds several branches; use stem="inflate"'):
        i2p.lift(Branches(), stem=stem)
