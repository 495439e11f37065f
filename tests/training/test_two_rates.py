"""Rates by role and by layer, the head first, averaged weights: what they do, and that a run resumes with them."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import rows, run_transfer, separable, tiny
from torch import nn

import image2point as i2p
from image2point.config import Config, Pretrain, Training, from_values, from_values_as
from image2point.finetune import kinds
from image2point.lifting import LiftedNetwork
from image2point.networks.layer_groups import layer_numbers
from image2point.training import loop
from image2point.training.averaging import Stochastic
from image2point.training.groups import parameter_groups
from image2point.training.interrupt import Interrupted
from image2point.training.journal import Journal

SETTINGS = {
    "rates": (
        "training.lr_by_role={input: 0.5, lora: 3, adapter: 2}", "training.weight_decay_by_role={lora: 0, norm: 0.01}",
        "training.layer_decay=0.8", "finetune.policy=io+norm+lora:2+adapter:4",
    ),
    "moving average": ("training.ema=0.6", "finetune.policy=io+norm+adapter:4"),
    "average at the end": ("training.swa=2", "finetune.policy=io+norm+ssf"),
    "head first": ("training.head_first=1", "network.stem=inflate"),
    "adamw": ("training.optimizer=adamw", "training.lr=0.003", "training.head_first=1", "training.ema=0.5"),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def config(data: Path, *overrides: str) -> Config:
    return separable(data, "seed=1", "collapse.every=0", "collapse.final=[]", *overrides)


def lifted(policy: str) -> LiftedNetwork:
    net = i2p.lift("test_resnet", weights="random", num_classes=4)
    i2p.freeze(net, policy)
    return net


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_run_resumes_to_the_same_bytes(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    whole = run_transfer(config(data, *settings), tmp_path / "whole")
    steps, scored = 0, 0

    def stop_at_steps(*_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps in (2, 8):  # in the first epoch and in the last
            signal.raise_signal(signal.SIGINT)

    close = loop.close_epoch

    def stop_while_scoring(job: Any, state: Any, epoch: int) -> None:
        nonlocal scored
        scored += epoch == 2
        if scored == 1 and epoch == 2:  # after the weights were averaged, before they are scored
            scored += 1
            job.stop.requested = True
        close(job, state, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "step", stop_at_steps)
        patch.setattr(loop, "close_epoch", stop_while_scoring)
        for _ in range(3):
            with pytest.raises(Interrupted):
                run_transfer(config(data, *settings), tmp_path, resume=True)
    run = run_transfer(config(data, *settings), tmp_path, resume=True)
    assert run.weights.read_bytes() == whole.weights.read_bytes() and rows(run.path) == rows(whole.path)


# --------------------------------------------------------------------------------------------------------------- rates


def test_each_parameter_has_the_rate_and_the_decay_of_its_role_and_layer() -> None:
    net = lifted("io+norm+depth+lora:2")
    training = Training(
        lr_by_role={"depth": 5, "norm": 0.5}, weight_decay_by_role={"depth": 0, "output": 0.1}, layer_decay=0.5,
        weight_decay=0.02,
    )  # fmt: skip
    groups, names = parameter_groups(net, training), {p: name for name, p in net.named_parameters()}
    found = {names[p]: (g["factor"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert set(found) == {name for name, p in net.named_parameters() if p.requires_grad}
    # test_resnet has six layers for timm: the stem, a block in each of four stages, the head.
    assert found["fc.weight"] == (1, 0.1) and found["layer4.0.bn1.weight"] == (0.25, 0.02)
    assert found["layer1.0.conv1.depth"] == (5 * 0.5**4, 0) and found["layer3.0.conv2.lora_up"] == (0.25, 0.02)
    assert {found[name] for name in found if kinds(net)[name] == "input"} == {(0.5**5, 0.02)}
    assert len(parameter_groups(net, Training())) == 1


def test_a_module_with_the_name_of_a_network_of_timm_has_no_order_of_layers() -> None:
    module = type("resnet18", (nn.Sequential,), {})
    net = i2p.lift(module(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)), num_classes=4)
    assert net.lifting.network == "resnet18"
    with pytest.raises(i2p.InputError, match=r"training\.layer_decay: resnet18 was lifted from a module.*lr_by_role"):
        parameter_groups(net, Training(layer_decay=0.5))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_factor_multiplies_the_steps(tmp_path: Path, data: Path, optimizer: str) -> None:
    """One step from the same start: with the same gradients, each parameter moves by its own rate."""
    common = (
        f"training.optimizer={optimizer}", "training.epochs=1", "training.batch_size=100", "training.weight_decay=0",
        "data.validation=0", "training.schedule=constant", "finetune.policy=io+norm",
    )  # fmt: skip
    moved = []
    for number, factor in enumerate(("", "training.lr_by_role={output: 4}")):
        run = run_transfer(config(data, *common, *filter(None, [factor])), tmp_path / str(number))
        moved.append(i2p.load(run.path).state_dict())
    first = run_transfer(config(data, *common, "training.lr=1e-30"), tmp_path / "start")
    begun = i2p.load(first.path).state_dict()
    plain, faster = ({n: t - begun[n] for n, t in each.items() if t.is_floating_point()} for each in moved)
    assert torch.allclose(faster["fc.weight"], 4 * plain["fc.weight"], rtol=1e-4, atol=1e-7)
    assert plain["fc.weight"].abs().max() > 0
    assert torch.equal(moved[0]["bn1.weight"], moved[1]["bn1.weight"]) and plain["bn1.weight"].abs().max() > 0


def test_layers_follow_timm_for_other_names_too() -> None:
    names = ["stem.weight", "blocks.0.0.adapter.up.bias", "blocks.1.0.conv.lora_up", "decoder.0.weight", "head.weight"]
    found = layer_numbers("tf_efficientnet_lite0", ["conv_stem.weight", *names[1:]])
    assert list(found.values()) == [0, 1, 2, 3, 3]
    with pytest.raises(i2p.InputError, match="timm has no network Small"):
        layer_numbers("Small", names)


# ----------------------------------------------------------------------------------------------------------- head first


def test_the_head_trains_alone_at_first(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after: list[dict[str, torch.Tensor]] = []
    close = loop.close_epoch

    def noted(job: Any, state: Any, epoch: int) -> None:
        after.append({name: tensor.clone() for name, tensor in job.network.state_dict().items()})
        close(job, state, epoch)

    monkeypatch.setattr(loop, "close_epoch", noted)
    run_transfer(config(data, *SETTINGS["head first"]), tmp_path)
    start, first, second, _ = after
    assert {name for name in start if not torch.equal(start[name], first[name])} == {"fc.weight", "fc.bias"}
    moved = {name for name in start if not torch.equal(first[name], second[name])}
    assert {"conv1.0.weight", "layer1.0.bn1.weight", "layer1.0.bn1.running_mean", "fc.weight"} <= moved
    assert "layer1.0.conv1.weight" not in moved


# ------------------------------------------------------------------------------------------------------------- averages


def test_a_moving_average_leaves_the_training_as_it_is(tmp_path: Path, data: Path) -> None:
    settings = ("finetune.policy=io", "training.recalibrate=0")
    plain = run_transfer(config(data, *settings), tmp_path / "plain")
    moving = run_transfer(config(data, *settings, "training.ema=0.9"), tmp_path / "moving")
    losses = [[row["train_loss"] for row in rows(run.path)] for run in (plain, moving)]
    assert losses[0] == losses[1] and plain.weights.read_bytes() != moving.weights.read_bytes()
    scores = [[row["validation_loss"] for row in rows(run.path)] for run in (plain, moving)]
    assert scores[0][0] == scores[1][0] and scores[0][1:] != scores[1][1:]  # the average is what is scored


def test_the_last_epochs_are_averaged_and_the_norms_taken_again(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after: dict[int, dict[str, torch.Tensor]] = {}
    take_in = Stochastic.after_epoch

    def noted(average: Stochastic, network: Any, epoch: int) -> None:
        after[epoch] = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        take_in(average, network, epoch)

    monkeypatch.setattr(Stochastic, "after_epoch", noted)
    run = run_transfer(config(data, "training.swa=2", "training.schedule=constant", "data.validation=0"), tmp_path)
    net = i2p.load(run.path)
    state = net.state_dict()
    for name, parameter in net.named_parameters():
        mean = (after[2][name] + after[3][name]) / 2
        assert torch.allclose(parameter, mean, rtol=1e-5, atol=1e-7), name
    assert not torch.equal(after[2]["fc.weight"], after[3]["fc.weight"])
    statistics = [name for name in state if name.endswith("running_mean")]
    assert any(not torch.allclose(state[name], after[3][name], rtol=1e-3) for name in statistics)


def test_each_goes_with_a_choice_of_the_rate(tmp_path: Path, data: Path) -> None:
    for number, average in enumerate(("training.swa=1", "training.ema=0.5")):
        run = run_transfer(
            config(data, "choose.lr=[0.03, 0.1]", "choose.epochs=[1, 2]", average, *SETTINGS["rates"],
                   "training.head_first=1", "network.stem=inflate"),
            tmp_path / str(number),
        )  # fmt: skip
        assert run.read_summary()["chosen_lr"] in (0.03, 0.1)


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.lr_by_role={stem: 2}"], r"training\.lr_by_role.*stem"),
        (["training.lr_by_role={norm: 0}"], r"training\.lr_by_role = 0"),
        (["training.head_first=3"], "head_first = 3 must be less than training.epochs = 3"),
        (["training.head_first=1", "finetune.policy=head"], "finetune.policy = head trains no rest"),
        (["training.head_first=1", "training.devices=2"], "needs one process"),
        (["training.swa=4"], "swa = 4 must be at most"),
        (["training.swa=1", "training.ema=0.5"], "set one of them"),
        (["training.swa=1", "training.recalibrate=0"], "needs training.recalibrate"),
    ],
)
def test_settings_that_cannot_be(settings: list[str], message: str) -> None:
    with pytest.raises(i2p.InputError, match=message):
        tiny(*settings)


def test_roles_that_do_not_train_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        i2p.InputError, match="nothing of norm trains under the policy io; what trains is input, output"
    ):
        run_transfer(tiny("finetune.policy=io", "training.lr_by_role={norm: 2}"), tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(i2p.InputError, match="weight_decay_by_role: nothing of lora trains under the policy io"):
        parameter_groups(lifted("io"), Training(weight_decay_by_role={"lora": 0}))
    with pytest.raises(i2p.InputError, match=r"head_first trains the last layer alone, but network\.stem = paper"):
        run_transfer(tiny("training.head_first=1", "network.stem=paper"), tmp_path)
    with pytest.raises(i2p.InputError, match=r"training\.ema is a setting of `image2point transfer`"):
        from_values_as(Pretrain, {"training": {"ema": 0.5}})
    assert from_values({"training": {"layer_decay": 0.5}}).training.layer_decay == 0.5
