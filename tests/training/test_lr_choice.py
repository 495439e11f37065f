"""Choosing the learning rate of a run: on validation clouds, resumable, shown, and never on test."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import load_splits, rows, run_transfer, separable, tiny

from image2point.config import Config
from image2point.errors import InputError
from image2point.jobs import lr_choice
from image2point.report import build
from image2point.report.read import read_runs
from image2point.sweeps.pivot import pivot
from image2point.sweeps.table import format_pivot, note
from image2point.training.interrupt import Interrupted
from image2point.training.journal import Journal

CHOOSE = "choose={lr: [0.00001, 0.1, 0.05], epochs: 2}"
SEEN: list[set[str]] = []


def separated(data: Path, *overrides: str) -> Config:
    """With a rate of its own that no trial has."""
    return separable(data, "finetune.policy=all", "training.threads=1", "training.lr=0.0003", *overrides)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A run that chose, without an interruption. What its trials were given is in SEEN."""
    fit = lr_choice.fit

    def watched(job: Any, state: Any) -> None:
        SEEN.append({job.splits.train.name, job.splits.validation.name, job.splits.test.name})
        fit(job, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lr_choice, "fit", watched)
        return run_transfer(separated(data, CHOOSE), tmp_path_factory.mktemp("runs")).path


def kept(run: Path) -> dict[str, Any]:
    content = json.loads((run / "trials.json").read_text())
    for trial in content["trials"]:
        del trial["seconds"]
    return content


def test_the_best_on_validation_is_taken(chosen: Path) -> None:
    trials, summary = kept(chosen), json.loads((chosen / "summary.json").read_text())
    assert [trial["lr"] for trial in trials["trials"]] == [1e-5, 0.1, 0.05]
    best = max(trials["trials"], key=lambda trial: trial["order"])
    assert summary["chosen_lr"] == trials["lr"] == best["lr"] != 1e-5
    assert trials["clouds"] == summary["lr_clouds"] == summary["data"]["validation_clouds"]
    assert [trial["lr"] for trial in summary["trials"]] == [1e-5, 0.1, 0.05]
    assert not (chosen / "trials").exists()
    assert f"training.lr = {best['lr']:g} was chosen by" in (chosen / "log.txt").read_text()
    assert summary["seconds"]["total"] > summary["seconds"]["choosing"] > 0


def test_the_choice_is_shown(chosen: Path, tmp_path: Path) -> None:
    page = build([chosen], tmp_path / "page.html").read_text()
    assert "Learning rates that the runs tried" in page and page.count(">chosen</td>") == 1
    table = pivot(read_runs([chosen]), ["finetune.policy"], [], "final.test_accuracy")
    lr = json.loads((chosen / "summary.json").read_text())["chosen_lr"]
    assert note(table, "sd").endswith(f"chosen on validation clouds: finetune.policy=all: {lr:g}")
    lines = str(format_pivot(table, "csv")).splitlines()
    assert lines[0].endswith(",chosen_lr") and lines[1].endswith(f",{lr:g}")


def test_the_run_is_that_of_the_chosen_rate(chosen: Path, data: Path, tmp_path: Path) -> None:
    lr = json.loads((chosen / "trials.json").read_text())["lr"]
    direct = run_transfer(separated(data, f"training.lr={lr}"), tmp_path).path
    assert (direct / "weights.safetensors").read_bytes() == (chosen / "weights.safetensors").read_bytes()
    assert rows(direct) == rows(chosen)


@pytest.mark.parametrize("place", [5, 8])
def test_an_interrupted_choice_goes_on(
    tmp_path: Path, data: Path, chosen: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """There are 3 steps in each of 2 epochs of 3 trials: the places are in the first and in the second trial."""
    steps = 0

    def step(self: Journal, *_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == place:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Journal, "step", step)
    with pytest.raises(Interrupted, match=r"stopped in the trial lr=.*continue with: .*tiny/config.yaml .*--resume"):
        run_transfer(separated(data, CHOOSE), tmp_path)
    steps = 100
    run_transfer(separated(data, CHOOSE), tmp_path, resume=True)
    assert steps == 100 + 9 + 3 * 2 * 3 - place  # nothing is done twice
    assert kept(tmp_path / "tiny") == kept(chosen)
    assert rows(tmp_path / "tiny") == rows(chosen)


def test_halving(tmp_path: Path, data: Path) -> None:
    config = separated(data, "choose={lr: [0.00001, 0.1, 0.05, 0.00002], epochs: [1, 2]}", "training.epochs=2")
    trials = kept(run_transfer(config, tmp_path).path)
    first = {trial["lr"]: trial["order"] for trial in trials["trials"] if trial["epochs"] == 1}
    second = [trial["lr"] for trial in trials["trials"] if trial["epochs"] == 2]
    assert len(first) == 4 and second == sorted(first, key=first.__getitem__, reverse=True)[:2]
    assert trials["lr"] in second


def test_a_rate_whose_gradients_overflow_is_out(tmp_path: Path, data: Path) -> None:
    config = separated(data, "choose={lr: [0.01, 1.0e+30], epochs: 1}", "training.gradient_clip=1")
    trials = kept(run_transfer(config, tmp_path).path)["trials"]
    assert [trial["order"] is None for trial in trials] == [False, True]


def test_a_rate_that_diverges_is_out(tmp_path: Path, data: Path) -> None:
    config = separated(data, "choose={lr: [1.0e+30, 0.05], epochs: 1}")
    trials = kept(run_transfer(config, tmp_path).path)
    assert trials["lr"] == 0.05 and trials["trials"][0]["order"] is None
    with pytest.raises(InputError, match="diverged at every rate"):
        run_transfer(separated(data, "choose={lr: [1.0e+30, 1.0e+29], epochs: 1}", "name=worse"), tmp_path)


def test_test_clouds_are_not_looked_at(chosen: Path, data: Path) -> None:
    """Each trial saw train and validation alone: what it was given as its test set is the validation clouds too."""
    splits = load_splits(separated(data).data)
    assert SEEN and all(splits.test.name not in names for names in SEEN)


def test_clouds_that_no_shot_uses() -> None:
    config = tiny("data.shots=2", "choose={lr: [0.1, 0.2], epochs: 1, clouds: 3}")
    splits = load_splits(config.data)
    judges = lr_choice.clouds_to_choose_by(config, splits)
    assert judges is not None and np.bincount(judges.labels).tolist() == [3, 3, 3]
    ours = {judges[i].points.tobytes() for i in range(len(judges))}
    shots = {splits.train[i].points.tobytes() for i in range(len(splits.train))}
    assert len(ours) == 9 and len(shots) == 6 and not ours & shots


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["choose.lr=[0.1]"], "two or more different rates"),
        (["choose.lr=[0.1, 0.1]"], "two or more different rates"),
        (["choose={lr: [0.1, 0.2], epochs: 4}"], "not be longer than the run"),
        (["choose={lr: [0.1, 0.2], epochs: [2, 1]}"], "more epochs than the last"),
        (["choose={lr: [0.1, 0.2], clouds: 3}"], "there are no shots"),
    ],
)
def test_what_cannot_be_chosen(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny(*overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [(["data.validation=0"], r"set data\.validation"), (["data.shots=2"], r"set choose\.clouds=10, .* or data\.val")],
)
def test_without_validation_clouds(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_transfer(tiny("choose={lr: [0.1, 0.2], epochs: 1}", *overrides), tmp_path)
    assert not (tmp_path / "tiny").exists()
