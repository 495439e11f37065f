"""A network that ends with one of its blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import image2point as i2p
from image2point.errors import InputError
from image2point.lifting.source import source_network


def clouds() -> i2p.VoxelTensor:
    draw = torch.Generator().manual_seed(0)
    return i2p.voxelize([torch.rand(300, 3, generator=draw) for _ in range(3)], 0.08)


@pytest.mark.parametrize(
    ("arch", "until"),
    [
        ("tf_efficientnet_lite0", "blocks.3.2"),
        ("resnet18", "layer3"),
        ("resnetv2_50", "stages.1"),
        ("densenet121", "features.denseblock2"),
        ("convnext_atto", "stages.2"),
        ("inception_v3", "Mixed_5d"),
        ("test_resnet", "layer1.0.conv1"),
    ],
)
def test_its_features_are_the_mean_of_the_blocks_map(arch: str, until: str) -> None:
    whole, part = (i2p.lift(arch, "random", num_classes=7, until=name).eval() for name in (None, until))
    x = clouds()
    scores, (features, _) = part(x), part.embed(x)
    expected, _ = whole.observe([until])(x)[until]
    assert torch.allclose(features, expected, atol=1e-5)
    weight, bias = part.linear_classifier()
    assert torch.allclose(scores, features @ weight.T + bias, atol=1e-5)
    head = {f"{part._classifier}.{name}" for name in ("weight", "bias")}
    assert head <= set(part.state_dict()) <= set(whole.state_dict()) | head
    assert part.lifting.options.until == until and whole.lifting.options.until is None


def test_what_lies_behind_is_gone_and_said_to_be_skipped() -> None:
    part = i2p.lift("resnet18", "random", num_classes=7, until="layer2.0")
    names = {name.partition(".")[0] for name, _ in part.named_parameters()}
    assert names == {"conv1", "bn1", "layer1", "layer2", "head"}
    assert part.block_names() == ("conv1", "layer1.0", "layer1.1", "layer2.0", "features")
    fates = {record.name: record.fate for record in part.lifting.sources}
    assert fates["layer1.1.conv2.weight"] == "used" and fates["layer2.1.conv1.weight"] == "skipped"
    assert fates["fc.weight"] == "skipped"
    assert list(part.forward_features(clouds())) == ["act1", "layer1", "layer2.0"]


def test_a_plane_has_the_features_of_the_images_block() -> None:
    """On a grid that is constant along the depth a lifted network is the 2D one; so is a part of it."""
    image_network = timm.create_model("resnet18", num_classes=5).eval()
    options = {"stem": "inflate", "rule": "mean", "num_classes": 4, "until": "layer2", "depth_padding": "replicate"}
    part = i2p.lift(image_network, downsample="exact", substrate="dense", **options).eval()
    image = torch.rand(2, 3, 32, 32)
    grid = image[..., None].expand(-1, -1, -1, -1, 32).contiguous()
    voxels = i2p.DenseVoxels(grid, torch.ones(2, 1, 32, 32, 32, dtype=torch.bool))
    x = image_network.maxpool(image_network.act1(image_network.bn1(image_network.conv1(image))))
    expected = F.adaptive_avg_pool2d(image_network.layer2(image_network.layer1(x)), 1).flatten(1)
    assert torch.allclose(part.embed(voxels)[0], expected, atol=1e-4)


def test_it_is_stored_and_loaded_and_tuned(tmp_path: Path) -> None:
    part = i2p.lift("tf_efficientnet_lite0", "random", num_classes=6, until="blocks.2.1").eval()
    part.save(tmp_path / "part")
    again = i2p.load(tmp_path / "part").eval()
    assert torch.equal(again(clouds()), part(clouds())) and again.lifting.options.until == "blocks.2.1"
    counts = i2p.freeze(part, "layer:blocks.1.0")
    assert 0 < counts.trainable < counts.total
    part.train()(clouds()).sum().backward()
    moved = {name for name, p in part.named_parameters() if p.grad is not None}
    assert any(name.startswith("blocks.1.0.") for name in moved) and not any("blocks.2" in name for name in moved)


def test_a_segmenter_decodes_the_stages_that_are_left() -> None:
    part = i2p.segmenter("resnet18", weights="random", num_classes=5, until="layer2").eval()
    x = clouds()
    assert part(x).features.shape == (len(x.features), 5)
    assert not any(name.startswith(("layer3", "layer4")) for name, _ in part.named_parameters())


class Twice(nn.Module):
    """A part that is called twice ends the network where it was called last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.end = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(4, 2, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.block(self.block(self.stem(x)))).mean((2, 3))


def test_of_a_part_that_is_called_twice_the_last_call_counts() -> None:
    part = i2p.lift(Twice(), num_classes=None, until="block").eval()
    assert not hasattr(part, "end") and {"stem", "block"} <= {name for name, _ in part.named_children()}
    assert part(clouds()).shape == (3, 4)


def test_before_the_first_convolution_there_is_nothing_to_cut() -> None:
    network = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1))
    with pytest.raises(
        InputError,
        match=r"until: expected the name of a part of Sequential that gives one map behind the stem, found '0'",
    ):
        i2p.lift(network, num_classes=None, until="0")


@pytest.mark.parametrize("until", ["layer9", "fc", "global_pool", "", "layer4.1.bn2.weight", 3, ["layer1"]])
def test_what_is_no_part_with_a_map_is_refused(until: object) -> None:
    with pytest.raises(
        InputError,
        match=r"until: expected the name of a part of resnet18 that gives one map behind the stem, found .*layer4\.1",
    ):
        i2p.lift("resnet18", "random", until=until)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arch", "until"), [("resnet10t", "conv1"), ("resnet10t", "conv1.3"), ("resnet18", "conv1"), ("test_nfnet", "stem")]
)
def test_a_part_of_the_stem_is_no_network(arch: str, until: str) -> None:
    """Which stem a network has depends on all of the 2D one: half of it would be another."""
    with pytest.raises(InputError, match=r"gives one map behind the stem, found .*; its blocks are (?!conv1|stem)"):
        i2p.lift(arch, "random", until=until)


def test_a_gate_has_nothing_left_of_the_space() -> None:
    with pytest.raises(InputError, match="until: expected the name of a part of test_efficientnet_ln that gives one"):
        i2p.lift("test_efficientnet_ln", "random", until=gate_of("test_efficientnet_ln"))


def gate_of(arch: str) -> str:
    names = (name for name, _ in timm.create_model(arch).named_modules())
    return next(name for name in names if name.endswith("se.conv_reduce"))


class Written(nn.Module):
    """What an operation writes into a map counts, though nobody reads its result."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.act, self.block = nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, padding=1)
        self.more, self.end = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.stem(x))
        self.act(y)
        z = self.block(y)
        self.act(z)
        z.add_(self.more(z))
        return self.end(z).mean((2, 3))


def test_what_is_written_before_the_end_counts_and_what_is_written_after_it_does_not() -> None:
    network = Written().eval()
    whole, part = (i2p.lift(network, num_classes=4, until=name, stem="inflate").eval() for name in (None, "block"))
    assert part.embed(clouds())[0].min() < 0 and not hasattr(part, "more")
    seen = []
    handle = whole.block.register_forward_hook(lambda block, given, result: seen.append(result.features.clone()))
    x = clouds()
    whole(x)
    handle.remove()
    expected = torch.stack([seen[0][x.sites.batch == cloud].mean(0) for cloud in range(3)])
    assert torch.allclose(part.embed(x)[0], expected, atol=1e-5)


def test_a_dict_of_maps_keeps_what_is_written_into_them() -> None:
    class Named(Written):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
            y = self.norm(self.stem(x))
            self.act(y)
            return {"out": self.end(self.block(y))}

    torch.manual_seed(0)
    named = Named().eval()
    plain = nn.Sequential(named.stem, named.norm, nn.ReLU(), named.block, named.end)
    given, expected = (i2p.lift(net, num_classes=None, stem="inflate").eval()(clouds()) for net in (named, plain))
    assert torch.allclose(given.features, expected.features, atol=1e-5)


def test_the_stem_is_that_of_the_whole_network() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = timm.create_model("resnet10t", num_classes=0, global_pool="")
            self.proj, self.fc = nn.Conv2d(512, 8, 1), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.proj(self.backbone(x)).mean((2, 3)))

    network = Wrapped()
    whole, part = (i2p.lift(network, num_classes=4, until=name) for name in (None, "backbone.layer2"))
    assert part.lifting.options.stem == whole.lifting.options.stem == "paper"
    assert part.roles["backbone.conv1.0"] == whole.roles["backbone.conv1.0"]


@pytest.mark.parametrize("left", ["another head", "no head", "no layer3"])
def test_weights_need_not_have_what_lies_behind(left: str, tmp_path: Path) -> None:
    weights = timm.create_model("test_resnet", num_classes=77 if left == "another head" else 0).state_dict()
    kept = {name: value for name, value in weights.items() if left != "no layer3" or "layer3" not in name}
    torch.save(kept, tmp_path / "weights.pth")
    part = i2p.lift("test_resnet", f"file:{tmp_path / 'weights.pth'}", num_classes=4, until="layer2")
    assert torch.equal(part.state_dict()["layer2.0.bn1.weight"], weights["layer2.0.bn1.weight"])
    assert source_network(part.lifting).state_dict()["layer1.0.bn1.bias"].equal(weights["layer1.0.bn1.bias"])
    with pytest.raises(InputError, match=r"layer1\.0"):
        torch.save({n: v for n, v in kept.items() if not n.startswith("layer1.0.conv1")}, tmp_path / "weights.pth")
        i2p.lift("test_resnet", f"file:{tmp_path / 'weights.pth'}", num_classes=4, until="layer2")


@pytest.mark.parametrize(("arch", "until"), [("test_mambaout", "stages.1"), ("test_convnext", "stages.0.blocks.0.mlp")])
def test_channels_may_come_last(arch: str, until: str) -> None:
    whole, part = (i2p.lift(arch, "random", num_classes=7, until=name).eval() for name in (None, until))
    expected, _ = whole.observe([until])(clouds())[until]
    assert part(clouds()).shape == (3, 7) and torch.allclose(part.embed(clouds())[0], expected, atol=1e-5)


@pytest.mark.parametrize(("arch", "until"), [("inception_v3", "Mixed_7c"), ("tresnet_m", "body.layer2")])
def test_images_that_are_large_enough_tell_the_width(arch: str, until: str) -> None:
    part = i2p.lift(arch, "random", num_classes=7, until=until).eval()
    assert part(clouds()).shape == (3, 7)


@pytest.mark.parametrize(("until", "blocks"), [("layer1", ["layer1.0"]), ("layer2", ["layer1.0", "layer2.0"])])
def test_the_last_block_of_a_part_is_a_block(until: str, blocks: list[str]) -> None:
    part = i2p.lift("test_resnet", "random", num_classes=4, until=until)
    assert list(i2p.finetune.blocks_of(part)) == blocks
    i2p.freeze(part, "io+norm+adapter:2")
    assert {name.split(".adapter")[0] for name in part.state_dict() if "adapter" in name} == set(blocks)
