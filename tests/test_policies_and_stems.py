"""Policies that train no stem: the 2D one is lifted, and a fresh one is refused or said to be random."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import tiny

import image2point as i2p
from image2point.jobs.transfer import run_transfer


def test_a_linear_probe_looks_through_the_lifted_stem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_transfer(tiny("finetune.policy=head", "training.epochs=1", "network.arch=test_efficientnet"), tmp_path)
    assert run.read_lifting()["options"]["stem"] == "inflate"
    assert "trains no stem, so the 2D stem is lifted" in capsys.readouterr().out
    net = i2p.load(run.path)
    assert net.lifting.options.stem == "inflate"
    assert {r.origin for r in net.lifting.parameters if r.role == "input"} == {"inflated", "copied"}
    usual = run_transfer(tiny("training.epochs=0", "name=usual", "network.arch=test_efficientnet"), tmp_path)
    assert usual.read_lifting()["options"]["stem"] == "paper"
    assert "trains no stem" not in capsys.readouterr().out


def test_a_probe_of_a_random_stem_is_refused(tmp_path: Path) -> None:
    with pytest.raises(i2p.InputError, match=r"network\.stem = paper makes a fresh stem.*network\.stem=inflate"):
        run_transfer(tiny("finetune.policy=head", "network.stem=paper"), tmp_path)
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(("policy", "stem", "warns"), [("head", "paper", True), ("io", "paper", False),
                                                       ("head", "inflate", False)])  # fmt: skip
def test_freeze_says_that_a_stem_stays_random(
    policy: str, stem: Any, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    net = i2p.lift("test_resnet", weights="random", stem=stem, num_classes=3)
    with caplog.at_level(logging.WARNING, "image2point"):
        i2p.freeze(net, policy)
    assert any("stem is fresh" in message for message in caplog.messages) == warns
    assert torch.isfinite(net(i2p.voxelize([torch.rand(50, 3)], 0.2))).all()
