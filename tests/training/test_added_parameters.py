"""Runs whose policy adds parameters: they are in the checkpoint, in the weights, and in what a run says and loads."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import rows, run_transfer, tiny

import image2point as i2p
from image2point.lifting.additions import added
from image2point.report.page import write_page
from image2point.report.read import read_run
from image2point.training.interrupt import Interrupted
from image2point.training.journal import Journal

SETTINGS = ("training.epochs=2", "finetune.policy=io+norm+depth+ssf", "collapse.every=0")


def test_a_run_resumes_to_the_same_bytes_and_loads_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    whole = run_transfer(tiny(*SETTINGS), tmp_path / "whole")
    said = capsys.readouterr().out
    assert "policy io+norm+depth+ssf: " in said and ", depth 21, ssf 1,952" in said, said
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
    assert "io+norm+depth+ssf" in (tmp_path / "page.html").read_text()
