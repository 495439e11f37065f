"""Nothing that is kept of a weight outlives a write to it, however the write is done."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel
from voxel_samples import random_voxels, relative

import image2point
from image2point.lifting.network import LiftedNetwork
from image2point.voxels import VoxelConv, VoxelTensor, remember
from image2point.voxels.modules import kernels_unchanging
from image2point.voxels.remember import Remembered


@pytest.fixture(params=["compiled", "torch"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr(remember, "library", lambda: None)


def network(policy: str, arch: str = "test_resnet") -> LiftedNetwork:
    net = image2point.lift(arch, weights="random", num_classes=4, seed=1).double()
    image2point.freeze(net, policy)
    return net.eval()


def layers(net: nn.Module) -> list[VoxelConv]:
    return [module for module in net.modules() if isinstance(module, VoxelConv)]


def kernels(net: nn.Module) -> list[nn.Parameter]:
    return [layer.weight for layer in layers(net) if layer.window.taps > 1]


def by_reference(net: nn.Module, x: VoxelTensor) -> Tensor:
    """The logits by the engine that keeps nothing."""
    for layer in layers(net):
        layer.engine = "reference"
    try:
        return net(x)
    finally:
        for layer in layers(net):
            layer.engine = "auto"


def noise(like: Tensor) -> Tensor:
    return 0.3 * like.detach().abs().mean() * torch.randn_like(like)


def storage(weight: Tensor) -> Tensor:
    """A tensor on the weight's storage, with a count of changes of its own."""
    return torch.empty(0, dtype=weight.dtype).set_(weight.untyped_storage())


def exchange(net: nn.Module) -> None:
    """The values stay the same, in other places."""
    for weight in kernels(net):
        memory = storage(weight)
        memory[[0, -1]] = memory[[-1, 0]]


def add_by_numpy(net: nn.Module) -> None:
    for weight in kernels(net):
        weight.detach().numpy()[-1, -1, 0, 0, 0] += 1


def step(net: nn.Module, **options: bool) -> None:
    """Torch does not count what fused optimizers write."""
    for weight in net.parameters():
        weight.grad = torch.randn_like(weight)
    torch.optim.Adam(net.parameters(), lr=0.01, **options).step()
    net.zero_grad()


def mask(net: nn.Module) -> None:
    for layer in layers(net):
        prune.random_unstructured(layer, "weight", 0.3)


def prune_for_good(net: nn.Module) -> None:
    mask(net)
    for layer in layers(net):
        prune.remove(layer, "weight")


def load(net: nn.Module) -> None:
    net.load_state_dict({name: t + noise(t) if t.is_floating_point() else t for name, t in net.state_dict().items()})


WRITES: dict[str, Callable[[nn.Module], object]] = {
    "data.copy_": lambda net: [p.data.copy_(p + noise(p)) for p in net.parameters()],
    "data, buffers too": lambda net: [
        t.data.mul_(1.3) for t in (*net.parameters(), *net.buffers()) if t.is_floating_point()
    ],
    "other memory": lambda net: [setattr(p, "data", p.detach() + noise(p)) for p in net.parameters()],
    "one element": lambda net: [w.data.view(-1)[-1].add_(1) for w in kernels(net)],
    "storage": lambda net: [storage(w)[w.numel() // 2].add_(1) for w in kernels(net)],
    "exchange": exchange,
    "numpy": add_by_numpy,
    "load_state_dict": load,
    "in place": lambda net: [p.detach().mul_(1.2) for p in net.parameters()],
    "Adam": step,
    "fused Adam": lambda net: step(net, fused=True),
    "masks": mask,
    "pruned for good": prune_for_good,
    "types and back": lambda net: net.bfloat16().double(),
}


def check(net: nn.Module, x: VoxelTensor, before: Tensor) -> None:
    """Right after a write: logits that are new, and those of the reference, now and again."""
    expected = by_reference(net, x)
    assert relative(before, expected) > 1e-7, "the write changed nothing"
    for _ in range(2):
        assert relative(net(x), expected) < 1e-9


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("policy", ["all", "io", "none"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_the_next_forward_has_the_new_weights(write: Callable[[nn.Module], object], policy: str) -> None:
    torch.manual_seed(0)
    net, x = network(policy), random_voxels(3)
    with torch.no_grad():
        before = net(x)
        with torch.enable_grad():
            write(net)
        check(net, x, before)


@pytest.mark.parametrize("policy", ["all", "io"])
@pytest.mark.parametrize("write", [WRITES["one element"], WRITES["data.copy_"]])
def test_training_has_the_new_weights(write: Callable[[nn.Module], object], policy: str) -> None:
    """Between steps, and in the gradient that goes through a frozen body."""
    torch.manual_seed(0)
    net, x = network(policy).train(), random_voxels(3)
    stem = next(p for p in net.parameters() if p.requires_grad)

    def outcome(forward: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        logits = forward()
        return logits, torch.autograd.grad(logits.square().sum(), stem)[0]

    for _ in range(3):
        found, expected = outcome(lambda: net(x)), outcome(lambda: by_reference(net, x))
        for one, other in zip(found, expected, strict=True):
            assert relative(one, other) < 1e-8
        write(net)


def test_depthwise_kernels_and_grids_follow_too() -> None:
    torch.manual_seed(0)
    net, x = network("io", "test_efficientnet"), random_voxels(3)
    grids = image2point.lift("test_resnet", weights="random", num_classes=4, substrate="dense").double().eval()
    with torch.no_grad():
        before = net(x), grids(x.dense())
        for write in (WRITES["one element"], WRITES["data.copy_"]):
            write(net)
            check(net, x, before[0])
            write(grids)
            check(grids, x.dense(), before[1])


@pytest.mark.parametrize("policy", ["all", "io"])
def test_averages_of_weights(policy: str) -> None:
    torch.manual_seed(0)
    net, x = network(policy), random_voxels(3)
    from timm.utils import ModelEmaV3  # after `lift`, which imports timm in its own way

    averages = ModelEmaV3(net, decay=0.5), AveragedModel(net)
    with torch.no_grad():
        before = net(x)
        for average in averages:
            assert relative(average.module(x), before) < 1e-9
        for _ in range(2):
            for p in net.parameters():
                p.data += noise(p)
            averages[0].update(net)
            averages[1].update_parameters(net)
            for average in averages:
                check(average.module, x, before)


def test_memory_that_numpy_has_held_all_along() -> None:
    values = np.random.default_rng(0).normal(size=(8, 4, 3, 3, 3))
    values[..., 1:] = values[..., :1]
    layer, x = VoxelConv(4, 8, (3, 3, 3), 1, (1, 1, 1)).double(), random_voxels()
    layer.weight.data = torch.from_numpy(values)
    with torch.no_grad():
        before = layer(x).features
        values[3, 2, 1, 1, 2] += 1
        expected = by_reference(layer, x).features
        assert relative(layer(x).features, expected) < 1e-12 < relative(before, expected)


def test_a_write_between_forward_and_backward_leaves_nothing_behind() -> None:
    """Averages are swapped in and out around an evaluation, perhaps at the wrong moment."""
    layer, x = VoxelConv(4, 8, (3, 3, 3), 1, (1, 1, 1)).double().requires_grad_(False), random_voxels()
    features = x.features.requires_grad_()

    def gradient() -> Tensor:
        return torch.autograd.grad(layer(x).features.sum(), features)[0]

    y = layer(x).features.sum()
    own = layer.weight.detach().clone()
    layer.weight.data.mul_(3)
    torch.autograd.grad(y, features)
    layer.weight.data.copy_(own)
    found = gradient()
    layer.engine = "reference"
    assert relative(found, gradient()) < 1e-12


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 3, 1024, 5001])
def test_a_write_to_any_element_is_a_change(size: int, dtype: torch.dtype) -> None:
    weight, kept = torch.randn(size).to(dtype), Remembered()
    forms = kept.forms(weight)
    assert kept.forms(weight) is forms
    for place in {0, size // 2, size - 1}:
        value = weight[place].clone()
        weight.data[place] = torch.nextafter(value, value + 1)
        changed = kept.forms(weight)
        assert changed is not forms
        weight.data[place] = value
        forms = kept.forms(weight)
        assert forms is not changed


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("other", [1, 511, 512, 1024, 4096])
def test_values_that_change_places_are_a_change(other: int) -> None:
    weight, kept = torch.randn(5000), Remembered()
    forms = kept.forms(weight)
    weight.data[[0, other]] = weight.data[[other, 0]]
    assert kept.forms(weight) is not forms


def test_grouped_kernels_and_their_transposes_are_kept_apart() -> None:
    """With as many inputs as outputs, both have one shape."""
    layer, x = VoxelConv(8, 8, (3, 3, 3), 1, (1, 1, 1), groups=2).double().requires_grad_(False), random_voxels(8)
    features, outcomes = x.features.requires_grad_(), []
    for layer.engine in ("cpu", "cpu", "reference"):
        y = layer(x).features
        outcomes.append((y, torch.autograd.grad(y.square().sum(), features)[0]))
    for found in outcomes[:2]:
        assert all(relative(one, other) < 1e-12 for one, other in zip(found, outcomes[2], strict=True))


def test_the_same_bytes_in_another_layout_are_a_change() -> None:
    weight, kept = torch.zeros(4, 4), Remembered()
    for other in (weight.view(2, 8), weight.view(torch.int32), weight[:, ::2], weight.T):
        forms = kept.forms(weight)
        assert kept.forms(other) is not forms


def test_forms_are_made_once_per_key_without_gradients_and_copies_begin_anew() -> None:
    weight, kept = nn.Parameter(torch.randn(8, 8)), Remembered()
    with torch.inference_mode():
        doubled = kept.forms(weight).of("double", lambda: 2 * weight)
    assert kept.forms(weight).of("double", lambda: 3 * weight) is doubled
    assert not doubled.requires_grad and not doubled.is_inference()
    assert torch.equal(kept.forms(weight).of("triple", lambda: 3 * weight), 3 * weight)
    for other in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
        assert other.forms(weight).of("double", lambda: "made anew") == "made anew"


def test_a_kernel_that_is_no_longer_tied_is_applied_whole() -> None:
    layer = VoxelConv(4, 8, (3, 3, 3), 1, (1, 1, 1))
    layer.weight.data[:] = layer.weight.data[..., :1]
    assert layer.structure().tied == {2}
    layer.weight.data[0, 0, 0, 0, 2] += 1
    assert not layer.structure().tied


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_kernel_is_kept_in_each_type_apart(groups: int, mixed: bool) -> None:
    """A pass with autocast after one without, or before it."""
    layer = VoxelConv(8, 8, (3, 3, 3), 1, (1, 1, 1), groups=groups).requires_grad_(False)
    fresh, x = copy.deepcopy(layer), random_voxels(8).to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=not mixed):
        layer(x)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        found, expected = layer(x).features, fresh(x).features
    assert found.dtype == (torch.bfloat16 if mixed else torch.float32) and torch.equal(found, expected)


def test_a_pass_asks_once_for_all_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU every answer is one that the host has to wait for; without the compiler a CPU goes the same way."""
    monkeypatch.setattr(remember, "library", lambda: None)
    net, x, asked, equal = network("none"), random_voxels(channels=3), [], torch.equal
    expected = net(x)
    monkeypatch.setattr(torch, "equal", lambda a, b: asked.append(a.dtype) or equal(a, b))
    assert torch.equal(net(x), expected)
    assert asked.count(torch.int64) == 1

    kernels(net)[2].data.view(-1)[7] += 1
    assert relative(net(x), by_reference(net, x)) < 1e-12
    asked.clear()
    net(x)
    assert asked.count(torch.int64) == 1


def test_kernels_that_train_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remember, "library", lambda: None)
    net, x, asked, equal = network("all"), random_voxels(channels=3), [], torch.equal
    with torch.no_grad():
        net(x)
    monkeypatch.setattr(torch, "equal", lambda a, b: asked.append(a.dtype) or equal(a, b))
    net(x)
    assert torch.int64 not in asked


@pytest.mark.usefixtures("library")
def test_kernels_that_nobody_writes_to_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    fits = remember.Forms.fits
    monkeypatch.setattr(remember.Forms, "fits", lambda self, weight: compared.append(1) or fits(self, weight))
    at_once = remember.torch.equal
    monkeypatch.setattr(remember.torch, "equal", lambda a, b: compared.append(1) or at_once(a, b))
    net, x = network("io+norm"), random_voxels(3, clouds=2, points=60, edge=0.2)
    with torch.no_grad():
        before = net(x)
        with kernels_unchanging(net):
            net(x)
            kernels(net)[1].data.mul_(2)  # which nobody may do: it goes unnoticed
            compared.clear()
            unnoticed = net(x)
            assert not compared
        assert bool((unnoticed == before).all())
        changed = net(x)
        kernels(net)[1].data.mul_(2)
        with kernels_unchanging(net):  # what was written before the block is seen in it
            again = net(x)
        assert relative(changed, before) > 1e-6 and relative(again, changed) > 1e-6
        assert relative(again, by_reference(net, x)) < 1e-10
