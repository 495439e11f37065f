"""Chains of a lifted network as one node each: same results, and plain modules wherever something moves."""

from __future__ import annotations

import pytest
import torch
from lifting_samples import relative
from torch import Tensor, nn

import image2point
from image2point.lifting import observe
from image2point.lifting.network import LiftedNetwork
from image2point.voxels import BatchNorm, VoxelConv, VoxelTensor, block, voxelize
from image2point.voxels.block import convolve_norm_activate


def clouds() -> VoxelTensor:
    generator = torch.Generator().manual_seed(0)
    return voxelize([torch.rand(200, 3, generator=generator) for _ in range(3)], 0.08)


def network(arch: str) -> LiftedNetwork:
    """With statistics of some clouds."""
    net = image2point.lift(arch, weights="random", num_classes=4)
    with torch.no_grad():
        net(clouds())
    return net.eval()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[VoxelConv]:
    """The convolutions that ran together with what follows them."""
    made: list[VoxelConv] = []
    finished = VoxelConv.finished

    def note(conv: VoxelConv, *arguments: object) -> VoxelTensor:
        made.append(conv)
        return finished(conv, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(VoxelConv, "finished", note)
    return made


def take_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the modules of every chain run one by one."""
    monkeypatch.setattr(block, "_steps", lambda *given: None)


@pytest.mark.parametrize(
    ("arch", "norms_after_convolutions"),
    [("resnet10t", 1.0), ("resnet26", 1.0), ("efficientnet_lite0", 1.0), ("mobilenetv3_small_100", 1.0),
     ("resnetv2_50", 0.0), ("densenet121", 0.4)],
)  # fmt: skip
def test_results_are_those_of_the_modules(
    arch: str, norms_after_convolutions: float, calls: list[VoxelConv], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = network(arch), clouds()
    norms = sum(isinstance(module, BatchNorm) for module in net.modules())
    calls.clear()
    with torch.no_grad():
        together = net(x), net.forward_features(x)
    assert len(calls) >= 2 * norms_after_convolutions * norms
    take_apart(monkeypatch)
    with torch.no_grad():
        one_by_one = net(x), net.forward_features(x)
    assert torch.allclose(together[0], one_by_one[0], rtol=1e-4, atol=1e-5)
    assert together[1].keys() == one_by_one[1].keys()
    for name, stage in together[1].items():
        assert torch.allclose(stage.features, one_by_one[1][name].features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["io", "head", "layer:layer3.0", "io+norm"])
def test_gradients_under_a_policy(policy: str, calls: list[VoxelConv], monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network("resnet10t").double(), clouds().double()
    image2point.freeze(net, policy)
    net.train()

    def gradients() -> list[Tensor]:
        loss = nn.functional.cross_entropy(net(x), torch.arange(3))
        return list(torch.autograd.grad(loss, [p for p in net.parameters() if p.requires_grad]))

    calls.clear()
    found = gradients()
    assert bool(calls) == (policy != "io+norm")
    take_apart(monkeypatch)
    for one, other in zip(found, gradients(), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_what_is_observed_is_not_passed_over(calls: list[VoxelConv]) -> None:
    net, x = network("resnet10t"), clouds()
    names = [name for name in net.layer_names() if name.startswith("layer2.0")]
    with torch.no_grad():
        seen = net.observe(names)(x)
    found: dict[str, VoxelTensor] = {}
    hooks = [
        net.get_submodule(name).register_forward_hook(lambda m, given, y, name=name: found.update({name: y}))
        for name in names
        if name in dict(net.named_modules()) and name in net.roles
    ]
    with torch.no_grad():
        net(x)
    assert found
    for hook in hooks:
        hook.remove()
    for name, y in found.items():
        assert torch.allclose(seen[name][0], observe.rows_per_cloud(y)[0], atol=1e-5)


def test_the_graph_of_a_network_stays_what_was_lifted() -> None:
    net = network("resnet10t")
    assert not any(node.target is convolve_norm_activate for node in net.graph.nodes)
    assert {str(node.target) for node in net.graph.nodes if node.op == "call_module"} <= {
        n for n, _ in net.named_modules()
    }


class SharedNorm(nn.Module):
    """One norm on the way of two convolutions: what it saw last counts most."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.other = (nn.Conv2d(n, 8, 3, 1, 1) for n in (3, 8, 8))
        self.norm, self.pool, self.head = nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.pool(self.norm(self.one(x)) + self.norm(self.other(x))).flatten(1))


def test_the_order_of_a_norm_that_is_called_twice_stays() -> None:
    torch.manual_seed(0)
    net = image2point.lift(SharedNorm(), stem="inflate", num_classes=4)
    other = image2point.lift(SharedNorm(), stem="inflate", num_classes=4)
    other.load_state_dict(net.state_dict())
    net(clouds())
    x = other.stem(clouds())
    for conv in (other.one, other.other):
        other.norm(conv(x))
    assert torch.allclose(net.norm.running_mean, other.norm.running_mean, atol=1e-6)


class Residual(nn.Module):
    """A block with a sum, narrow enough for an interpreter."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.conv, self.norm, self.act = nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(self.stem(x)))
        return self.head(self.pool(self.act(self.norm(self.conv(x)) + x)).flatten(1))


def test_in_the_kernel_of_triton(calls: list[VoxelConv]) -> None:
    """Scores, and gradients of what is frozen, as the engine cpu gives them."""
    pytest.importorskip("triton", reason="triton is not installed")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for engine in ("triton", "cpu"):
        torch.manual_seed(0)
        net = image2point.lift(Residual(), engine=engine, num_classes=4).to(device)
        with torch.no_grad():
            net(clouds().to(device))
        image2point.freeze(net, "head")
        net.train()
        x = clouds().to(device)
        x = x.replace(x.features.requires_grad_())
        scores = net(x)
        found.append([scores, *torch.autograd.grad(scores.square().sum(), (x.features, net.head.weight))])
    assert len(calls) == 4
    for one, other in zip(*found, strict=True):
        assert relative(one, other) < 1e-5
