"""Runs are grouped by what they did; means and spreads are those of the textbook."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_writer import edit, write_run

from image2point.errors import InputError
from image2point.report.arms import group, spread
from image2point.report.read import read_runs


def test_spread_is_mean_and_sample_standard_deviation() -> None:
    values = [0.71, 0.745, 0.733, 0.70]
    found = spread(values)
    assert found.mean == pytest.approx(statistics.mean(values), rel=1e-14)
    assert found.sd == pytest.approx(statistics.stdev(values), rel=1e-12)
    assert spread([0.5]).sd is None


def test_seeds_form_an_arm_in_order_of_appearance(runs: list[Path]) -> None:
    arms = group(read_runs([runs[3], runs[0], runs[4], runs[1]]))
    assert [(arm.label, [run.summary.seed for run in arm.runs]) for arm in arms] == [
        ("scratch", [0, 1]),
        ("imagenet", [0, 1]),
    ]


def test_curve_is_the_mean_over_runs_at_each_epoch(runs: list[Path]) -> None:
    records = read_runs(runs[:3])
    (arm,) = group(records)
    curve = arm.curve("collapse_test/cdnv")
    assert curve is not None
    epochs = records[0].metrics["epoch"].tolist()
    for place, epoch in enumerate(curve.epochs):
        values = [record.metrics["collapse_test/cdnv"][epochs.index(epoch)] for record in records]
        assert curve.mean[place] == pytest.approx(statistics.mean(values), rel=1e-12)
        assert curve.sd[place] == pytest.approx(statistics.stdev(values), rel=1e-9)
    assert curve.epochs.tolist() == [0, 3, 6, 9, 12]
    assert arm.curve("validation_accuracy") is None


def test_curve_of_runs_of_unequal_length(tmp_path: Path) -> None:
    """Where one run alone measured there is no spread, and none is invented."""
    first, second = (write_run(tmp_path / f"run-{seed}", seed=seed, epochs=6, every=2) for seed in (0, 1))
    lines = (second / "metrics.csv").read_text().splitlines()
    (second / "metrics.csv").write_text("\n".join(lines[:4]))
    (arm,) = group(read_runs([first, second]))
    curve = arm.curve("collapse_train/nc1")
    assert curve is not None
    assert curve.n.tolist() == [2, 2, 1, 1]
    assert np.isfinite(curve.sd).tolist() == [True, True, False, False]


def test_two_runs_with_one_seed_are_refused(tmp_path: Path) -> None:
    pair = [write_run(tmp_path / name, seed=5, epochs=1) for name in ("a", "b")]
    with pytest.raises(InputError, match=r"a and .*b are both arm 'imagenet' with seed 5"):
        group(read_runs(pair))


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({"finetune": {"policy": "io"}}, "imagenet, io"),
        ({"training": {"epochs": 2, "lr": 0.02}}, "imagenet, training.lr 0.02"),
        ({"data": {"name": "synthetic", "shots": 5}}, "imagenet, data.shots 5"),
    ],
)
def test_one_label_for_two_experiments_is_told_apart(tmp_path: Path, settings: dict[str, Any], label: str) -> None:
    one = write_run(tmp_path / "one", epochs=2)
    other = write_run(tmp_path / "other", epochs=2, settings=settings)
    labels = [arm.label for arm in group(read_runs([one, other]))]
    assert labels[1] == label
    assert labels[0] != labels[1]


def test_settings_that_leave_the_result_alone_do_not_split_an_arm(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", epochs=2)
    moved = {"data": {"name": "synthetic", "shots": 10, "root": "elsewhere", "shot_seed": 3}}
    other = write_run(tmp_path / "other", seed=1, epochs=2, settings=moved)
    assert len(group(read_runs([one, other]))) == 1


def test_other_weights_are_another_arm(tmp_path: Path) -> None:
    one, other = (write_run(tmp_path / f"run-{seed}", seed=seed, epochs=1) for seed in (0, 1))
    edit(other / "summary.json", weights__sha256="ab" * 32)
    assert len(group(read_runs([one, other]))) == 2


def test_a_mean_over_some_runs_is_no_mean(tmp_path: Path) -> None:
    """A quantity that is undefined in one run is not averaged over the others."""
    pair = [write_run(tmp_path / f"run-{seed}", seed=seed, epochs=1) for seed in (0, 1)]
    edit(pair[0] / "summary.json", collapse__test__nc1=math.nan)
    (arm,) = group(read_runs(pair))
    assert arm.spread(lambda run: run.summary.collapse["test"]["nc1"]) is None
    assert arm.spread(lambda run: run.summary.collapse["test"]["cdnv"]) is not None
