"""2D networks as they are given: wrapped, with computed weights, under other names."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lifting_samples import clouds, relative, small_resnet
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel

import image2point as i2p
from image2point.networks.timm_import import load_timm


def scores(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return i2p.lift(network, num_classes=None).eval()(clouds())


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        AveragedModel,
        lambda net: torch.compile(nn.DataParallel(net)),
        lambda net: load_timm().utils.ModelEmaV3(net),
        lambda net: load_timm().utils.ModelEmaV2(net),
    ],
    ids=["parallel", "average", "compiled", "ema", "ema v2"],
)
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], Any]) -> None:
    network = small_resnet()
    net = i2p.lift(wrap(network), num_classes=None)
    assert net.lifting.network == "ResNet"
    assert set(net.state_dict()) == set(network.state_dict())
    with torch.no_grad():
        assert torch.equal(net.eval()(clouds()), scores(network))


def pruned(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", 0.5)


@pytest.mark.parametrize(
    "change",
    [weight_norm, spectral_norm, parametrizations.weight_norm, parametrizations.spectral_norm, pruned],
    ids=["weight norm", "spectral norm", "weight norm, parametrised", "spectral norm, parametrised", "pruned"],
)
@pytest.mark.filterwarnings("ignore")
def test_computed_weights_become_plain(change: Callable[..., Any]) -> None:
    """As the 2D network computes them in eval mode; the given network itself stays as it is."""
    network = small_resnet().train()
    layer = network.get_submodule("layer2.0.conv1")
    change(layer)
    network(torch.rand(2, 3, 32, 32, dtype=torch.float64))
    network.eval()(torch.rand(2, 3, 32, 32, dtype=torch.float64))
    names = list(network.state_dict())
    plain = small_resnet()
    values = {k: v for k, v in network.state_dict().items() if k in plain.state_dict()}
    plain.load_state_dict(values, strict=False)
    plain.get_submodule("layer2.0.conv1").weight.data.copy_(layer.weight.detach())  # type: ignore[union-attr, operator]
    assert relative(scores(network), scores(plain)) < 1e-12
    assert list(network.state_dict()) == names and "layer2.0.conv1.weight" not in names


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Conv2d, r"a timm architecture or a 2D nn.Module, found Conv2d \(type\)"),
        (3, "found .*int"),
        ("timm/resnet18.a1_in1k", "did you mean resnet18.a1_in1k"),
        ("resnet18x", "did you mean resnet18"),
    ],
)
def test_what_is_no_network(network: Any, message: str) -> None:
    with pytest.raises(i2p.InputError, match=message):
        i2p.lift(network)


def test_a_lifted_network_is_not_lifted_again() -> None:
    net = i2p.lift(small_resnet())
    for given in (net, nn.DataParallel(net)):
        with pytest.raises(i2p.InputError, match="ResNet is lifted already"):
            i2p.lift(given)


def test_a_network_that_torch_jit_compiled() -> None:
    traced = torch.jit.trace(small_resnet(), torch.rand(1, 3, 32, 32, dtype=torch.float64))
    with pytest.raises(i2p.InputError, match="give the network it was made from"):
        i2p.lift(traced)


@pytest.mark.parametrize(("name", "value"), [("running_var", -1.0), ("weight", float("nan"))])
def test_values_of_a_given_network_are_checked(name: str, value: float) -> None:
    network = copy.deepcopy(small_resnet())
    getattr(network.get_submodule("layer1.0.bn1"), name).data.fill_(value)
    with pytest.raises(i2p.InputError, match=rf"layer1.0.bn1.{name} of the given ResNet holds"):
        i2p.lift(network)
