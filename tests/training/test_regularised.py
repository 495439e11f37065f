"""Regularised transfer: the pull to the start (L2-SP), and penalties on the features before the classifier."""

from __future__ import annotations

import copy
import itertools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import rows, run_transfer, separable, tiny
from torch import Tensor, nn

import image2point as i2p
from image2point.collapse import StatisticsError, collapse_penalty
from image2point.config import Config, Pretrain, Training, from_values_as
from image2point.lifting import LiftedNetwork
from image2point.training import job as jobs
from image2point.training.anchor import Anchor, begun
from image2point.training.groups import parameter_groups
from image2point.training.interrupt import Interrupted
from image2point.training.journal import Journal
from image2point.training.penalties import scores_and_penalty
from image2point.voxels import VoxelTensor

LABELS = torch.tensor([0, 1, 1, 3, 3, 3])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def config(data: Path, *overrides: str) -> Config:
    return separable(data, "seed=1", "collapse.every=0", "collapse.final=[]", "finetune.policy=all", *overrides)


def lifted(policy: str, **options: Any) -> LiftedNetwork:
    net = i2p.lift("test_resnet", weights="random", num_classes=4, **options).double()
    revive(net)
    i2p.freeze(net, policy)
    return net.train()


def revive(net: LiftedNetwork) -> None:
    """timm begins the last norm of a residual branch at zero, and nothing in the branch would matter."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("bn2.weight"):
                parameter.fill_(0.7)


def voxels() -> VoxelTensor:
    draw = torch.Generator().manual_seed(0)
    return i2p.voxelize([torch.rand(60, 3, generator=draw) for _ in LABELS], 0.15).double()


# ------------------------------------------------------------------------------------------------------------ all runs


@pytest.mark.parametrize(
    "settings",
    [
        # Shuffled kernels: another start than that of the network that a resumed run is loaded into.
        ("training.l2_sp=0.1", "training.feature_penalty=0.01", "training.ema=0.5", "network.head=batchnorm",
         "network.control=shuffled"),
        ("training.l2_sp=0.1", "training.optimizer=adamw", "training.lr=0.003", "training.complexity_penalty=0.001",
         "training.collapse_penalty=0.1", "training.precision=bf16-mixed", "training.gradient_clip=1",
         "network.head=etf"),
    ],
    ids=["sgd", "adamw"],
)  # fmt: skip
def test_a_run_resumes_to_the_same_bytes(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    whole = run_transfer(config(data, *settings), tmp_path / "whole")
    steps = itertools.count(1)
    with monkeypatch.context() as patch:
        # In the second of three epochs.
        patch.setattr(Journal, "step", lambda *_: signal.raise_signal(signal.SIGINT) if next(steps) == 5 else None)
        with pytest.raises(Interrupted):
            run_transfer(config(data, *settings), tmp_path)
    run = run_transfer(config(data, *settings), tmp_path, resume=True)
    assert run.weights.read_bytes() == whole.weights.read_bytes() and rows(run.path) == rows(whole.path)
    assert all(float(row["train_penalty"]) > 0 for row in rows(run.path)[1:])
    for taken in (run.read_summary(), whole.read_summary()):
        assert taken["seconds_per_step"] * 3 * 3 == pytest.approx(taken["seconds"]["training"])
        assert taken["mebibytes"]["training"] is None or 50 < taken["mebibytes"]["training"] < 50_000


def test_a_run_without_them_asks_for_nothing(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a pull so strong that each step ends where it began leaves what the 2D network has, and that alone."""

    def never(*_: Any) -> None:
        raise AssertionError("nobody asked")

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "scores_and_penalty", never)
        patch.setattr(jobs, "Anchor", never)
        free = run_transfer(config(data), tmp_path / "free")
    common = "training.schedule=constant", "training.optimizer=adamw", "training.lr=0.001", "data.validation=0"
    start = i2p.load(run_transfer(config(data, *common, "training.epochs=0"), tmp_path / "start").path)
    held = i2p.load(run_transfer(config(data, *common, "training.l2_sp=1000"), tmp_path / "held").path)
    loose = i2p.load(run_transfer(config(data, *common), tmp_path / "loose").path)
    assert "train_penalty" not in rows(free.path)[-1]

    def moved(net: LiftedNetwork, names: set[str]) -> float:
        return max(float((net.get_parameter(n) - start.get_parameter(n)).detach().abs().max()) for n in names)

    pulled = set(begun(start))
    others = {name for name, _ in start.named_parameters()} - pulled
    assert moved(held, pulled) < 0.0013 < 0.004 < min(moved(loose, pulled), moved(held, others))


# --------------------------------------------------------------------------------------------------------------- L2-SP


class Shifted(nn.Module):
    """A linear layer whose weight is `start` and what it learnt beside it."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.start, self.away = start, nn.Parameter(torch.zeros_like(start))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.start + self.away).T


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p, decay: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=decay),
    "adamw": lambda p, decay: torch.optim.AdamW(p, lr=0.1, weight_decay=decay),
}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_pull_is_weight_decay_of_the_way_from_the_start(kind: str, scaled: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    x, target = (torch.randn(8, n, generator=draw, dtype=torch.float64) for n in (3, 2))
    layer, fresh = nn.Linear(3, 2, bias=False).double(), nn.Parameter(torch.ones(2, dtype=torch.float64))
    shifted, twin = Shifted(layer.weight.detach().clone()), nn.Parameter(torch.ones(2, dtype=torch.float64))
    pulled = OPTIMIZERS[kind]([layer.weight, fresh], 0.0)
    decayed = OPTIMIZERS[kind]([{"params": [shifted.away]}, {"params": [twin], "weight_decay": 0.0}], 0.3)
    anchor = Anchor({"weight": layer.weight}, pulled, 0.3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
    for step in range(5):
        for optimizer in (pulled, decayed):
            optimizer.zero_grad()
        scaler.scale((layer(x) + fresh - target).square().mean()).backward()
        if step == 2 and scaled:  # a step that the scaler leaves out does not pull either
            assert fresh.grad is not None
            before = layer.weight.detach().clone()
            fresh.grad.fill_(torch.inf)
            scaler.step(pulled)
            scaler.update()
            assert torch.equal(layer.weight, before)
            continue
        scaler.step(pulled)
        scaler.update()
        (shifted(x) + twin - target).square().mean().backward()
        decayed.step()
    assert float(shifted.away.detach().abs().max()) > 0.1
    assert torch.allclose(layer.weight, shifted.start + shifted.away, rtol=1e-12, atol=1e-13)
    assert torch.equal(anchor.start["weight"], shifted.start)


def test_what_is_pulled_does_not_decay() -> None:
    net = lifted("io+norm+depth")
    names = {parameter: name for name, parameter in net.named_parameters()}
    for settings in (Training(l2_sp=0.1), Training(l2_sp=0.1, weight_decay_by_role={"output": 0.5})):
        groups = parameter_groups(net, settings)
        decay = {names[p]: group["weight_decay"] for group in groups for p in group["params"]}
        assert set(decay) == {name for name, p in net.named_parameters() if p.requires_grad}
        assert decay["layer1.0.bn1.weight"] == decay["conv1.0.weight"] == 0 and decay["layer1.0.conv1.depth"] == 1e-4
        assert decay["fc.weight"] == settings.weight_decay_by_role.get("output", 1e-4)
    with pytest.raises(i2p.InputError, match=r"weight_decay_by_role: norm began as the 2D network has it"):
        parameter_groups(net, Training(l2_sp=0.1, weight_decay_by_role={"norm": 0.0}))
    with pytest.raises(i2p.InputError, match="all that trains under the policy io began fresh"):
        parameter_groups(lifted("io", stem="paper"), Training(l2_sp=0.1))
    with pytest.raises(i2p.InputError, match="all that trains under the policy all began fresh"):
        parameter_groups(lifted("all", control="scratch"), Training(l2_sp=0.1))


# ----------------------------------------------------------------------------------------------------------- penalties


def written_out(features: Tensor) -> Tensor:
    """The collapse penalty of `LABELS`, one sample and one pair at a time."""
    present = sorted(set(LABELS.tolist()))
    means = {c: torch.stack([h for h, y in zip(features, LABELS, strict=True) if y == c]).mean(0) for c in present}
    within = torch.stack([(h - means[int(y)]).square().sum() for h, y in zip(features, LABELS, strict=True)]).sum()
    pairs = [(means[a] - means[b]).square().sum() for a, b in itertools.combinations(present, 2)]
    return within / (len(LABELS) - len(present)) / torch.stack(pairs).mean()


HAND: dict[str, Callable[[Tensor], Tensor]] = {
    "feature_penalty": lambda h: torch.stack([row @ row for row in h]).mean(),
    "collapse_penalty": written_out,
}


@pytest.mark.parametrize("name", HAND)
def test_penalties_and_their_gradients_by_hand(name: str) -> None:
    net = lifted("all")
    twin, training = copy.deepcopy(net), Training(**{name: 0.3})
    scores, penalty = scores_and_penalty(net, voxels(), LABELS, training)
    assert torch.equal(scores, copy.deepcopy(twin)(voxels()))  # those of a pass without penalties, to the bit
    expected = 0.3 * HAND[name](twin.embed(voxels())[0])
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-10) and penalty > 0
    penalty.backward()
    expected.backward()
    for parameter, p in net.named_parameters():
        if not parameter.startswith("fc"):
            found, wanted = p.grad, twin.get_parameter(parameter).grad
            assert found is not None and wanted is not None and torch.allclose(found, wanted, rtol=1e-7), parameter
    assert torch.equal(net.state_dict()["bn1.running_mean"], twin.state_dict()["bn1.running_mean"])


@pytest.mark.parametrize(
    ("policy", "parameter", "options"),
    [
        ("all", "layer2.0.conv1.weight", {}),
        ("io", "conv1.0.weight", {}),  # through a frozen body, whose layers run fused
        ("io+norm+depth", "layer1.0.conv1.depth", {"rule": "mean"}),
        ("all", "layer2.0.conv1.weight", {"substrate": "dense"}),
    ],
)
def test_the_gradient_of_the_complexity_by_finite_differences(
    policy: str, parameter: str, options: dict[str, Any]
) -> None:
    net = lifted(policy, **options)
    training, tensor = Training(complexity_penalty=0.2), net.get_parameter(parameter)

    def value() -> Tensor:
        torch.manual_seed(3)
        return scores_and_penalty(net, voxels(), LABELS, training)[1]

    value().backward()
    assert tensor.grad is not None
    draw = torch.Generator().manual_seed(1)
    direction = torch.randn(tensor.shape, generator=draw, dtype=torch.float64)
    slope, sides, step = float((tensor.grad * direction).sum()), [], 1e-7  # that meets no kink
    for side in (step, -step):
        with torch.no_grad():
            tensor.add_(direction, alpha=side)
        sides.append(float(value().detach()))
        with torch.no_grad():
            tensor.add_(direction, alpha=-side)
    assert slope == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-4) and slope != 0


def test_collapse_where_it_says_nothing() -> None:
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    for labels in ([2, 2, 2, 2], [0, 1, 2, 3]):
        found = collapse_penalty(x, torch.tensor(labels), 5)
        (gradient,) = torch.autograd.grad(found, x)
        assert found.item() == 0 and torch.equal(gradient, torch.zeros_like(x))
    same = torch.ones(4, 3, requires_grad=True)
    found = collapse_penalty(same, torch.tensor([0, 0, 1, 1]), 2)
    assert found.item() == 0 and torch.isfinite(torch.autograd.grad(found, same)[0]).all()
    labels = torch.tensor([0, 0, 1, 1])
    assert collapse_penalty(7 * x, labels, 2).item() == pytest.approx(collapse_penalty(x, labels, 2).item())
    with pytest.raises(StatisticsError, match=r"expected features \[n, p\] and labels \[n\], found \[4, 3\] and \[3\]"):
        collapse_penalty(x, torch.tensor([0, 1, 1]), 2)


def test_the_complexity_of_a_dense_grid_is_that_of_its_occupied_cells() -> None:
    net, x = lifted("io").eval(), voxels()
    values = []
    for given in (x, x.dense()):
        torch.manual_seed(0)  # the same probes
        values.append(scores_and_penalty(net, given, LABELS, Training(complexity_penalty=1.0))[1])
    assert values[0] > 0 and torch.allclose(*values, rtol=1e-9)


def test_points_have_lengths_and_complexity() -> None:
    net = i2p.segmenter("test_resnet", num_classes=3, weights="random").double()
    revive(net)
    cloud = i2p.voxelize([torch.rand(80, 3), torch.rand(50, 3)], 0.2).double()
    training = Training(feature_penalty=0.1, complexity_penalty=0.01)
    scores, penalty = scores_and_penalty(net, cloud, None, training)
    assert len(scores) == len(cloud.features) and penalty > 0
    penalty.backward()
    gradient = net.get_parameter("layer1.0.conv1.weight").grad
    assert gradient is not None and bool(torch.isfinite(gradient).all()) and float(gradient.abs().max()) > 0


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.l2_sp=-1"], r"training\.l2_sp = -1"),
        (["training.collapse_penalty=.nan"], r"training\.collapse_penalty"),
        (["training.feature_penalty=1", "training.devices=2"], "feature_penalty .* needs one process"),
        (["training.complexity_penalty=1", "training.precision=16-mixed"], "differentiates twice"),
        (["training.collapse_penalty=1", "finetune.policy=head"], "trains nothing before the head"),
        (["training.feature_penalty=1", "network.head=cosine"], "reads them at length 1"),
        (
            ["network.head=etf", "finetune.policy=head"],
            "policy = head trains the head alone, .* nothing trains but one",
        ),
        (["network.head=etf", "training.head_first=1", "network.stem=inflate"], "head_first trains the head alone"),
        (["training.collapse_penalty=1", "task=segmentation"], "needs a class for each cloud"),
    ],
)
def test_settings_that_cannot_be(settings: list[str], message: str) -> None:
    with pytest.raises(i2p.InputError, match=message):
        tiny(*settings)


def test_images_have_no_start_to_be_pulled_to() -> None:
    with pytest.raises(i2p.InputError, match=r"training\.l2_sp is a setting of `image2point transfer`"):
        from_values_as(Pretrain, {"training": {"l2_sp": 0.5}})
    assert from_values_as(Pretrain, {"training": {"collapse_penalty": 0.5}}).training.collapse_penalty == 0.5
