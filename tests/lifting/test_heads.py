"""Heads: what they compute, which linear layer they are, and what trains in them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lifting_samples import clouds, relative, small_resnet
from torch import Tensor, nn

import image2point as i2p
from image2point.collapse import Statistics, metrics
from image2point.lifting import LiftedNetwork, Lifting
from image2point.lifting.heads import HEADS, BatchNormHead, CosineHead, FrameHead, simplex_frame
from image2point.voxels import VoxelTensor

PARAMETERS = {
    "linear": {"fc.weight", "fc.bias"},
    "batchnorm": {"fc.weight", "fc.norm.weight", "fc.norm.bias"},
    "cosine": {"fc.weight", "fc.scale"},
    "etf": {"fc.scale"},
}


def lifted(head: str, network: nn.Module | None = None, **options: Any) -> LiftedNetwork:
    return i2p.lift(network or small_resnet(), num_classes=4, head=head, **options).double()


def trained(net: LiftedNetwork, steps: int = 3) -> LiftedNetwork:
    """A few steps, so that nothing in the head is as at initialisation."""
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.5)
    net.train()
    for step in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(clouds(seed=step)), torch.tensor([1, 3])).backward()
        optimizer.step()
    return net


@pytest.mark.parametrize("appended", [False, True], ids=["in place of the 2D one", "appended"])
@pytest.mark.parametrize("head", HEADS)
def test_scores_are_linear_in_the_features(head: str, appended: bool) -> None:
    """In eval mode, with the pair that `classifier` gives, whatever the mode when it is asked for."""
    layers = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = trained(lifted(head, body if appended else None))
    weight, bias = (None if t is None else t.detach().clone() for t in net.linear_classifier())
    net.eval()
    assert weight is not None
    with torch.no_grad():
        features, scores = net.embed(clouds(seed=9))
    assert weight.shape == (4, features.shape[1])
    assert relative(F.linear(features, weight, bias), scores) < 1e-12
    assert torch.equal(net.linear_classifier()[0], weight)
    path = "head" if appended else "fc"
    assert {r.name for r in net.lifting.parameters if r.role == "output"} == {
        name.replace("fc", path, 1) for name in PARAMETERS[head]
    }


def test_the_folded_norm_is_the_one_with_running_statistics() -> None:
    net = trained(lifted("batchnorm"))
    head = dict(net.named_modules())["fc"]
    assert isinstance(head, BatchNormHead)
    norm = head.norm
    assert norm.running_mean is not None and norm.running_var is not None
    assert float(norm.running_mean.abs().max()) > 0 and int(norm.num_batches_tracked or 0) == 3
    weight, bias = net.linear_classifier()
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    for c in range(4):
        assert torch.allclose(weight[c], scale[c] * head.weight[c], rtol=1e-12)
    assert bias is not None
    assert torch.allclose(bias, norm.bias - scale * norm.running_mean, rtol=1e-12)


@pytest.mark.parametrize("head", HEADS)
def test_measures_of_collapse_take_the_linear_layer_that_the_head_is(head: str) -> None:
    net = trained(lifted(head)).eval()
    with torch.no_grad():
        features = torch.cat([net.embed(clouds(seed=s))[0] for s in range(8)])
    statistics = Statistics(4, features.shape[1]).update(features, torch.arange(16) % 4)
    weight, bias = (None if t is None else t.detach() for t in net.linear_classifier())
    found = metrics(statistics, classifier=(weight, bias))["nc3"]
    rows = net.state_dict()["fc.weight"]
    if head == "batchnorm":
        norm = dict(net.named_modules())["fc.norm"]
        rows = rows * (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()[:, None]  # type: ignore[operator]
    elif head == "cosine":
        rows = rows / rows.norm(dim=1, keepdim=True)
    centred = statistics.means - statistics.means.mean(0)
    assert found == pytest.approx(float((rows / rows.norm() - centred / centred.norm()).square().sum()), rel=1e-9)


def test_cosine_scores() -> None:
    net = trained(lifted("cosine")).eval()
    head = dict(net.named_modules())["fc"]
    assert isinstance(head, CosineHead)
    with torch.no_grad():
        features, scores = net.embed(clouds(seed=9))
    assert torch.allclose(features.norm(dim=1), torch.ones(2, dtype=torch.float64))
    expected = float(head.scale.detach()) * F.cosine_similarity(features[:, None], head.weight[None], dim=2)
    assert relative(scores, expected) < 1e-12
    fresh = lifted("cosine")
    assert torch.allclose(fresh.get_parameter("fc.weight").norm(dim=1), torch.ones(4, dtype=torch.float64))
    assert fresh.get_parameter("fc.scale").tolist() == [10.0]
    cosines = F.cosine_similarity(fresh.get_parameter("fc.weight"), lifted("linear").get_parameter("fc.weight"))
    assert torch.allclose(cosines, torch.ones(4, dtype=torch.float64))


def enlarged(factor: float) -> nn.Module:
    """A 2D network whose features are about `factor` times as large: as undivided kernels under frozen norms."""
    network = small_resnet()
    with torch.no_grad():
        last = network.get_submodule("layer4.0.bn2")
        last.weight.mul_(factor)  # type: ignore[union-attr, operator]
    return network


def test_enormous_features_begin_with_scores_of_scale_one() -> None:
    """What policy `io` meets on networks lifted undivided: the body's norms are frozen."""
    sizes = {}
    for head in HEADS:
        net = lifted(head, enlarged(1e9))
        i2p.freeze(net, "io")
        net.train()
        with torch.no_grad():
            sizes[head] = float(net(clouds()).abs().max())
    assert sizes["linear"] > 1e5
    assert sizes["batchnorm"] <= 1.0 + 1e-9  # two clouds: plus and minus one
    assert sizes["cosine"] <= 10.0 + 1e-9 and sizes["etf"] <= 10.0 + 1e-6


def one_cloud(seed: int = 0) -> VoxelTensor:
    draw = torch.Generator().manual_seed(seed)
    return i2p.voxelize([torch.rand(120, 3, generator=draw)], 0.1).double()


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_of_one_cloud_trains(head: str) -> None:
    """The norm on the scores takes its running statistics, and leaves them."""
    net = trained(lifted(head))
    before = copy.deepcopy(net.state_dict())
    scores = net(one_cloud())
    F.cross_entropy(scores, torch.tensor([2])).backward()
    gradient = net.get_parameter("fc.scale" if head == "etf" else "fc.weight").grad
    assert gradient is not None and bool(torch.isfinite(gradient).all()) and float(gradient.abs().max()) > 0
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        if head == "batchnorm":
            assert torch.equal(net.state_dict()[f"fc.norm.{name}"], before[f"fc.norm.{name}"])
    if head == "batchnorm":
        norm = dict(net.named_modules())["fc"].norm
        again = norm(torch.full((1, 4), 0.7, dtype=torch.float64))  # type: ignore[operator]
        norm.eval()  # type: ignore[operator]
        assert torch.equal(again, norm(torch.full((1, 4), 0.7, dtype=torch.float64)))  # type: ignore[operator]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("policy", ["io", "io+norm", "head", "none", "all"])
def test_all_of_the_head_is_output(head: str, policy: str) -> None:
    net = lifted(head)
    i2p.freeze(net, policy)
    trains = {name for name in PARAMETERS[head] if net.get_parameter(name).requires_grad}
    assert trains == (set() if policy == "none" else PARAMETERS[head])
    net.train()
    with torch.no_grad():
        net(clouds())
    if head == "batchnorm":
        moved = int(net.state_dict()["fc.norm.num_batches_tracked"])
        assert moved == (0 if policy == "none" else 1)


@pytest.mark.parametrize("head", HEADS)
def test_records_and_state_dicts(head: str) -> None:
    net = trained(lifted(head)).eval()
    assert net.lifting.options.head == head
    assert Lifting.from_dict(net.lifting.to_dict()) == net.lifting
    records = {r.name: r for r in (*net.lifting.parameters, *net.lifting.buffers)}
    assert set(records) == set(net.state_dict())
    assert all(r.origin == "fresh" and r.role == "output" for name, r in records.items() if name.startswith("fc"))
    other = lifted(head, seed=7)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.eval()(clouds()), net(clouds()))


def test_a_record_from_before_there_were_heads() -> None:
    values = i2p.lift(small_resnet()).lifting.to_dict()
    for name in ("head", "patch"):
        del values["options"][name]
    assert Lifting.from_dict(values).options.head == "linear"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "softmax"}, "linear, batchnorm, cosine, etf"),
        ({"head": "cosine", "num_classes": None}, "needs num_classes"),
        (
            {"head": "etf", "num_classes": 26},
            r"2 to 25 rows, one for each class, and there are 26 classes; use .*cosine",
        ),
        ({"head": "etf", "num_classes": 1}, "and there are 1 classes"),
    ],
)
def test_heads_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(i2p.InputError, match=message):
        i2p.lift(small_resnet(), **{"num_classes": 4, **options})


def test_gradients_of_the_head_are_right() -> None:
    """By finite differences, in eval and in training mode."""
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(5, 6, generator=draw, dtype=torch.float64)
    for layer in (BatchNormHead(6, 3), CosineHead(6, 3), FrameHead(6, 3)):
        layer = layer.double()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw))

        def scores(x: Tensor, layer: nn.Module = layer) -> Tensor:
            return layer(x)

        for mode in (True, False):
            layer.train(mode)
            assert torch.autograd.gradcheck(scores, (features.clone().requires_grad_(),), eps=1e-6, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------- a frame


@pytest.mark.parametrize(("classes", "width"), [(2, 1), (5, 4), (40, 96)])
def test_a_simplex_frame(classes: int, width: int) -> None:
    """Rows of length 1 that sum to zero, with the same cosine between any two; as many classes as fit, too."""
    rows = simplex_frame(classes, width, torch.Generator().manual_seed(3))
    cosines = torch.full((classes, classes), -1 / (classes - 1), dtype=torch.float64).fill_diagonal_(1)
    assert torch.allclose(rows @ rows.T, cosines, atol=1e-12) and float(rows.sum(0).abs().max()) < 1e-12
    other = simplex_frame(classes, width, torch.Generator().manual_seed(4))
    assert width == 1 or not torch.allclose(rows, other)


def test_a_frame_is_exported(tmp_path: Path) -> None:
    net, example = trained(lifted("etf")).eval(), clouds(seed=2).dense((12, 12, 12))
    file = i2p.export(net, example, tmp_path / "net.pt2")
    with torch.no_grad():
        found, expected = torch.export.load(file).module()(example.grid, example.mask), net(example)
    assert relative(found, expected) < 1e-12


def test_a_frame_never_trains() -> None:
    net = lifted("etf")
    before = net.state_dict()["fc.weight"].clone()
    assert i2p.freeze(net, "head").trainable == 1 and i2p.freeze(net, "io").trainable > 1
    trained(net).eval()
    assert torch.equal(net.state_dict()["fc.weight"], before) and net.get_parameter("fc.scale").item() != 10
    with torch.no_grad():
        features, scores = net.embed(clouds(seed=9))
        assert torch.allclose(features.norm(dim=1), torch.ones(2, dtype=torch.float64))
        assert relative(scores, net.get_parameter("fc.scale") * features @ before.T) < 1e-12
        assert relative(net.fold()(clouds(seed=9)), scores) < 1e-12
    some = Statistics(4, 24).update(torch.eye(4, 24, dtype=torch.float64), torch.arange(4))
    assert metrics(some, classifier=net.linear_classifier())["nc2_w_etf"] == pytest.approx(0, abs=1e-7)
