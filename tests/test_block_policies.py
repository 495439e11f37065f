"""Fine-tuning one block, with and without a skip connection to the features, and choosing it by collapse."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from tiny_runs import tiny
from torch.nn.modules.batchnorm import _BatchNorm

import image2point as i2p
from image2point.errors import InputError
from image2point.finetune import blocks_of
from image2point.jobs import block_choice
from image2point.jobs.transfer import run_transfer
from image2point.lifting.network import LiftedNetwork
from image2point.lifting.skip import add_skip
from image2point.training.interrupt import Interrupted
from image2point.training.journal import Journal


def network() -> LiftedNetwork:
    return i2p.lift("test_resnet", weights="random", num_classes=3)


def voxels() -> i2p.VoxelTensor:
    generator = torch.Generator().manual_seed(0)
    return i2p.voxelize([torch.rand(60, 3, generator=generator) for _ in range(3)], 0.2)


def test_one_block_trains_with_stem_and_head() -> None:
    net = network()
    assert blocks_of(net) == ("layer1.0", "layer2.0", "layer3.0", "layer4.0")
    counts = i2p.freeze(net, "layer:layer3.0")
    trains = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    for record in net.lifting.parameters:
        inside = record.name.startswith("layer3.0.")
        assert (record.name in trains) == (inside or record.role in ("input", "output"))
    assert 0 < counts.trainable < counts.total
    net.train()
    norms = {name: m.training for name, m in net.named_modules() if isinstance(m, _BatchNorm)}
    assert norms["layer3.0.bn1"] and not norms["layer2.0.bn1"]
    with pytest.raises(InputError, match=r"no parameter lies in 'layer9'; blocks are layer1\.0"):
        i2p.freeze(net, "layer:layer9")
    with pytest.raises(InputError, match=r"no parameter lies in 'layer1\.0\.conv'"):
        i2p.freeze(net, "layer:layer1.0.conv")  # where conv1 and conv2 are
    with pytest.raises(InputError, match=r"layer:NAME, scl:NAME.*found 'blok:layer1'"):
        i2p.freeze(net, "blok:layer1")


@pytest.mark.parametrize("policy", ["head", "none"])
def test_what_a_probe_does_not_train_rests(policy: str) -> None:
    net = network()
    i2p.freeze(net, policy)
    net.train()
    roles = {name: role for name, role in net.roles.items() if name}
    awake = {roles[name] for name, module in net.named_modules() if name in roles and module.training}
    assert awake == ({"output"} if policy == "head" else set())


def test_a_skip_adds_the_block_to_the_features() -> None:
    x = voxels()
    plain, skipped = network().eval(), add_skip(network(), "layer2.0").eval()
    assert list(plain.state_dict()) == list(skipped.state_dict())
    with torch.no_grad():
        seen = plain.observe(["layer2.0", "features"])(x)
        block, features = seen["layer2.0"][0], seen["features"][0]
        expected = features.clone()
        expected[:, : block.shape[1]] += block
        found, logits = skipped.embed(x)
        assert torch.allclose(found, expected, atol=1e-6)
        weight, bias = plain.linear_classifier()
        assert torch.allclose(logits, expected @ weight.T + bias, atol=1e-5)
        assert torch.equal(skipped.observe(["features"])(x)["features"][0], found)
    assert skipped.layer_names() == plain.layer_names()


def test_gradients_reach_the_block_through_the_skip_alone() -> None:
    """With everything after the block made constant, the block still learns."""
    net = network()
    i2p.freeze(net, "scl:layer2.0")  # adds the skip
    i2p.freeze(net, "scl:layer2.0")  # and finds it there
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith(("layer3", "layer4")):
                parameter.zero_()
    net(voxels()).square().sum().backward()
    block = [parameter for name, parameter in net.named_parameters() if name.startswith("layer2.0.")]
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in block)


def test_skips_that_cannot_be_are_named() -> None:
    with pytest.raises(InputError, match=r"no block 'layer9\.0' before its features; it has conv1, layer1\.0"):
        add_skip(network(), "layer9.0")
    wide = i2p.lift("test_resnet", weights="random", num_classes=3)
    with pytest.raises(InputError, match=r"no block 'fc' before its features; it has conv1.*layer4\.0$"):
        add_skip(wide, "fc")
    with pytest.raises(InputError, match=r"policy scl:conv1: conv1 trains under io already; blocks are layer1\.0"):
        i2p.freeze(wide, "scl:conv1")
    for policy in ("layer:fc", "layer:conv1"):
        with pytest.raises(InputError, match="trains under io already"):
            i2p.freeze(wide, policy)
    assert not wide.lifting.skip and wide(voxels()).shape == (3, 3)
    with pytest.raises(
        InputError, match=r"layer3\.0 .*192 channels, .*as there are features, 96; choose another block"
    ):
        i2p.freeze(wide, "scl:layer3.0")
    add_skip(wide, "layer2.0")
    with pytest.raises(
        InputError, match=r"has a skip connection from layer2\.0 to the features already.*none from layer1\.0"
    ):
        i2p.freeze(wide, "scl:layer1.0")
    assert wide(voxels()).shape == (3, 3)


@pytest.mark.parametrize("candidates", ["[layer1.0,layer3.0]", "[]"])
def test_blocks_that_are_too_wide_for_a_skip_are_found_before_any_is_tried(tmp_path: Path, candidates: str) -> None:
    config = tiny("finetune.policy=scl:auto", f"finetune.candidates={candidates}")
    with pytest.raises(InputError, match=r"scl:auto: layer3\.0 .* has 192 channels.*finetune\.candidates"):
        run_transfer(config, tmp_path)
    assert not (tmp_path / "tiny").exists()


def test_the_chosen_block_collapses_the_features_most(tmp_path: Path) -> None:
    settings = ("finetune.policy=scl:auto", "finetune.candidates=[layer1.0,layer2.0]", "training.epochs=1")
    place = run_transfer(tiny(*settings), tmp_path)
    choice = json.loads(place.choice.read_text())
    compared = {block: found["share"] for block, found in choice["compared"].items()}
    assert list(compared) == ["layer1.0", "layer2.0"] and choice["block"] == min(compared, key=compared.__getitem__)
    one = choice["compared"]["layer1.0"]
    assert one["share"] == pytest.approx(one["nc1"] / one["null"]) and one["null_sd"] > 0
    summary = place.read_summary()
    assert summary["policy"] == f"scl:{choice['block']}"
    net, x = i2p.load(place.path), voxels()
    with torch.no_grad():
        again = add_skip(network(), choice["block"]).eval()
        again.load_state_dict(net.state_dict())
        assert torch.equal(net(x), again(x))


@pytest.mark.parametrize("setting", ["training.ema=0.99", "training.head_first=1"])
def test_a_probe_trains_its_block_and_is_what_is_measured(tmp_path: Path, setting: str) -> None:
    settings = ("finetune.policy=layer:auto", "finetune.candidates=[layer1.0,layer4.0]", "network.stem=inflate")
    usual = ("training.epochs=2", "training.recalibrate=12", "collapse.every=0")
    plain, other = (
        json.loads(run_transfer(tiny(*settings, *usual, *more), tmp_path / name).choice.read_text())
        for name, more in (("plain", ()), ("other", (setting,)))
    )
    assert plain["compared"] == other["compared"]
    assert plain["compared"]["layer1.0"]["nc1"] != plain["compared"]["layer4.0"]["nc1"]


def test_an_interrupted_choice_begins_again_with_the_command_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("finetune.policy=layer:auto", "finetune.candidates=[layer1.0,layer2.0]", "training.epochs=1")
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "step", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(
            Interrupted, match=r"training of layer1\.0.*: image2point transfer \S*/config.yaml .*--resume"
        ):
            run_transfer(config, tmp_path / "stopped")
    resumed = run_transfer(config, tmp_path / "stopped", resume=True)
    assert resumed.weights.read_bytes() == run_transfer(config, tmp_path / "whole").weights.read_bytes()


def test_a_run_that_chose_its_block_is_the_run_that_was_told(tmp_path: Path) -> None:
    """Nothing is left of the training of the candidates."""
    settings = ("finetune.candidates=[layer1.0,layer2.0]", "training.epochs=1", "collapse.every=0")
    chose = run_transfer(tiny("finetune.policy=layer:auto", *settings), tmp_path)
    block = json.loads(chose.choice.read_text())["block"]
    told = run_transfer(tiny(f"finetune.policy=layer:{block}", "name=told", *settings), tmp_path)
    assert chose.weights.read_bytes() == told.weights.read_bytes()


def test_bad_candidates_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"finetune\.candidates: layer7 are no blocks; there are layer1\.0"):
        run_transfer(tiny("finetune.policy=layer:auto", "finetune.candidates=[layer7]"), tmp_path)
    with pytest.raises(InputError, match=r"finetune\.policy = 'layers:auto': expected one of io"):
        tiny("finetune.policy=layers:auto")
    assert block_choice.resolved(tiny("finetune.policy=layer:x"), None) == "layer:x"  # type: ignore[arg-type]
