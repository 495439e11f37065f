"""Runs that earlier versions left behind: they load, score, predict and report as ever."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import image2point as i2p
from image2point.cli import app
from image2point.config import load_config
from image2point.jobs.reuse import predict

STORED = Path(__file__).resolve().parent / "runs" / "before_tasks"
"""Written by version 0.1.0, before a config said `task`: three synthetic classes, three epochs, best by validation."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STORED, tmp_path / "before_tasks"))


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_its_scores_are_found_again(run: Path) -> None:
    assert "task:" not in (run / "config.yaml").read_text()
    assert load_config(run / "config.yaml").task == "classification"
    assert "the same as stored: 33.33 %, loss 1.098489" in call("evaluate", run)


def test_its_network_says_what_it_said(run: Path) -> None:
    net = i2p.load(run)
    assert not net.training and net.lifting.network == "test_efficientnet"
    said = json.loads(
        call("predict", run, STORED.parents[2] / "data/fixtures/clouds/torus.npy", "--points", 64, "--json")
    )
    shares = torch.tensor([said[0]["classes"][name] for name in ("cone", "torus", "box")])
    assert torch.allclose(shares, torch.tensor([0.337920, 0.335927, 0.326152]), atol=1e-5)


def test_it_has_a_page_and_is_finished(run: Path) -> None:
    call("report", run)
    assert "test_efficientnet" in (run / "report.html").read_text(encoding="utf-8")
    assert "| before_tasks | all | 1 | 173,839 | 100.0 | 33.3 | 33.3 | 33.3 | 1.95 | 1.08 |" in call(
        "report", run, "--markdown"
    )
    assert "is finished already" in call("transfer", run / "config.yaml", "--runs", run.parent, "--resume")


def test_files_are_predicted_by_the_columns_of_the_run(run: Path) -> None:
    points = np.random.default_rng(0).normal(size=(64, 4))
    np.savetxt(run / "plain.xyz", points[:, :3])
    np.savetxt(run / "numbered.xyz", points[:, [3, 0, 1, 2]])
    expected = predict(run, [run / "plain.xyz"])[0].probabilities
    assert predict(run, [run / "numbered.xyz"])[0].probabilities != expected
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("data:\n", "data:\n  columns: _ x y z\n", 1))
    assert predict(run, [run / "numbered.xyz"])[0].probabilities == expected
