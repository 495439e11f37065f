"""Padded voxels: what a network gives, its gradients and its running statistics are those without padding."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from lifting_samples import clouds, randomise, relative, small_resnet, timm_network
from torch import Tensor, nn

import image2point as i2p
from image2point.voxels import Sites, VoxelTensor, Window, neighbour_table
from image2point.voxels.ahead import asked_of, make_ahead
from image2point.voxels.errors import VoxelError
from image2point.voxels.padding import Buckets, pad, rows_of
from image2point.voxels.rearrange import SpaceToDepth


class Grouped(nn.Module):
    """Grouped and depthwise convolutions, a mean over windows, a maximum, and both over clouds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, 1, 1, groups=4)
        self.conv3 = nn.Conv2d(8, 8, 3, 2, 1, groups=8)
        self.bn3 = nn.BatchNorm2d(8)
        self.mean, self.most = nn.AvgPool2d(2, 2), nn.MaxPool2d(3, 1, 1)
        self.fc = nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(torch.relu(self.bn1(self.conv1(x))))
        x = self.most(self.mean(torch.relu(self.bn3(self.conv3(x)))))
        return self.fc(x.mean((2, 3)) + x.amax((2, 3)))


NETWORKS = {
    "resnet": small_resnet,
    "bottleneck": lambda: small_resnet("Bottleneck", channels=(4, 4, 8, 8)),
    "means": lambda: small_resnet(avg_down=True, stem_type="deep", stem_width=4),
    "efficientnet": lambda: timm_network("test_efficientnet"),
    "gates and groups": lambda: timm_network("test_byobnet"),
    "norms of groups": lambda: timm_network("test_efficientnet_gn"),
    "norms of channels": lambda: timm_network("test_convnext"),
    "grouped": lambda: randomise(Grouped()),
}


def padded(net: nn.Module, x: VoxelTensor, clouds: int = 4) -> VoxelTensor:
    """x with room for `clouds`, after what the network asks of its sites has been made."""
    with torch.no_grad():
        copy.deepcopy(net)(x)
    sites = Sites(x.coordinates, x.batch_size, 1, x.sites.origin, x.sites.voxel_size)
    sites = make_ahead(sites, asked_of(x.sites))
    found = pad(VoxelTensor(x.features, sites), Buckets(clouds, tuple(4 * rows // 3 for rows in rows_of(sites))))
    assert all(size > rows for size, rows in zip(rows_of(found.sites), rows_of(sites), strict=True))
    assert found.batch_size == clouds
    return found


def compare(net: nn.Module, x: VoxelTensor, bound: float = 1e-11, **options: int) -> None:
    """Outputs, gradients of the input and of every parameter, and buffers, after a training step."""
    found: list[dict[str, Tensor]] = []
    for voxels in (x, padded(net, x, **options)):
        own = copy.deepcopy(net).train()
        features = voxels.features.detach().requires_grad_()
        y = own(VoxelTensor(features, voxels.sites))
        rows = y.features if isinstance(y, VoxelTensor) else y
        rows = rows[: len(found[0]["output"])] if found else rows
        draw = torch.Generator().manual_seed(0)
        leaves = {"input": features, **{n: p for n, p in own.named_parameters() if p.requires_grad}}
        loss = (rows * torch.randn(rows.shape, generator=draw).to(rows)).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        results = dict(zip(leaves, gradients, strict=True)) | dict(own.named_buffers()) | {"output": rows}
        if voxels is not x:
            assert not results["input"][len(x.sites) :].any()
            results["input"] = results["input"][: len(x.sites)]
        found.append(results)
    expected, results = found
    assert list(results) == list(expected)
    largest = max(float(g.detach().abs().max()) for g in expected.values() if g is not None)
    for name, tensor in expected.items():
        assert (tensor is None) == (results[name] is None), name
        if tensor is not None:
            # A gradient that is zero but for rounding is compared with the largest.
            apart = min(relative(results[name].double(), tensor.double()), _apart(results[name], tensor) / largest)
            assert apart < bound, (name, apart)


def _apart(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).detach().abs().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_as_without(name: str) -> None:
    compare(i2p.lift(NETWORKS[name](), num_classes=5), clouds())


@pytest.mark.parametrize("policy", ["io", "io+norm", "io+depth", "io+stats+lora:2"])
def test_frozen_kernels(policy: str) -> None:
    net = i2p.lift(small_resnet(), num_classes=5)
    i2p.freeze(net, policy)
    compare(net, clouds(), clouds=3)


@pytest.mark.parametrize("rule", ["tied", "center"])
def test_other_kernels(rule: str) -> None:
    compare(i2p.lift(small_resnet(), num_classes=5, rule=rule), clouds(), clouds=3)


@pytest.mark.parametrize("decoder", ["light", "unet", "hypercolumn"])
def test_segmenters(decoder: str) -> None:
    width = 1.0 if decoder == "hypercolumn" else 0.06
    net = i2p.segmenter(small_resnet(), num_classes=4, decoder=decoder, width=width).double()
    compare(randomise(net), clouds())


class Residual(nn.Module):
    """A strided convolution, a block with a sum, a depthwise one, narrow enough for an interpreter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.conv, self.norm, self.act = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        self.last, self.head = nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(self.stem(x)))
        return self.head(self.last(self.act(self.norm(self.conv(x)) + x)).mean((2, 3)))


def test_blocks_in_the_channels() -> None:
    compare(SpaceToDepth(2), clouds())


def test_in_triton() -> None:
    """In float32, with kernels that read how many rows count from memory."""
    pytest.importorskip("triton", reason="triton is not installed (it comes with the extra `test` on Linux)")
    net = i2p.lift(randomise(Residual()), num_classes=5, engine="triton").float()
    draw = torch.Generator().manual_seed(0)
    points = [torch.rand(n, 3, generator=draw) * 0.4 for n in (30, 20)]
    x = i2p.voxelize(points, 0.1, [torch.randn(len(p), 3, generator=draw) for p in points])
    i2p.freeze(net, "io")
    net.last.requires_grad_()
    compare(net, x, bound=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 3), (3, 3, 3)])
@pytest.mark.parametrize("backward", [False, True])
def test_the_rows_of_columns_in_fixed_shapes(shape: tuple[int, int, int], backward: bool) -> None:
    """The same as where shapes follow the contents, up to where `starts` says that they end."""
    pytest.importorskip("triton", reason="triton is not installed (it comes with the extra `test` on Linux)")
    from image2point.voxels.conv.triton_table import column_rows

    table = neighbour_table(clouds().sites, Window((3, 3, 3), 2, (1, 1, 1)))
    expected, found = (column_rows(each, shape, backward) for each in (table, replace(table, padded=True, _forms={})))
    count = int(expected.starts[-1])
    assert torch.equal(found.starts, expected.starts) and found.starts.dtype == expected.starts.dtype
    assert torch.equal(found.rows[:count], expected.rows) and torch.equal(found.members[:, :count], expected.members)
    assert found.members.shape[1] == len(found.rows) > count


def test_what_cannot_be_padded() -> None:
    x = clouds()
    with pytest.raises(VoxelError, match="at most 1 clouds, found 2"):
        pad(x, Buckets(2, (300,)))
    with pytest.raises(VoxelError, match="at least two voxels at stride 1"):
        pad(VoxelTensor(torch.ones(1, 3), Sites.of(torch.zeros(1, 4, dtype=torch.int32))), Buckets(2, (9,)))
    bare = pad(x, Buckets(3, (300,)))
    with pytest.raises(VoxelError, match="no coarser ones of stride 2"):
        bare.sites.coarsen(2)
    with pytest.raises(VoxelError, match="no dense grid"):
        bare.dense()
