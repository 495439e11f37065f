"""Policies: which parameters train and which statistics move, through `.train()` and again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import image2point as i2p
from image2point.finetune import Counts, count_by_role, following
from image2point.lifting import LiftedNetwork
from image2point.networks.timm_import import load_timm
from image2point.roles import POLICIES
from image2point.voxels import voxelize

ROLES = {"input", "norm", "body", "output"}
TRAINABLE = {
    "io": {"input", "output"},
    "io+stats": {"input", "output"},
    "io+norm": {"input", "norm", "output"},
    "all": ROLES,
    "head": {"output"},
    "none": set(),
}
MOVING = {"io": {"input"}, "io+stats": {"input", "norm"}, "io+norm": {"input", "norm"}, "all": {"input", "norm"}}


def network() -> LiftedNetwork:
    options = {"channels": (8, 16, 16, 24), "layers": (1, 1, 1, 1), "zero_init_last": False}
    return i2p.lift(load_timm().create_model("resnet18", **options), num_classes=4)


def cloud() -> i2p.VoxelTensor:
    draw = torch.Generator().manual_seed(0)
    return voxelize([torch.rand(150, 3, generator=draw) for _ in range(3)], 0.1)


def step(net: LiftedNetwork, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    net.train()
    loss = torch.nn.functional.cross_entropy(net(cloud()), torch.tensor([0, 1, 2]))
    if loss.requires_grad:
        loss.backward()
    optimizer.step()


@pytest.mark.parametrize("policy", [*POLICIES, "layer:layer2.0"])
def test_following_names_the_norms_that_are_not_held(policy: str) -> None:
    net = i2p.lift(load_timm().create_model("test_resnet"), num_classes=4, head="batchnorm")
    names = following(net, policy)
    i2p.freeze(net, policy)
    norms = {name: module for name, module in net.train().named_modules() if isinstance(module, _BatchNorm)}
    assert names == {name for name, module in norms.items() if module.training}
    assert ("fc.norm" in names) == (policy != "none")


@pytest.mark.parametrize("policy", POLICIES)
def test_only_what_the_policy_names_moves(policy: str) -> None:
    net = network()
    i2p.freeze(net, "all")
    counts = i2p.freeze(net, policy)
    expected = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert counts == Counts(expected, sum(p.numel() for p in net.parameters()))
    by_role = count_by_role(net)
    assert sum(c.trainable for c in by_role.values()) == expected
    assert {role for role, c in by_role.items() if c.trainable} == TRAINABLE[policy]
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        step(net, optimizer)
    after = net.state_dict()
    for record in net.lifting.parameters:
        moved = not torch.equal(after[record.name], before[record.name])
        assert moved == (record.role in TRAINABLE[policy]), record.name
    for record in net.lifting.buffers:
        moved = not torch.equal(after[record.name], before[record.name])
        assert moved == (record.role in MOVING.get(policy, set())), record.name


def test_policies_follow_each_other() -> None:
    net = network()
    norm = dict(net.named_modules())["layer1.0.bn1"]
    assert isinstance(norm, _BatchNorm)
    for policy, trains in (("io", False), ("io+norm", True), ("none", False), ("io+stats", True), ("head", False)):
        i2p.freeze(net, policy)
        for _ in range(2):
            net.train()
            assert norm.training == trains, policy
            net.eval()
            assert not norm.training
    i2p.freeze(net, "none")
    net.train()
    assert not any(module.training for module in net.modules())
    i2p.freeze(net, "all")
    net.train()
    assert all(module.training for module in net.modules())


def test_a_frozen_body_costs_no_gradient_and_keeps_no_input() -> None:
    net = network()
    i2p.freeze(net, "io")
    kept: list[tuple[int, ...]] = []
    kernels = {p.data_ptr() for p in net.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point() and tensor.data_ptr() not in kernels:
            kept.append(tuple(tensor.shape))
        return tensor

    x = cloud()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        scores = net.train()(x)
    frozen = sum(len(shape) == 2 for shape in kept)
    scores.sum().backward()
    assert all(p.grad is None for n, p in net.named_parameters() if n.startswith("layer"))
    assert net.get_parameter("conv1.weight").grad is not None
    i2p.freeze(net, "all")
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        net(x)
    # Beside what activations keep, each of the body's 11 convolutions and 11 norms keeps its input only if it trains.
    assert sum(len(shape) == 2 for shape in kept) >= frozen + 11


def test_bad_arguments() -> None:
    with pytest.raises(i2p.InputError, match=r"io\+norm"):
        i2p.freeze(network(), "norm")
    with pytest.raises(i2p.InputError, match="lift"):
        i2p.freeze(nn.Linear(2, 2), "io")


def test_importing_policies_needs_no_timm() -> None:
    import subprocess

    code = "import sys, image2point.finetune; sys.exit('timm' in sys.modules or 'torchvision' in sys.modules)"
    root = Path(__file__).resolve().parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


# ------------------------------------------------------------------------------- what was attached, or put in its place


class Decoder(nn.Module):
    """Stands for what turns maps into one map: a convolution, its norm, dropout, and the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm, self.drop, self.score = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)


WITH_DECODER = {"decoder.score.*": "output", "decoder.*": "decoder"}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_decoder_trains_with_the_stem_and_the_head(policy: str) -> None:
    net = network()
    plain = i2p.freeze(net, policy)
    decoder = Decoder()
    net.add_module("decoder", decoder)
    counts = i2p.freeze(net, policy, roles=WITH_DECODER)
    trains = policy not in ("head", "none")
    assert all(p.requires_grad == trains for part in (decoder.mix, decoder.norm) for p in part.parameters())
    assert all(p.requires_grad == (policy != "none") for p in decoder.score.parameters())
    sizes = {
        part: sum(p.numel() for p in decoder.get_submodule(part).parameters()) for part in ("mix", "norm", "score")
    }
    assert counts.total == plain.total + sum(sizes.values())
    assert counts.trainable == sum(p.numel() for p in net.parameters() if p.requires_grad)
    by_role = count_by_role(net)
    assert by_role["decoder"] == Counts(trains * (sizes["mix"] + sizes["norm"]), sizes["mix"] + sizes["norm"])
    assert sum(c.total for c in by_role.values()) == counts.total
    assert ("decoder.norm" in following(net, policy)) == trains
    net.train()
    assert decoder.norm.training == decoder.drop.training == trains
    assert i2p.freeze(net, policy) == counts  # the roles are kept


def test_what_has_no_role_is_named() -> None:
    net = network()
    net.add_module("decoder", Decoder())
    with pytest.raises(i2p.InputError, match=r"7 parameters and norms.*decoder.norm, decoder.mix.weight.*roles="):
        i2p.freeze(net, "none")
    with pytest.raises(i2p.InputError, match=r"have no role: decoder\.mix"):
        i2p.freeze(net, "all", roles={"decoder.norm.*": "decoder", "decoder.score.*": "output"})
    net = network()
    net.add_module("extra", nn.BatchNorm1d(8, affine=False))
    with pytest.raises(i2p.InputError, match="extra"):
        i2p.freeze(net, "io")
    net = network()
    net.register_parameter("scale", nn.Parameter(torch.ones(1)))
    with pytest.raises(i2p.InputError, match="scale"):
        i2p.freeze(net, "io")
    assert i2p.freeze(net, "io", roles={"scale": "input"}).trainable == i2p.freeze(network(), "io").trainable + 1


def test_an_adapter_inside_a_block_needs_a_role() -> None:
    net = network()
    net.get_submodule("layer1.0").add_module("adapter", nn.Linear(8, 8))
    with pytest.raises(i2p.InputError, match=r"layer1\.0\.adapter\.weight"):
        i2p.freeze(net, "io")
    i2p.freeze(net, "io", roles={"*.adapter.*": "input"})
    assert net.get_parameter("layer1.0.adapter.weight").requires_grad


@pytest.mark.parametrize(
    "head", [nn.Linear(24, 7, bias=False), nn.Sequential(nn.Linear(24, 9), nn.ReLU(), nn.Linear(9, 7))]
)
def test_a_swapped_head_has_the_role_of_the_old_one(head: nn.Module) -> None:
    net = network()
    net.fc = head
    counts = i2p.freeze(net, "head")
    assert counts.trainable == sum(p.numel() for p in head.parameters()) == count_by_role(net)["output"].total
    assert counts.total == sum(p.numel() for p in net.parameters())
    i2p.freeze(net, "io")
    assert all(p.requires_grad for p in head.parameters())
    i2p.freeze(net, "none")
    assert not any(p.requires_grad for p in net.parameters())
    net.fc = nn.Identity()
    assert i2p.freeze(net, "head").trainable == 0


def test_a_swapped_block_has_norms_and_a_body() -> None:
    net = network()
    net.get_submodule("layer2").add_module("0", Decoder())
    i2p.freeze(net, "io+norm")
    trains = {n for n, p in net.named_parameters() if p.requires_grad and n.startswith("layer2.")}
    assert trains == {"layer2.0.norm.weight", "layer2.0.norm.bias"}
    assert "layer2.0.norm" in following(net, "io+stats") - following(net, "io")


@pytest.mark.parametrize(
    ("roles", "message"),
    [({"fc.*": "output", "*": "decode"}, "body, output, decoder"), ({"x.*": "decoder"}, "'x.*' matches no")],
)
def test_bad_roles(roles: dict[str, str], message: str) -> None:
    net = network()
    before = dict(net.roles)
    with pytest.raises(i2p.InputError, match=message):
        i2p.freeze(net, "io", roles=roles)
    assert net.roles == before


def test_roles_that_are_given_count_more_than_the_record() -> None:
    net = network()
    i2p.freeze(net, "head", roles={"layer4.*": "output"})
    assert {n for n, p in net.named_parameters() if p.requires_grad} == {
        n for n, _ in net.named_parameters() if n.startswith(("layer4.", "fc."))
    }


def test_a_wrapped_network() -> None:
    with pytest.raises(i2p.InputError, match=r"found DataParallel \(call it on the lifted network inside"):
        i2p.freeze(nn.DataParallel(network()), "io")


@pytest.mark.parametrize("norm", [nn.Identity, lambda: nn.BatchNorm2d(8, affine=False)], ids=["none", "bare"])
def test_it_is_said_where_no_norm_can_train(norm: Callable[[], nn.Module], caplog: pytest.LogCaptureFixture) -> None:
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), norm(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    net = i2p.lift(nn.Sequential(*layers, nn.Linear(8, 4)), num_classes=4)
    i2p.freeze(net, "io+stats")
    assert not caplog.records
    i2p.freeze(net, "io+norm+ssf")
    assert "policy io+norm+ssf: the norms of Sequential have no parameters" in caplog.text
