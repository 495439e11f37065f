"""Running statistics taken again from clouds: what they become, what they leave alone, what runs make of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import load_splits, rows, tiny
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

import image2point as i2p
from image2point.jobs.ingredients import make_recipe
from image2point.jobs.transfer import run_transfer
from image2point.training import epoch_end
from image2point.training.batches import shuffled
from image2point.training.interrupt import Interrupted
from image2point.training.recalibration import drift


def network(policy: str) -> Any:
    net = i2p.lift("test_resnet", weights="random", num_classes=3, seed=1).double()
    i2p.freeze(net, policy)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, _BatchNorm):
                module.running_mean.fill_(3.0)  # type: ignore[union-attr]
                module.running_var.fill_(50.0)  # type: ignore[union-attr]
    return net


def batches(count: int = 3) -> list[i2p.VoxelTensor]:
    draw = torch.Generator().manual_seed(0)
    return [
        i2p.voxelize([torch.rand(80, 3, generator=draw, dtype=torch.float64) for _ in range(4)], 0.2)
        for _ in range(count)
    ]


def statistics(net: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.named_buffers() if "running" in name}


def test_the_first_norm_gets_the_averages_of_its_batches() -> None:
    net, given = network("io+norm"), batches()
    norm = next(m for m in net.modules() if isinstance(m, _BatchNorm))
    inputs = []
    handle = norm.register_forward_pre_hook(lambda _, args: inputs.append(args[0].features))
    net.train()
    i2p.recalibrate(net, given)
    handle.remove()
    assert len(inputs) == 3
    means = torch.stack([x.mean(0) for x in inputs]).mean(0)
    variances = torch.stack([x.var(0) for x in inputs]).mean(0)
    torch.testing.assert_close(norm.running_mean, means, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.running_var, variances, rtol=1e-12, atol=1e-12)
    assert net.training and norm.momentum == 0.1 and norm.num_batches_tracked == 0


def test_dropout_rests_meanwhile() -> None:
    net, x = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(4)), torch.rand(16, 4)
    i2p.recalibrate(net, [x])
    torch.testing.assert_close(net[1].running_mean, x.mean(0))
    assert net[0].training


@pytest.mark.parametrize(("policy", "roles"), [("io", {"input"}), ("io+stats", {"input", "norm"}), ("none", set())])
def test_only_norms_that_follow_the_batch_change(policy: str, roles: set[str]) -> None:
    net = network(policy)
    modes = [module.training for module in net.modules()]
    before = statistics(net)
    i2p.recalibrate(net, batches())
    after = statistics(net)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if net.roles[name.rpartition(".")[0]] in roles}
    assert [module.training for module in net.modules()] == modes


def test_what_goes_wrong_leaves_the_statistics() -> None:
    net = network("all")
    before = statistics(net)
    with pytest.raises(i2p.InputError, match="at least one batch"):
        i2p.recalibrate(net, [])
    with pytest.raises(i2p.InputError, match=r"found one VoxelTensor; give \[voxels\]"):
        i2p.recalibrate(net, batches(1)[0])
    with pytest.raises(i2p.InputError, match=r"found a tuple; .* give \(voxels for voxels, labels in loader\)"):
        i2p.recalibrate(net, [(batches(1)[0], torch.zeros(1))])

    def breaking() -> Any:
        yield batches(1)[0]
        raise RuntimeError("the loader died")

    with pytest.raises(RuntimeError, match="the loader died"):
        i2p.recalibrate(net, breaking())
    after = statistics(net)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_drift_sees_another_domain_and_changes_nothing() -> None:
    net, given = network("all"), batches()
    before = {name: value.clone() for name, value in net.named_buffers()}
    assert drift(net, given) > 0.5
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    i2p.recalibrate(net, given)
    assert drift(net, given) < 1e-9
    assert drift(network("none"), given) == 0


def test_one_norm_that_is_far_off_is_enough() -> None:
    """Two channels of the stem at 10 times their standard deviation: mean over its channels, largest of the norms."""
    net, given = network("all"), batches()
    i2p.recalibrate(net, given)
    stem = next(m for m in net.modules() if isinstance(m, _BatchNorm))
    stem.running_var[:2] = 100 * (stem.running_var[:2] + stem.eps) - stem.eps
    assert drift(net, given) == pytest.approx(2 * math.log(10) / stem.num_features, rel=1e-9)
    stem.running_var[0] = math.nan
    assert drift(net, given) == math.inf


def test_drift_in_eval_of_the_network_it_is_given() -> None:
    """It goes by `freeze`, not by the mode, and leaves the mode."""
    net, given = network("io").eval(), batches()
    assert drift(net, given) > 0.5 and not net.training


def test_a_run_scores_what_its_clouds_say(tmp_path: Path) -> None:
    """Training is the same with and without, the scores are not, and a run without says so."""
    with_it = run_transfer(tiny("name=with"), tmp_path).path
    without = run_transfer(tiny("name=without", "training.recalibrate=0"), tmp_path).path
    assert [row["train_loss"] for row in rows(with_it)] == [row["train_loss"] for row in rows(without)]
    assert [row["validation_loss"] for row in rows(with_it)] != [row["validation_loss"] for row in rows(without)]
    warnings = [" ".join(json.loads((run / "summary.json").read_text())["warnings"]) for run in (with_it, without)]
    assert "running statistics" not in warnings[0] and "training.recalibrate=512" not in warnings[0]
    assert "running statistics" in warnings[1] and "training.recalibrate=512" in warnings[1]


def test_a_run_of_many_steps_is_not_warned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 epochs of 3 steps leave 0.9⁶⁰ of the statistics that a run began with, 2 epochs half of them."""
    asked: list[int] = []

    def counting(net: Any, given: Any) -> float:
        given = list(given)
        asked.extend(len(x.sites.counts) for x in given)
        return drift(net, given)

    monkeypatch.setattr(epoch_end, "drift", counting)
    still = "data.augmentation={scale_probability: 0, shift_probability: 0, jitter_probability: 0}"
    settings = ("training.recalibrate=0", "training.lr=0.0001", "training.batch_size=5", "data.validation=0", still)
    for epochs, clouds, batches_of_five in ((20, 128, 3), (2, 6, 2)):
        monkeypatch.setattr(epoch_end, "ASKED", clouds)
        asked.clear()
        run = run_transfer(tiny(f"name=epochs{epochs}", f"training.epochs={epochs}", *settings), tmp_path)
        warned = "running statistics" in " ".join(run.read_summary()["warnings"])
        assert warned == (epochs == 2) and sum(asked) == 5 * batches_of_five


@pytest.mark.parametrize("validation", [0, 0.2])
def test_a_run_leaves_the_statistics_of_its_training_clouds_as_they_are(tmp_path: Path, validation: float) -> None:
    """Not augmented, not those of training, and of two batches where seven clouds are asked for."""
    settings = ("training.recalibrate=7", "training.epochs=1", "data.augmentation.shift=0.5", "collapse.every=0")
    config = tiny(*settings, f"data.validation={validation}")
    net, recipe = i2p.load(run_transfer(config, tmp_path).path), make_recipe(config)
    train, stored = load_splits(config.data).train, statistics(net)
    given = []
    for indices in shuffled(len(train), 4, config.seed, epoch=0)[:2]:
        clouds = [recipe.prepare(train[int(i)], f"cloud {i}") for i in indices]
        given.append(recipe.join(clouds))
    assert sum(len(x.coordinates[:, 0].unique()) for x in given) == 8 < len(train)
    i2p.recalibrate(net, given)
    torch.testing.assert_close(statistics(net), stored)


def test_a_run_stopped_while_it_recalibrates_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_transfer(tiny(), tmp_path / "whole").path
    original, calls = epoch_end.recalibrate, 0

    def stopping(net: Any, given: Any) -> None:
        nonlocal calls
        calls += 1

        def some() -> Any:
            for number, x in enumerate(given):
                if calls == 3 and number == 1:
                    raise Interrupted("stopped here")
                yield x

        original(net, some())

    monkeypatch.setattr(epoch_end, "recalibrate", stopping)
    with pytest.raises(Interrupted):
        run_transfer(tiny(), tmp_path)
    assert list((tmp_path / "tiny" / "checkpoint").iterdir())  # what was trained since the last one is not lost
    monkeypatch.setattr(epoch_end, "recalibrate", original)
    again = run_transfer(tiny(), tmp_path, resume=True).path
    assert rows(again) == rows(whole)
    assert (again / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
