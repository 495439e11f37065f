"""`image2point evaluate` on damaged and turned clouds, and by voting, beside the plain accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import tiny
from typer.testing import CliRunner, Result

from image2point.cli import app
from image2point.datasets.cloud import Cloud
from image2point.datasets.recipe import Recipe
from image2point.datasets.splits import StoredClouds
from image2point.datasets.transforms import PAPER
from image2point.errors import InputError
from image2point.experiments.robustness import Asked, Changed, measure_robustness
from image2point.jobs.transfer import run_transfer
from image2point.tasks.classification import Classification, ClassOutputs


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def test_evaluate_reports_each_by_its_name(tmp_path: Path) -> None:
    run = run_transfer(tiny("training.epochs=1"), tmp_path).path
    result = call(run, "--corruptions", "noise,dropout", "--so3", 2, "--votes", 3, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["agrees"]  # the plain accuracy is what it was
    more = found["robustness"]
    assert set(more["corrupted"]) == {"noise", "dropout"} and all(len(v) == 5 for v in more["corrupted"].values())
    assert all(len({each["loss"] for each in levels}) == 5 for levels in more["corrupted"].values())
    assert len(more["rotated"]) == 2 and more["votes"] == 3 and 0 <= more["voted"]["accuracy"] <= 1
    assert more["rotated"][0]["loss"] != more["rotated"][1]["loss"] != found["loss"]
    again, other = (json.loads(call(run, "--so3", 1, "--seed", seed, "--json").stdout)["robustness"] for seed in (0, 1))
    assert again["rotated"][0] == more["rotated"][0] != other["rotated"][0]
    text = call(run, "--corruptions", "noise", "--so3", 1, "--votes", 2).stdout
    assert "noise" in text and "SO(3): " in text and "voting: " in text and "the same as stored" in text
    for arguments, word in ((["--corruptions", "rain"], "'rain'"), (["--votes", 1], "at least 2 views")):
        refused = call(run, *arguments)
        assert refused.exit_code == 2 and word in refused.stderr


def test_votes_are_means_of_probabilities() -> None:
    clouds = StoredClouds("two", ("a", "b"), np.zeros((2, 4, 3), dtype=np.float32), np.array([0, 1]))
    views = [torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([[0.2, 0.8], [0.1, 0.9]])]
    labels = torch.tensor([0, 1])
    plain, other = (ClassOutputs(torch.zeros(2, 1), labels, view.double().log(), labels) for view in views)
    found = measure_robustness(lambda _: other, clouds, plain, Recipe(0.1, augmentation=PAPER), Asked(votes=2))
    mean = (views[0].double() + views[1].double()) / 2
    assert found.voted is not None
    assert found.voted.loss == pytest.approx(
        Classification().scores(ClassOutputs(torch.zeros(2, 1), labels, mean.log(), labels)).loss
    )
    assert found.voted.accuracy == 1 and Classification().scores(plain).accuracy == 0.5


def test_votes_need_views_that_differ() -> None:
    clouds = StoredClouds("one", ("a",), np.zeros((1, 4, 3), dtype=np.float32), np.array([0]))
    plain = ClassOutputs(torch.zeros(1, 1), torch.tensor([0]), torch.zeros(1, 1), torch.tensor([0]))
    with pytest.raises(InputError, match="views that differ"):
        measure_robustness(lambda _: plain, clouds, plain, Recipe(0.1), Asked(votes=2))


def test_bad_clouds_are_named() -> None:
    bad = np.full((1, 4, 3), np.nan, dtype=np.float32)
    changed = Changed(StoredClouds("bad", ("a",), bad, np.array([0])), lambda cloud, _: cloud, "same")
    with pytest.raises(InputError, match="bad cloud 0"):
        assert isinstance(changed[0], Cloud)
