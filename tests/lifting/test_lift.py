"""`lift`: families, stems, heads, records, controls, and what it refuses."""

from __future__ import annotations

import copy
import json
import logging
import operator
from typing import Any

import pytest
import torch
from lifting_samples import clouds, image, randomise, relative, small_resnet
from torch import Tensor, nn
from torch.nn import functional as F

import image2point as i2p
from image2point.lifting import LiftedNetwork, LiftError, Lifting
from image2point.voxels import MaxPool, TiedConv, VoxelConv, VoxelTensor

FAMILIES = {
    "resnet18": "paper", "resnet50": "paper", "resnext50_32x4d": "paper", "resnet26d": "inflate",
    "tf_efficientnet_lite1": "paper", "mobilenetv2_100": "paper",
}  # fmt: skip
LARGE_FAMILIES = {
    "resnet34": "paper", "resnet101": "paper", "resnet152": "paper", "wide_resnet50_2": "paper", "resnet50d": "inflate",
    "tf_efficientnet_lite0": "paper", "tf_efficientnet_lite2": "paper", "tf_efficientnet_lite3": "paper",
    "tf_efficientnet_lite4": "paper",
}  # fmt: skip


def test_a_network_without_values_has_shapes() -> None:
    """On the meta device, where a kernel's structure cannot be read off its values."""
    with torch.device("meta"), torch.no_grad():
        net = i2p.lift(small_resnet(), num_classes=None, substrate="dense")
        assert net(torch.empty(2, 3, 16, 16, 8, dtype=torch.float64)).shape == (2, 7)


def check_family(name: str, stem: str) -> None:
    net = i2p.lift(name, weights="random", num_classes=4).eval()
    x = clouds().to(torch.float32)
    assert net.lifting.options.stem == stem
    with torch.no_grad():
        features, scores = net.embed(x)
        maps = net.forward_features(x)
    assert scores.shape == (2, 4) and bool(torch.isfinite(scores).all())
    weight, bias = net.linear_classifier()
    assert torch.equal(scores, F.linear(features, weight, bias))
    sizes = [len(m.features) for m in maps.values() if isinstance(m, VoxelTensor)]
    assert len(sizes) == len(maps) >= 5 and sizes == sorted(sizes, reverse=True)
    check_counts(net)


def check_counts(net: LiftedNetwork) -> None:
    """Every tensor is accounted for, on both sides."""
    counts, state = net.lifting.counts, net.state_dict()
    records = {r.name: r for r in (*net.lifting.parameters, *net.lifting.buffers)}
    assert set(records) == set(state)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {n: r.shape for n, r in records.items()}
    assert counts["target"]["total"] == len(state) == sum(counts["target"][o] for o in ("inflated", "copied", "fresh"))
    assert counts["source"]["total"] == sum(counts["source"][f] for f in ("used", "replaced", "skipped"))
    assert counts["source"]["used"] == counts["target"]["inflated"] + counts["target"]["copied"]
    total = sum(p.numel() for p in net.parameters())
    assert counts["origin"]["total"] == counts["role"]["total"] == total
    assert sum(counts["role"][r] for r in ("input", "norm", "body", "output")) == total


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name: str) -> None:
    check_family(name, FAMILIES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE_FAMILIES)
def test_large_families(name: str) -> None:
    check_family(name, LARGE_FAMILIES[name])


@pytest.mark.parametrize(
    ("name", "where", "what"),
    [
        ("edgenext_xx_small", "stages.1.blocks.1.pos_embd", "token_projection"),
        ("sequencer2d_s", "stages.0.blocks.0.rnn_tokens", "reshape"),
    ],
)
def test_what_has_no_rule_is_named(name: str, where: str, what: str) -> None:
    with pytest.raises(LiftError, match=what) as caught:
        i2p.lift(name, weights="random")
    assert name in str(caught.value) and where in str(caught.value) and isinstance(caught.value, i2p.InputError)


# ---------------------------------------------------------------------------------------------- stems and roles


def roles_and_origins(net: LiftedNetwork) -> dict[str, tuple[str, str]]:
    return {r.name: (r.role, r.origin) for r in (*net.lifting.parameters, *net.lifting.buffers)}


def test_paper_stem() -> None:
    network = small_resnet()
    before = copy.deepcopy(network.state_dict())
    net = i2p.lift(network, in_channels=5, num_classes=4).eval()
    stem, norm = net.get_parameter("conv1.weight").detach(), dict(net.named_modules())["bn1"]
    assert stem.shape == (64, 5, 3, 3, 3) and float(stem.std()) == pytest.approx((2 / 64 / 27) ** 0.5, rel=0.1)
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None
    assert bool((norm.weight == 1).all()) and bool((norm.bias == 0).all()) and bool((norm.running_mean == 0).all())
    x = clouds()
    assert net.maxpool(x) is x  # it keeps its place and changes nothing
    maps = net.forward_features(clouds(5))
    assert [m.stride for m in maps.values() if isinstance(m, VoxelTensor)] == [1, 1, 2, 4, 8]
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())
    found = roles_and_origins(net)
    assert found["conv1.weight"] == found["bn1.running_var"] == ("input", "fresh")
    assert found["layer1.0.bn1.weight"] == found["layer2.0.downsample.1.bias"] == ("norm", "copied")
    assert found["layer1.0.conv1.weight"] == ("body", "inflated")
    assert found["fc.weight"] == found["fc.bias"] == ("output", "fresh")
    check_counts(net)


def test_deep_stem_is_all_stem() -> None:
    network = small_resnet(stem_type="deep", stem_width=8, avg_down=True)
    net = i2p.lift(network, num_classes=None)
    assert net.lifting.options.stem == "inflate" and net.lifting.options.downsample == "exact"
    found = roles_and_origins(net)
    inputs = {name for name, (role, _) in found.items() if role == "input" and "running" not in name}
    layers = ["conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1"]
    assert {name.rpartition(".")[0] for name in inputs} == set(layers)
    assert found["fc.weight"] == ("output", "copied") and net.lifting.counts["target"]["fresh"] == 0
    paper = i2p.lift(network, stem="paper", num_classes=None)
    assert roles_and_origins(paper)["conv1.6.weight"] == ("input", "fresh")
    assert {n for n in paper.state_dict() if n.startswith("conv1")} == {"conv1.6.weight"}
    check_counts(paper)


def test_efficientnet_roles() -> None:
    found = roles_and_origins(i2p.lift("tf_efficientnet_lite0", weights="random"))
    assert found["conv_stem.weight"] == ("input", "fresh") and found["bn1.bias"] == ("input", "fresh")
    assert found["conv_head.weight"] == ("body", "inflated") and found["bn2.weight"] == ("norm", "copied")
    assert found["classifier.weight"] == ("output", "fresh")


def test_inflated_stem_adapts_to_the_input() -> None:
    network = small_resnet()
    net = i2p.lift(network, stem="inflate", in_channels=6, rule="center")
    kernel = network.get_parameter("conv1.weight")
    found = net.get_parameter("conv1.weight")[..., 3]
    assert torch.equal(found, torch.cat([kernel, kernel], 1) / 2)
    record = next(r for r in net.lifting.parameters if r.name == "conv1.weight")
    assert record.origin == "inflated" and record.source_shape == (64, 3, 7, 7) and record.shape == (64, 6, 7, 7, 7)


def test_norms_after_pooling_are_output() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.1), nn.Linear(6, 5),
    )  # fmt: skip
    randomise(network)
    net = i2p.lift(network, stem="inflate", rule="mean", num_classes=None, depth_padding="replicate").eval()
    found = roles_and_origins(net)
    assert found["5.weight"] == found["6.weight"] == found["6.running_var"] == ("output", "copied")
    x = image()
    with torch.no_grad():
        assert relative(net(x.unsqueeze(-1).repeat(1, 1, 1, 1, 4)), network(x)) < 1e-10
        assert net.embed(x.unsqueeze(-1).repeat(1, 1, 1, 1, 4))[0].shape == (2, 6)


# ------------------------------------------------------------------------------------------------ plain modules


class Residual(nn.Module):
    """Functional operations, in-place writes and shared modules, as hand-written networks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.left = nn.Conv2d(8, 8, 3, padding=2, dilation=2, bias=False)
        self.right = nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(16)
        self.pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.hidden = nn.Linear(16, 6)
        self.score = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        before = x
        self.relu(x)  # `before` sees this too
        y = torch.cat([self.left(x), self.right(before) * torch.sigmoid(x)], 1)
        y = F.relu(self.norm(y))
        y = F.max_pool2d(y, 2)
        y += F.gelu(y)
        y = self.pool(y)
        y = y.mean((2, 3), keepdim=True)
        y = y.view(y.size(0), -1)
        return self.score(self.relu(F.dropout(self.hidden(y), 0.5, self.training)))


def test_hand_written_network() -> None:
    network = randomise(Residual())
    net = i2p.lift(network, stem="inflate", rule="mean", num_classes=None, depth_padding="replicate").eval()
    x = image()
    volume = x.unsqueeze(-1).repeat(1, 1, 1, 1, 8)
    kept = volume.clone()
    with torch.no_grad():
        assert relative(net(volume), network(x)) < 1e-10
    assert torch.equal(volume, kept)
    assert set(net.state_dict()) == set(network.state_dict())
    assert list(net.forward_features(volume)) == ["stem", "left", "right", "norm", "pool"]
    check_counts(net)


def test_a_network_without_classifier_gets_one() -> None:
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    pooled = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = i2p.lift(pooled, num_classes=4).double().eval()
    assert net(clouds()).shape == (2, 4) and net.linear_classifier()[0].shape == (4, 8)
    assert roles_and_origins(net)["head.weight"] == ("output", "fresh")
    bare = i2p.lift(body, num_classes=None).double().eval()
    assert isinstance(bare(clouds()), VoxelTensor)
    for ask in (lambda: bare.linear_classifier(), lambda: bare.embed(clouds())):
        with pytest.raises(i2p.InputError):
            ask()


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 1, 2), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.a(x) + self.b(x))


def test_parallel_stem_is_inflated() -> None:
    net = i2p.lift(Branching(), num_classes=None)
    assert net.lifting.options.stem == "inflate"
    assert {r.name for r in net.lifting.parameters if r.role == "input"} >= {"a.weight", "b.weight"}
    with pytest.raises(LiftError, match="branches"):
        i2p.lift(Branching(), stem="paper")


class Indexed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return operator.getitem(x, 0)


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        (nn.Conv2d(8, 8, 3, stride=(2, 1), padding=1), "differs between the image axes"),
        (nn.Conv2d(8, 8, 1, padding=1), "enlarges"),
        (nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), "reflect"),
        (nn.MaxPool2d(2, return_indices=True), "indices"),
        (nn.AdaptiveAvgPool2d(7), "adaptive pooling to 7×7 cells has no meaning on sparse voxels"),
        (nn.AdaptiveMaxPool2d(7), "size 7"),
        (nn.Flatten(), "before global pooling"),
        (nn.Upsample(scale_factor=2), "finer than the voxels"),
        (nn.Upsample(scale_factor=2, mode="bilinear"), "finer than the voxels"),
        (nn.InstanceNorm2d(8, track_running_stats=True), "running statistics"),
        (nn.ZeroPad2d(3), "beyond a kernel"),
        (Indexed(), "indexing"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_unsupported_settings_are_refused(layer: nn.Module, what: str) -> None:
    with pytest.raises(LiftError, match=what):
        network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), layer, nn.Conv2d(8, 8, 3))
        i2p.lift(network, stem="inflate", num_classes=None)


def test_subclasses_inherit_no_rule() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return F.conv2d(input, self.weight - self.weight.mean(), None, 1, 1)

    with pytest.raises(LiftError):
        i2p.lift(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Standardised(8, 8, 3)), num_classes=None)


def test_control_flow_is_refused() -> None:
    class Deciding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(LiftError, match=r"Deciding.*trace"):
        i2p.lift(Deciding())


# ---------------------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"rule": "tile"}, "repeat, mean, center"),
        ({"axis": "w"}, "x, y, z"),
        ({"substrate": "octree"}, "sparse, dense"),
        ({"control": "shuffle"}, "random, shuffled, scratch"),
        ({"in_channels": 0}, "in_channels"),
        ({"num_classes": -1}, "num_classes"),
        ({"stride_in": "conv1"}, "no such block"),
    ],
)
def test_bad_options(arguments: dict[str, Any], what: str) -> None:
    with pytest.raises(i2p.InputError, match=what):
        i2p.lift(small_resnet(), **arguments)


def test_unknown_architecture_suggests_known_ones() -> None:
    with pytest.raises(i2p.InputError, match="resnet50"):
        i2p.lift("resnet5O", weights="random")


def test_bad_input_to_the_network() -> None:
    net = i2p.lift(small_resnet(), num_classes=3)
    with pytest.raises(i2p.InputError, match=r"3 input channels.*carry 4"):
        net(clouds(4))
    with pytest.raises(i2p.InputError, match="voxelize"):
        net(image())


# ------------------------------------------------------------------------------------- stride, seeds, controls


def test_stride_in_conv1() -> None:
    network = small_resnet("Bottleneck")
    net = i2p.lift(network, stride_in="conv1", stem="inflate", rule="mean", num_classes=None, depth_padding="replicate")
    strides = {n: m.window.stride for n, m in net.named_modules() if hasattr(m, "window")}
    assert (strides["layer2.0.conv1"], strides["layer2.0.conv2"]) == (2, 1)
    caffe = copy.deepcopy(network)
    for stage in ("layer2", "layer3", "layer4"):
        caffe.get_submodule(f"{stage}.0.conv1").stride = (2, 2)  # type: ignore[assignment]
        caffe.get_submodule(f"{stage}.0.conv2").stride = (1, 1)  # type: ignore[assignment]
    x = image()
    with torch.no_grad():
        assert relative(net.eval()(x.unsqueeze(-1).repeat(1, 1, 1, 1, 8)), caffe(x)) < 1e-10


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = i2p.lift("resnet18", weights="random", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(3)
    again, other = (i2p.lift("resnet18", weights="random", seed=seed) for seed in (1, 2))
    for name, tensor in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    for name in ("conv1.weight", "fc.weight", "layer1.0.conv1.weight"):
        assert not torch.equal(other.state_dict()[name], first.state_dict()[name])


def test_random_control() -> None:
    network = small_resnet(channels=(16, 32, 32, 64))
    plain, net = i2p.lift(network, seed=5), i2p.lift(network, seed=5, control="random")
    assert set(plain.state_dict()) == set(net.state_dict())
    for record in (*net.lifting.parameters, *net.lifting.buffers):
        mine, other = net.state_dict()[record.name], plain.state_dict()[record.name]
        if record.role in ("input", "output"):  # arms of one seed share the fresh stem and head
            assert torch.equal(mine, other), record.name
        elif record.role == "body":
            assert record.origin == "fresh"
            assert float(mine.std()) == pytest.approx(float(other.std()), rel=0.12), record.name
            assert abs(float((mine * other).mean() / mine.std() / other.std())) < 0.1, record.name
            assert torch.equal(mine[..., :1].expand_as(mine), mine)  # still an inflated kernel
        else:
            start = 1.0 if record.name.endswith(("weight", "running_var")) else 0.0
            assert record.origin == "fresh" and bool((mine == start).all()), record.name
    check_counts(net)
    assert net.lifting.counts["source"]["used"] == 0


def test_shuffled_control() -> None:
    """Each kernel keeps its values in other places; 1×1 kernels, norms, stem and head stay."""
    network = small_resnet("Bottleneck")
    plain, net = i2p.lift(network, seed=5), i2p.lift(network, seed=5, control="shuffled")
    moved = 0
    for name, mine in net.state_dict().items():
        other = plain.state_dict()[name]
        if mine.ndim == 5 and mine.shape[2:] == (3, 3, 3) and name != "conv1.weight":
            moved += 1
            assert not torch.equal(mine, other) and torch.equal(mine[..., :1].expand_as(mine), mine)
            assert torch.equal(mine[..., 0].flatten(2).sort(2).values, other[..., 0].flatten(2).sort(2).values)
            orders = mine[..., 0].flatten(2).argsort(2), other[..., 0].flatten(2).argsort(2)
            steps = orders[0].gather(2, orders[1].argsort(2))
            assert len(steps.flatten(0, 1).unique(dim=0)) > 10  # one permutation per pair of channels
        else:
            assert torch.equal(mine, other), name
    assert moved == 4
    again = i2p.lift(network, seed=5, control="shuffled").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in net.state_dict().items())
    check_counts(net)


@pytest.mark.parametrize(("axis", "downsample"), [("y", "paper"), ("alternate", "exact")])
def test_tied_is_repeat_with_the_parameters_of_the_2d_network(axis: str, downsample: str) -> None:
    network = small_resnet("Bottleneck", cardinality=2, base_width=64)
    options: dict[str, Any] = {"axis": axis, "downsample": downsample, "stem": "inflate", "num_classes": None}
    tied, repeated = (i2p.lift(network, rule=rule, **options).double().eval() for rule in ("tied", "repeat"))
    assert {n: p.shape for n, p in tied.named_parameters()} == {n: p.shape for n, p in network.named_parameters()}
    x = clouds()
    for form in (x, x.dense()):
        scores = [net(form) for net in (tied, repeated)]
        assert relative(scores[0], scores[1]) < 1e-10
        gradients = []
        for net, score in zip((tied, repeated), scores, strict=True):
            net.zero_grad()
            score.tanh().sum().backward()
            gradients.append({n: p.grad for n, p in net.named_parameters()})
        for name, gradient in gradients[0].items():
            expected = gradients[1][name]
            assert gradient is not None and expected is not None
            if expected.ndim == 5:
                layer = tied.get_submodule(name.removesuffix(".weight"))
                assert isinstance(layer, TiedConv)
                depth = 2 + "xyz".index(layer.axis)
                expected = expected.sum((2, 3, 4)).view_as(gradient) if gradient.shape[2] == 1 else expected.sum(depth)
            assert relative(gradient, expected) < 1e-9, name
    check_counts(tied)
    fresh = i2p.lift(network, rule="tied", control="scratch", **options).get_parameter("layer4.0.conv2.weight")
    assert float(fresh.var()) * fresh.shape[0] / 2 * 27 == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("rule", ["repeat", "center"])
def test_alternating_axes(rule: str) -> None:
    net = i2p.lift(small_resnet(), axis="alternate", stem="inflate", rule=rule).double().eval()
    wide = [m for m in net.modules() if isinstance(m, VoxelConv) and m.window.kernel != (1, 1, 1)]
    assert [m.axis for m in wide[:5]] == ["z", "x", "y", "z", "x"] and len(wide) == 9
    for module in wide:
        depth = 2 + "xyz".index(module.axis)
        if rule == "repeat":
            assert module.structure().tied == {depth - 2}
        else:
            others = module.weight.detach().clone()
            others.select(depth, others.shape[depth] // 2).zero_()
            assert not others.any()
    assert {m.window.kernel for m in net.modules() if isinstance(m, MaxPool)} == {(3, 3, 3)}
    x = clouds()
    with torch.no_grad():
        assert relative(net(x.dense()), net(x)) < 1e-10


def test_scratch_control() -> None:
    network = small_resnet(channels=(16, 32, 32, 64))
    net = i2p.lift(network, control="scratch", stem="inflate", num_classes=None)
    assert all(r.origin == "fresh" for r in (*net.lifting.parameters, *net.lifting.buffers))
    kernel = net.get_parameter("layer3.0.conv2.weight").detach()
    assert float(kernel.var()) * 32 * 27 == pytest.approx(2.0, rel=0.1)
    assert not torch.equal(kernel[..., 0], kernel[..., 1])
    assert bool((net.get_parameter("layer4.0.bn2.weight") == 1).all())
    check_counts(net)


# -------------------------------------------------------------------------------------------- the network itself


def test_substrate_dense_computes_grids() -> None:
    network = small_resnet()
    sparse, dense = (i2p.lift(network, substrate=s).double().eval() for s in ("sparse", "dense"))
    x = clouds()
    assert all(isinstance(m, i2p.DenseVoxels) for m in dense.forward_features(x).values())
    assert relative(dense(x), sparse(x)) < 1e-10


def test_record_survives_json() -> None:
    net = i2p.lift("resnet18", weights="random", axis="y")
    values = json.loads(net.lifting.to_json())
    assert Lifting.from_dict(values) == net.lifting
    assert values["counts"] == net.lifting.counts and values["options"]["axis"] == "y"


def test_copies_and_state_dicts() -> None:
    """A child named like an attribute (`classifier`) is no obstacle."""
    net = i2p.lift("tf_efficientnet_lite0", weights="random", num_classes=4).double().eval()
    x = clouds()
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.linear_classifier()[0].add_(1.0)
        assert not torch.equal(twin(x), net(x))
        twin.load_state_dict(net.state_dict())
        assert torch.equal(twin(x), net(x))


class Tied(nn.Module):
    """Two layers with one kernel, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(8 if i else 3, 8, 3, padding=1) for i in range(3))
        self.two.weight, self.fc = self.one.weight, nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.two(self.two(self.one(self.stem(x).relu()).relu())).mean((2, 3)))


def test_it_is_said_that_a_shared_tensor_becomes_two(caplog: pytest.LogCaptureFixture) -> None:
    i2p.lift(Tied(), num_classes=4)
    assert "Tied: one.weight and two.weight are one tensor in the 2D network" in caplog.text
    assert len(caplog.records) == 1


def test_lifting_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "image2point"):
        i2p.lift("resnet18", weights="random")
    text = caplog.text
    assert "of 122 2D tensors 114 used, 8 replaced, 0 skipped" in text and "random" in text
