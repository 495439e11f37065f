"""The check of a lifting: what matches what, what is exact, and what is warned about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lifting_samples import clouds, randomise, relative, small_resnet
from torch import nn

import image2point as i2p
from image2point.lifting import LiftedNetwork
from image2point.lifting.check import KINDS, Check, check_lifting
from image2point.lifting.depth_errors import depth_errors
from image2point.lifting.matched import MULTIPLE, image_channels, pixels_per_voxel, projection
from image2point.lifting.source import source_network
from image2point.voxels import Sites, VoxelTensor


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The kernels of a small ResNet are drawn from torch's own generator."""
    torch.manual_seed(0)


def lifted(network: nn.Module, **options: object) -> LiftedNetwork:
    settings = {"stem": "inflate", "downsample": "exact", "num_classes": None, **options}
    return i2p.lift(network, **settings).double()  # type: ignore[arg-type]


def checked(network: nn.Module, net: LiftedNetwork, bound: float = 10.0) -> Check:
    x = clouds()
    return check_lifting(network, net, [projection(x)], [x], bound)


def kinds(found: Check) -> dict[str, set[str]]:
    """Warnings of each layer that has any, in a word."""
    return {layer.name: {w.partition(":")[0] for w in layer.warnings} for layer in found.layers if layer.warnings}


# ------------------------------------------------------------------------------------------------- matched inputs


def test_projection_shows_the_mean_of_each_column() -> None:
    place = [[0, 0, 0, 0], [0, 0, 0, 4], [0, 2, 1, 3], [1, 0, 1, 0]]
    x = VoxelTensor(torch.arange(12.0).view(4, 3), Sites.of(torch.tensor(place, dtype=torch.int32)))
    shown = projection(x, "z", scale=2)
    assert shown.image.shape == (2, 3, MULTIPLE, MULTIPLE)
    expected = torch.zeros(2, 3, 3, 2)
    expected[0, :, 0, 0], expected[0, :, 2, 1], expected[1, :, 0, 1] = x.features[:2].mean(0), *x.features[2:]
    assert torch.equal(shown.image[:, :, :6:2, :4:2], expected)
    assert torch.equal(shown.image[:, :, 1:6:2, 1:4:2], expected)
    assert int(shown.mask.sum()) == 3 * 4 and not shown.image[~shown.mask.expand_as(shown.image)].any()
    on_x = projection(x, "x")
    assert torch.equal(on_x.image[0, :, 1, 3], x.features[2]) and int(on_x.mask.sum()) == 4


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_the_2d_stem_sees_what_the_adapted_3d_stem_sees(count: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 1)).double()
    net = lifted(network, in_channels=count)
    features = torch.randn(6, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    place = torch.tensor([[0, 0, 0, i] for i in range(6)], dtype=torch.int32)
    with torch.no_grad():
        found = net.eval()(VoxelTensor(features, Sites.of(place)))
        expected = network(image_channels(features, 3)[:, :, None, None]).flatten(1)
    assert isinstance(found, VoxelTensor) and relative(found.features, expected) < 1e-12


def test_a_sheet_gives_the_activations_of_its_picture() -> None:
    """Under `repeat`, one voxel thick: the two networks agree at all sites of all layers."""
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    randomise(network)
    features = torch.randn(2 * 32 * 32, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    place = torch.cartesian_prod(torch.arange(2), torch.arange(32), torch.arange(32), torch.arange(1)).int()
    sheet = VoxelTensor(features, Sites.of(place))
    found = check_lifting(network, lifted(network), [projection(sheet)], [sheet])
    assert [layer.name for layer in found.layers] == ["0", "1", "3", "4", "8"]
    for layer in found.layers:
        assert layer.image is not None and layer.cloud is not None
        assert layer.image.sites == layer.cloud.sites
        assert torch.allclose(layer.image.mean, layer.cloud.mean, rtol=1e-9)
        assert layer.ratio == pytest.approx(1.0, rel=1e-9) and layer.distance == pytest.approx(0.0, abs=1e-9)
    weaker = check_lifting(network, lifted(network, rule="mean"), [projection(sheet)], [sheet])
    first = weaker.layers[0]
    assert first.ratio == pytest.approx(1 / 3, rel=1e-9) and first.distance > 0.1


def test_layers_without_padding_keep_the_sites_of_a_picture() -> None:
    """A 2D network whose layers would make the picture smaller, down to nothing."""
    layers = [nn.Conv2d(3, 3, 5, stride=2), nn.ReLU(), nn.Conv2d(3, 3, 5), nn.Conv2d(3, 3, 7, stride=2)]
    network = nn.Sequential(*layers, nn.Conv2d(3, 3, 7)).double()
    found = checked(network, lifted(network, rule="mean"))
    assert all(layer.image is not None and layer.image.finite for layer in found.layers)


def test_a_stem_of_stride_one_sees_larger_pictures() -> None:
    network = small_resnet()
    assert pixels_per_voxel(network, lifted(network)) == 1
    assert pixels_per_voxel(network, lifted(network, stem="paper")) == 4


# ------------------------------------------------------------------------------------------------------- the check


@pytest.mark.parametrize("axis", ["x", "z"])
def test_depth_constant_images_are_exact_under_mean_alone(axis: str) -> None:
    network = small_resnet("Bottleneck")
    exact, repeated = (checked(network, lifted(network, rule=rule, axis=axis)) for rule in ("mean", "repeat"))
    assert exact.no_depth_error == repeated.no_depth_error == ""
    assert exact.depth_error is not None and exact.depth_error < 1e-10
    assert all(layer.depth_error is not None for layer in exact.layers)
    assert repeated.depth_error is not None and repeated.depth_error > 0.1
    assert repeated.layers[0].depth_error == pytest.approx(6.0)  # a 7×7 kernel: seven times the response


def test_repeated_kernels_divided_by_their_copies_are_exact_too() -> None:
    network = small_resnet()
    assert max(depth_errors(network, lifted(network, rule="repeat", variance="1/K")).values()) < 1e-10


def test_depth_padding_is_given_back() -> None:
    network = small_resnet()
    net = lifted(network, rule="mean")
    assert max(depth_errors(network, net).values()) < 1e-10
    assert all(getattr(module, "depth_padding", "zeros") == "zeros" for module in net.modules())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"stem": "paper"}, "stem is fresh"),
        ({"control": "shuffled"}, "control shuffled"),
        ({"axis": "alternate"}, "axis alternate"),
        ({"axis": {"layer1*": "x", "*": "z"}}, "axis {'layer1*': 'x'"),
        ({"in_channels": 4}, "3 channels, and the voxels 4"),
    ],
)
def test_why_there_is_no_depth_error(options: dict[str, object], reason: str) -> None:
    network = small_resnet()
    x = clouds(int(options.get("in_channels", 3)))  # type: ignore[call-overload]
    found = check_lifting(network, lifted(network, **options), [projection(x)], [x])
    assert found.depth_error is None and reason in found.no_depth_error


def test_layers_that_die_or_explode_are_warned_about() -> None:
    network = small_resnet()
    net = lifted(network, rule="mean")
    healthy = kinds(checked(network, net, bound=100.0))
    assert not any({"dies", "explodes", "not finite"} & found for found in healthy.values())
    with torch.no_grad():
        net.get_parameter("layer2.0.conv1.weight").zero_()
        net.get_parameter("layer3.0.conv2.weight").mul_(1e8)
    ill = kinds(checked(network, net, bound=100.0))
    assert "dies" in ill["layer2.0.conv1"] and "explodes" in ill["layer3.0.conv2"]
    assert "layer1.0.conv2" not in ill
    with torch.no_grad():
        net.get_parameter("layer3.0.conv2.weight").fill_(float("nan"))
    found = checked(network, net)
    assert kinds(found)["layer3.0.conv2"] == {"not finite"}
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["layers"][-1]["wasserstein"] is None


def test_some_dead_channels_and_a_ratio_past_the_bound() -> None:
    network = small_resnet()
    net = lifted(network, rule="mean")
    with torch.no_grad():
        net.get_parameter("layer2.0.conv1.weight")[:6].zero_()  # of 16
    found = kinds(checked(network, net, bound=100.0))
    assert found["layer2.0.conv1"] == {"dead channels"}
    with torch.no_grad():
        net.get_parameter("layer1.0.conv1.weight").mul_(100.0)
    assert kinds(checked(network, net, bound=5.0))["layer1.0.conv1"] & {"stronger", "explodes"}
    assert set().union(*kinds(checked(network, net)).values()) <= set(KINDS)


def test_a_channel_that_is_dead_in_2d_too_is_no_news() -> None:
    network = small_resnet()
    with torch.no_grad():
        network.get_parameter("layer2.0.bn2.weight").zero_()
    assert "layer2.0.bn2" not in kinds(checked(network, lifted(network, rule="mean")))


def test_every_tensor_is_in_one_place() -> None:
    net = i2p.lift("test_convnext", weights="random")
    network = source_network(net.lifting)
    x = clouds().to(torch.float32)
    found = check_lifting(network, net, [projection(x)], [x])
    names = [record.name for layer in found.layers for record in layer.records]
    names += [record.name for record in found.held]
    assert sorted(names) == sorted(net.state_dict())
    assert found.image_parameters == sum(p.numel() for p in network.parameters())
    assert all(layer.image is not None and layer.cloud is not None for layer in found.layers)
    for layer in found.layers:
        if "fresh" not in layer.origins:
            assert layer.image and layer.cloud and len(layer.image.mean) == len(layer.cloud.mean)


# ------------------------------------------------------------------------------------------------- the 2D network


@pytest.mark.parametrize("options", [{}, {"stride_in": "conv1", "seed": 3}], ids=str)
def test_the_2d_network_is_made_again(options: dict[str, object]) -> None:
    """Its weights and strides are those of an exact lifting."""
    name = "resnet26" if options else "test_resnet"
    exact = {"rule": "mean", "stem": "inflate", "num_classes": None}
    net = i2p.lift(name, weights="random", **exact, **options)  # type: ignore[arg-type]
    network = source_network(net.lifting)
    assert max(depth_errors(network, net).values()) < 1e-4


def test_the_2d_network_of_a_file(tmp_path: Path) -> None:
    """Tensors that fresh layers replaced may be missing or of another shape; what was allowed then is allowed now."""
    from image2point.networks.timm_import import load_timm

    state = load_timm().create_model("test_resnet", num_classes=3).state_dict()
    del state["layer4.0.bn2.bias"]
    torch.save({**state, "extra": torch.zeros(1)}, tmp_path / "weights.pt")
    net = i2p.lift(
        "test_resnet", f"file:{tmp_path / 'weights.pt'}", allow_missing=["layer4.0.bn2.bias"], allow_unexpected=["e*"]
    )
    network = source_network(net.lifting)
    assert torch.equal(network.get_parameter("layer2.0.conv1.weight"), state["layer2.0.conv1.weight"])


def test_a_given_module_cannot_be_made_again() -> None:
    with pytest.raises(i2p.InputError, match="given module"):
        source_network(lifted(small_resnet()).lifting)
