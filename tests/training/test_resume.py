"""A run that stopped anywhere and went on ends with the same bits as one that did not stop."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny_runs import interrupt_at, rows, run_transfer, separable, tiny
from typer.testing import CliRunner

from image2point.cli import app
from image2point.config import Config
from image2point.errors import InputError
from image2point.training.interrupt import Interrupted
from image2point.training.journal import Journal


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A run that was never interrupted."""
    return run_transfer(learning(data), tmp_path_factory.mktemp("runs")).path


def learning(data: Path, *overrides: str) -> Config:
    """The best of its three epochs is the second, by a margin that rounding does not take away."""
    return separable(data, "seed=3", "training.schedule=constant", "training.lr=0.3", *overrides)


def test_a_renamed_run_does_not_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_at(patch, "step 3")
        run_transfer(tiny(), tmp_path / "runs")
    (tmp_path / "runs/tiny").rename(tmp_path / "runs/other")
    call = ["transfer", str(tmp_path / "runs/other/config.yaml"), "--runs", str(tmp_path / "runs"), "--resume"]
    said = CliRunner().invoke(app, call)
    assert said.exit_code == 2 and "name the folder tiny again" in " ".join(said.output.split())
    assert not (tmp_path / "runs/tiny").exists()
    (tmp_path / "runs/other").rename(tmp_path / "runs/tiny")
    assert CliRunner().invoke(app, [call[0], call[1].replace("other", "tiny"), *call[2:]]).exit_code == 0


def test_the_best_epoch_is_in_the_middle(whole: Path) -> None:
    """Or what a resumed run remembers of it would not be seen."""
    scores = [float(row["validation_accuracy"]) for row in rows(whole)]
    assert scores[2] > max(scores[0], scores[1], scores[3])


def assert_same(run: Path, whole: Path) -> None:
    assert (run / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    assert rows(run) == rows(whole)
    assert not (run / "checkpoint").exists()


@pytest.mark.parametrize("place", ["step 1", "step 3", "step 8", "scoring"])
def test_ctrl_c_then_resume(
    tmp_path: Path, data: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """There are 3 steps in each of 3 epochs: these are mid-epoch, before measuring, and after the last epoch."""
    interrupt_at(monkeypatch, place)
    with pytest.raises(Interrupted, match=r"continue with: image2point transfer .*tiny/config.yaml .*--resume"):
        run_transfer(learning(data), tmp_path)
    assert len(list((tmp_path / "tiny/checkpoint").iterdir())) == 1
    assert not (tmp_path / "tiny/summary.json").exists()
    monkeypatch.undo()
    assert_same(run_transfer(learning(data), tmp_path, resume=True).path, whole)


def test_a_closed_terminal_stops_it_too_but_not_under_nohup(
    tmp_path: Path, data: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be written to a terminal that is closed, which hinders nothing."""

    def gone(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Journal, "step", lambda *_: signal.raise_signal(signal.SIGHUP))
    monkeypatch.setattr(Console, "print", gone)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(Interrupted, match="epoch 1 after step 1 of 3"):
            run_transfer(learning(data), tmp_path)
        assert len(list((tmp_path / "tiny/checkpoint").iterdir())) == 1
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert_same(run_transfer(learning(data), tmp_path, resume=True).path, whole)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "scoring" in (tmp_path / "tiny/log.txt").read_text()


def test_kill_in_mid_epoch_then_resume(tmp_path: Path, data: Path, whole: Path) -> None:
    config = tmp_path / "tiny.yaml"
    every_step = learning(data, "training.checkpoint_every_minutes=0")
    config.write_text(every_step.to_yaml())
    command = [sys.executable, "-m", "image2point", "transfer", str(config), "--runs", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "tiny/checkpoint").glob("epoch-00001-step-00000[12]")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "tiny/summary.json").exists()
    assert_same(run_transfer(every_step, tmp_path, resume=True).path, whole)


def test_what_does_not_touch_the_result_may_change(
    tmp_path: Path, data: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Journal, "step", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted, match="epoch 1 after step 1 of 3"):
        run_transfer(learning(data), tmp_path)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"tiny was started with another config.*training.lr: 0.3 -> 0.03"):
        run_transfer(learning(data, "training.lr=0.03"), tmp_path, resume=True)
    assert_same(run_transfer(learning(data, "training.workers=1"), tmp_path, resume=True).path, whole)


def test_a_finished_run_is_left_alone(data: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    run_transfer(learning(data), whole.parent, resume=True)
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_resume_without_a_run_starts_one(tmp_path: Path, data: Path, whole: Path) -> None:
    assert_same(run_transfer(learning(data), tmp_path, resume=True).path, whole)
