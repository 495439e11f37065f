"""What the loop does with the settings that it is given."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import rows, tiny

import image2point as i2p
from image2point import config as configuration
from image2point import runs
from image2point.jobs.ingredients import load_splits
from image2point.jobs.transfer import run_transfer
from image2point.training import loop
from image2point.training.health import Diverged
from image2point.training.job import Job, State
from image2point.voxels import Sites


def columns(path: Path, name: str) -> list[float]:
    return [float(row[name]) for row in rows(path) if row[name]]


@pytest.mark.parametrize("precision", ["64", "bf16-mixed"])
def test_precision(tmp_path: Path, precision: str) -> None:
    path = run_transfer(tiny(f"training.precision={precision}", "training.epochs=1"), tmp_path).path
    kinds = {tensor.dtype for tensor in load_file(path / "weights.safetensors").values() if tensor.is_floating_point()}
    assert kinds == {torch.float64 if precision == "64" else torch.float32}
    plain = run_transfer(tiny("name=plain", "training.epochs=1"), tmp_path).path
    assert columns(path, "train_loss") == pytest.approx(columns(plain, "train_loss"), rel=0.05)
    assert columns(path, "train_loss") != columns(plain, "train_loss")


@pytest.mark.parametrize("policy", ["io", "head", "io+norm"])
def test_what_is_frozen_does_not_move(tmp_path: Path, policy: str) -> None:
    before = tiny("name=before", "training.epochs=0", f"finetune.policy={policy}")
    start = load_file(run_transfer(before, tmp_path).weights)
    after = run_transfer(tiny(f"finetune.policy={policy}", "training.epochs=1"), tmp_path)
    roles = {each["name"]: each["role"] for each in after.read_lifting()["parameters"]}
    moving = {"io": {"input", "output"}, "head": {"output"}, "io+norm": {"input", "output", "norm"}}[policy]
    moved = {name for name, tensor in load_file(after.weights).items() if not torch.equal(tensor, start[name])}
    assert {roles[name] for name in moved if name in roles} == moving
    statistics = {name for name in moved if "running" in name}
    assert bool(statistics) == (policy != "head")
    if policy == "io":  # the norms of the body keep the statistics of the images
        assert not any(name.startswith("layer") for name in statistics)


def test_the_epoch_is_chosen_on_validation_and_test_is_scored_with_it(tmp_path: Path) -> None:
    run = run_transfer(tiny("collapse.every=0", "finetune.policy=all", "training.epochs=4"), tmp_path)
    summary, table = run.read_summary(), rows(run.path)
    accuracies = [(float(row["validation_accuracy"]), -float(row["validation_loss"])) for row in table[1:]]
    best = 1 + accuracies.index(max(accuracies))
    assert (summary["chosen_epoch"], summary["chosen_by"]) == (best, "validation")
    assert [row["epoch"] for row in table if row["test_accuracy"]] == [str(best)]
    assert float(table[best]["test_accuracy"]) == summary["final"]["test_accuracy"]


def test_without_validation_the_last_epoch_counts(tmp_path: Path) -> None:
    run = run_transfer(tiny("data.shots=3", "training.epochs=2"), tmp_path)
    summary = run.read_summary()
    assert (summary["chosen_epoch"], summary["chosen_by"]) == (2, "last epoch")
    assert (summary["data"]["train_clouds"], summary["data"]["validation_clouds"], summary["data"]["shots"]) == (
        9,
        0,
        3,
    )


def test_no_training_only_measures(tmp_path: Path) -> None:
    run = run_transfer(tiny("training.epochs=0", "finetune.policy=none"), tmp_path)
    assert [row["epoch"] for row in rows(run.path)] == ["0"]
    assert run.read_summary()["collapse"]["train"]["nc1"] > 0
    assert run.read_summary()["parameters"]["trainable"] == 0


def test_splits_do_not_share_clouds() -> None:
    splits = load_splits(tiny("data.shots=4", "data.validation=0.25").data)
    assert splits.validation is not None
    clouds = [
        {splits_[i].points.tobytes() for i in range(len(splits_))}
        for splits_ in (splits.train, splits.validation, splits.test)
    ]
    assert [len(each) for each in clouds] == [9, 3, 6]
    assert not (clouds[0] & clouds[1] or clouds[0] & clouds[2] or clouds[1] & clouds[2])


def test_a_run_holds_its_config(tmp_path: Path) -> None:
    config = tiny("training.epochs=0")
    run = run_transfer(config, tmp_path)
    assert configuration.load_config(runs.open_run(run.path).config) == config


def test_every_step_has_its_own_seed() -> None:
    """What dropout draws depends on the run's seed, the epoch, the step and the process, on each of them."""
    seeds = set()
    for place in itertools.product((0, 1), (1, 2), (0, 1), (0, 1)):
        loop._seed_torch(*place)
        seeds.add(torch.initial_seed())
    assert len(seeds) == 16


def test_kernels_scaled_by_the_training_clouds_are_stored(tmp_path: Path) -> None:
    runs_of = {v: run_transfer(tiny("training.epochs=0", f"network.variance={v}", f"name={v}"), tmp_path)
               for v in ("none", "occupancy")}  # fmt: skip
    plain, scaled = (load_file(run.weights) for run in runs_of.values())
    kernels = [n for n, w in plain.items() if w.ndim == 5 and w[0, 0].numel() > 1 and not n.startswith("conv1")]
    factors = [(scaled[n] / plain[n]).flatten() for n in kernels]
    assert kernels and all(torch.allclose(f, f[0]) and abs(float(f[0]) - 1) > 0.01 for f in factors)
    network = i2p.load(runs_of["occupancy"].path)
    assert all(torch.equal(tensor, scaled[name]) for name, tensor in network.state_dict().items())


def test_plans_of_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    plan = Sites.plan

    def noted(sites: Sites, key: object, build: Callable[[], Any]) -> Any:
        return plan(sites, key, lambda: (made.append(str(key)), build())[1])

    monkeypatch.setattr(Sites, "plan", noted)
    epoch = loop.train_epoch

    def watched(job: Job, state: State) -> None:
        made.clear()
        epoch(job, state)
        tables.append(sum("Window" in key or "coarsen" in key for key in made))

    monkeypatch.setattr(loop, "train_epoch", watched)
    weights, tables = [], list[int]()
    for workers in (0, 1):
        config = tiny(f"name=w{workers}", "training.epochs=1", f"training.workers={workers}", "collapse.every=0")
        weights.append(load_file(run_transfer(config, tmp_path).weights))
    assert tables[0] > 10 and tables[1] == 0  # here, and in the worker
    assert all(torch.equal(tensor, weights[0][name]) for name, tensor in weights[1].items())


def test_a_step_is_read_when_the_next_has_begun() -> None:
    said: list[str] = []

    class Late:
        def __init__(self, step: int) -> None:
            self.step = step

        def values(self) -> list[float]:
            said.append(f"step {self.step}")
            return [math.nan if self.step == 3 else 2.0, 1.0, float(self.step == 2)]

    job = SimpleNamespace(journal=SimpleNamespace(step=lambda epoch, loss: said.append(f"{epoch}: {loss}")))
    state, running = State(), deque((step, 4, Late(step)) for step in (1, 2, 3))
    assert not loop._settle(job, state, running, 2) and said == ["step 1", "1: 0.5"]  # type: ignore[arg-type]
    assert loop._settle(job, state, running, 1) and state.sums == [4.0, 2.0, 8]  # type: ignore[arg-type]
    with pytest.raises(Diverged, match="epoch 1, step 3"):
        loop._settle(job, state, running)  # type: ignore[arg-type]


@pytest.mark.parametrize("final", ["[test, train]", "[]"])
@pytest.mark.parametrize("lr", ["1.0e+30", "3.0e+38"])
def test_weights_that_the_last_step_spoilt_are_noticed(tmp_path: Path, lr: str, final: str) -> None:
    """With one step in an epoch no later loss tells. Weights overflow, or are finite and what they give does."""
    one_step = ("training.epochs=1", "training.batch_size=99", "data.validation=0", "training.warmup_epochs=0")
    config = tiny(*one_step, f"training.lr={lr}", f"collapse.final={final}", "collapse.every=0")
    with pytest.raises(Diverged, match=r"no numbers.*; lower training\.lr"):
        run_transfer(config, tmp_path)
    assert not (tmp_path / "tiny/summary.json").exists()
