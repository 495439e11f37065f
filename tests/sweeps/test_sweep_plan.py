"""Which runs a section `sweep` stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import VALUES

from image2point import InputError
from image2point import config as configuration
from image2point.sweeps.plan import read_sweep


def write(folder: Path, sweep: Any, **values: Any) -> Path:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({**VALUES, "name": "grid", **values, "sweep": sweep}, sort_keys=False))
    return path


def test_entries_are_multiplied_and_the_fields_of_one_move_together(tmp_path: Path) -> None:
    path = write(tmp_path, [{"network.rule": ["repeat", "mean"]}, {"seed": [1, 2], "data.shot_seed": [3, 4]}])
    sweep = read_sweep(path, ["training.epochs=1"])
    found = [(r.config.network.rule, r.config.seed, r.config.data.shot_seed) for r in sweep.runs]
    assert found == [("repeat", 1, 3), ("repeat", 2, 4), ("mean", 1, 3), ("mean", 2, 4)]
    assert sweep.runs[0].name == "rule=repeat,seed=1,shot_seed=3"
    assert {r.config.training.epochs for r in sweep.runs} == {1}
    assert {r.config.network.arch for r in sweep.runs} == {"test_resnet"}


def test_names_are_folders_and_tell_fields_apart(tmp_path: Path) -> None:
    entries = [
        {"data.features": [["xyz"], ["xyz", "occupancy"]]},
        {"seed": [1]},
        {"data.synthetic.seed": [7]},
        {"network.weights": ["file:../a b/c.pt"]},
    ]
    sweep = read_sweep(write(tmp_path, entries))
    assert [r.name for r in sweep.runs] == [
        f"features={f},seed=1,data.synthetic.seed=7,weights=file-..-a-b-c.pt" for f in ("xyz", "xyz+occupancy")
    ]


def test_a_config_with_a_base_inherits_from_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**VALUES, "name": "base"}))
    path = tmp_path / "child.yaml"
    path.write_text("base: base.yaml\nname: child\nsweep:\n  - seed: [1, 2]\n")
    assert read_sweep(path).name == "child"
    assert [r.config.seed for r in read_sweep(path).runs] == [1, 2]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (None, "has no section `sweep`"),
        ({"seed": [1]}, "should be a list of entries"),
        ([], "should be a list of entries"),
        ([{"seed": 1}], "seed .* should have a list of values, found 1"),
        ([{"seed": []}], "should have a list of values"),
        ([{"seed": [1]}, {"seed": [2]}], "in two entries"),
        ([{3: [1]}], r"3 \(in .*\) should be the name of a setting"),
        ([{"name": ["a"]}], "name .* is made from the values"),
        ([{"seed": [1, 2], "data.shot_seed": [1]}], r"2 values \(seed\), 1 values \(data.shot_seed\)"),
        ([{"network.ruel": ["mean"]}], r"unknown key network.ruel \(in the sweep of .*did you mean rule"),
        ([{"network.rule": ["mean", "median"]}], r"network.rule = 'median' \(in the sweep of"),
        ([{"seed": [1, 1]}], "two runs with the same name: seed=1 and seed=1"),
        ([{"arm": ["a", "b"]}], "two runs with nothing to tell them apart"),
        ([{"network.allow_missing": [["x" * 250]]}], "a name of 264 letters"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(tmp_path: Path, sweep: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_sweep(write(tmp_path, sweep))


def test_a_swept_field_cannot_be_overridden(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seed is given on the command line"):
        read_sweep(write(tmp_path, [{"seed": [1, 2]}]), ["seed=3"])


def test_a_single_run_does_not_take_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="use `image2point sweep"):
        configuration.load_config(write(tmp_path, [{"seed": [1, 2]}]))
