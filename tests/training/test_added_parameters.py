"""Runs whose policy adds parameters: they are in the checkpoint, in the weights, and in what a run says and loads."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import rows, run_transfer, tiny

import image2point as i2p
from image2point.lifting.additions import added
from image2point.report.maps import filled
from image2point.report.page import write_page
from image2point.report.read import read_run
from image2point.training.interrupt import Interrupted
from image2point.training.journal import Journal
from image2point.voxels import DepthConv

SETTINGS = ("training.epochs=2", "finetune.policy=io+norm+depth+lora:2+ssf+adapter:4", "collapse.every=0")


def test_a_run_resumes_to_the_same_bytes_and_loads_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    whole = run_transfer(tiny(*SETTINGS), tmp_path / "whole")
    said = capsys.readouterr().out
    assert "policy io+norm+depth+lora:2+ssf+adapter:4: " in said, said
    assert re.search(r", depth 21, lora [\d,]+, ssf 1,952, adapter [\d,]+\n", " ".join(said.split(" "))), said
    steps = 0

    def third(*given: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Journal, "step", third)
        run_transfer(tiny(*SETTINGS), tmp_path)
    run = run_transfer(tiny(*SETTINGS), tmp_path, resume=True)
    assert run.weights.read_bytes() == whole.weights.read_bytes() and rows(run.path) == rows(whole.path)
    net = i2p.load(run.path)
    numbers = torch.cat([net.get_parameter(name) for name in added(net) if name.endswith(".depth")])
    assert len(numbers) == 21 and (numbers != 1).any()
    draw = torch.Generator().manual_seed(0)
    x = i2p.voxelize([torch.rand(60, 3, generator=draw)], 0.2)
    with torch.no_grad():
        assert torch.allclose(net.fold()(x), net(x), rtol=1e-4, atol=1e-5)
    recorded = {record["name"]: record for record in json.loads(run.lifting.read_text())["parameters"]}
    assert {name: tuple(record["shape"]) for name, record in recorded.items()} == {
        name: tuple(parameter.shape) for name, parameter in net.named_parameters()
    }
    write_page([read_run(run.path)], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "io+norm+depth+lora:2+ssf+adapter:4" in page and "How kernels fill the depth" in page
    learnt = json.loads((run.path / "summary.json").read_text())["depth"]
    assert list(learnt) == [name for name, layer in net.named_modules() if isinstance(layer, DepthConv)]
    assert torch.allclose(torch.cat([torch.tensor(each) for each in learnt.values()]), numbers.float())
    told = ", ".join(f"{number:.3f}" for number in learnt["layer1.0.conv1"])
    assert f"layer1.0.conv1: its kernel fills the depth by {told}" in (run.path / "log.txt").read_text()


def test_slices_stand_under_their_number() -> None:
    """Of kernels of 3, 2 and 5 slices, the middle ones are in one column."""
    arms: Any = [SimpleNamespace(first=SimpleNamespace(summary=SimpleNamespace(depth={})), label="none")] * 2
    layers = {"a": (1.0, 2.0, 3.0), "b": (4.0, 5.0), "c": (6.0, 7.0, 8.0, 9.0, 10.0)}
    arms[1] = SimpleNamespace(first=SimpleNamespace(summary=SimpleNamespace(depth=layers)), label="some")
    (heat,) = filled(arms)
    assert heat.columns == ("-2", "-1", "0", "+1", "+2") and heat.rows == ("a", "b", "c") and heat.arm == 1
    assert heat.values[:, 2].tolist() == [2, 5, 8] and np.isnan(heat.values[1, 3]) and heat.values[1, 1] == 4


def test_a_run_says_what_its_channels_learnt_on_average_and_is_loaded_with_all_of_it(tmp_path: Path) -> None:
    run = run_transfer(
        tiny("training.epochs=2", "finetune.policy=io+norm+depth:channels", "collapse.every=0"), tmp_path
    )
    depth = i2p.load(run.path).get_parameter("layer1.0.conv1.depth").detach()
    assert depth.ndim == 2 and depth.std(0).min() > 0
    told = run.read_summary()["depth"]["layer1.0.conv1"]
    assert told == pytest.approx(depth.double().mean(0).tolist())
    slices = ", ".join(f"{number:.3f}" for number in told)
    assert f"fills the depth by {slices}, on average over its channels\n" in (run.path / "log.txt").read_text()
