"""Two processes that each keep a part of the network are one process at the same global batch, to rounding."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rooms import Rooms, segmenting
from safetensors.torch import load_file
from tiny_runs import interrupt_at, rows, run_transfer, separable, tiny

from image2point.config import Config
from image2point.errors import InputError
from image2point.jobs.lifecycle import standing
from image2point.runs import Run
from image2point.training import sharding
from image2point.training.interrupt import Interrupted

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (
    "data.validation=0.17", "training.batch_size=5", "training.epochs=1", "training.precision=64", "network.stem=paper",
    "training.gradient_clip=1", "training.l2_sp=0.1", "training.optimizer=adamw", "training.lr=0.003",
    "training.warmup_epochs=0",
)  # fmt: skip
ALL = (*SETTINGS, "finetune.policy=all")
FROZEN = (*SETTINGS, "finetune.policy=io+norm+depth", "training.accumulate=2", "training.lr_by_role={depth: 5}")
ROOMS = ("data.name=scenes", "data.labels={-1: ignore, 0: floor, 1: wall, 2: ball}", "data.validation=0.2",
         "training.precision=64", "training.epochs=1", "network.stem=paper", "finetune.policy=all",
         "data.crop={size: 3.0, per_scene: 2}")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the runs of two processes: `all`, `again` (stopped, and gone on with), `left` (stopped), `begun` (stopped on
    one process, gone on with by two), `frozen` and `rooms`."""
    home = tmp_path_factory.mktemp("runs")
    parts, data = ("training.devices=2", "training.sharding=blocks"), home / "data"
    for split, scenes in (("train", Rooms("train", 5, 0)), ("test", Rooms("test", 3, 1))):
        for number in range(len(scenes)):
            (home / "rooms_data" / split).mkdir(parents=True, exist_ok=True)
            scene = scenes[number]
            np.savez(home / "rooms_data" / split / f"{number}.npz", points=scene.points, label=scene.labels)
    configs = {name: separable(data, f"name={name}", *parts, *ALL) for name in ("all", "again", "left", "begun")}
    configs["frozen"] = separable(data, "name=frozen", *parts, *FROZEN)
    configs["rooms"] = segmenting("name=rooms", f"data.root={home / 'rooms_data'}", *parts, *ROOMS)
    for name, config in configs.items():
        (home / f"{name}.yaml").write_text(config.to_yaml())
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, "step 2")
        with pytest.raises(Interrupted):
            run_transfer(separable(data, "name=begun", *ALL), home)
    todo = [("all", "", False), ("again", "step 2", False), ("again", "", True), ("left", "step 2", False),
            ("begun", "", True), ("frozen", "", False), ("rooms", "", False)]  # fmt: skip
    work = json.dumps([(str(home / f"{name}.yaml"), place, resume) for name, place, resume in todo])
    command = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "tests/training/sharded_runs.py", work]
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return home


def alone(folder: Path, config: Config) -> Path:
    return run_transfer(config, folder / "alone").path


def assert_equal(ours: Path, theirs: Path) -> None:
    """Weights and rows, to rounding."""
    for a, b in zip(rows(ours), rows(theirs), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert (a[name] == "") == (b[name] == ""), name
            if a[name]:
                assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-6, abs=1e-9), name
    first, second = (load_file(run / "weights.safetensors") for run in (ours, theirs))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.double().sub(second[name].double()).abs().max() < 1e-8, name


def kept(run: Path) -> list[int]:
    """What the first process says that it keeps, of how many parameters, and how many blocks are put together."""
    (line,) = (line for line in (run / "log.txt").read_text().splitlines() if "this process keeps" in line)
    (found,) = re.findall(r"keeps ([\d,]+) of ([\d,]+) .*; (\d+) blocks", line)
    return [int(number.replace(",", "")) for number in found]


def test_all_of_a_network(folder: Path) -> None:
    assert_equal(folder / "all", alone(folder, separable(folder / "data", "name=all", *ALL)))
    mine, total, blocks = kept(folder / "all")
    assert blocks == 4 and total > 1e6 and mine == pytest.approx(total / 2, rel=0.02)


def test_frozen_parameters_among_those_that_train(folder: Path) -> None:
    assert_equal(folder / "frozen", alone(folder, separable(folder / "data", "name=frozen", *FROZEN)))
    mine, total, _ = kept(folder / "frozen")
    assert total < 6000 and mine < 0.7 * total


def test_a_decoder(folder: Path) -> None:
    given = ("name=rooms", f"data.root={folder / 'rooms_data'}", *ROOMS)
    assert_equal(folder / "rooms", alone(folder, segmenting(*given)))


def test_stopped_and_gone_on_with(folder: Path) -> None:
    assert rows(folder / "again") == rows(folder / "all")
    ours, whole = (folder / name / "weights.safetensors" for name in ("again", "all"))
    assert ours.read_bytes() == whole.read_bytes()


def test_gone_on_with_by_one_process_and_the_other_way_round(folder: Path) -> None:
    run = run_transfer(separable(folder / "data", "name=left", *ALL), folder, resume=True).path
    assert_equal(run, folder / "all")
    assert_equal(folder / "begun", folder / "all")
    for each in (run, folder / "begun"):
        assert "began otherwise (training.devices: " in (each / "log.txt").read_text()


def test_batches_of_voxels_are_made_for_so_many_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = (tmp_path / "data", "name=voxels", "training.batch_voxels=300")
    interrupt_at(monkeypatch, "step 1")
    with pytest.raises(Interrupted):
        run_transfer(separable(*given), tmp_path)
    with pytest.raises(InputError, match=r"another config .*training.devices: 1 -> 2"):
        standing(Run(tmp_path / "voxels"), separable(*given, "training.devices=2"), resume=True, overwrite=False)


def test_one_process_has_nothing_to_divide(tmp_path: Path) -> None:
    run = run_transfer(tiny("training.sharding=blocks", "training.epochs=1"), tmp_path).path
    assert "warning: training.sharding = blocks divides nothing" in (run / "log.txt").read_text()


@pytest.mark.parametrize("setting", ["ema = 0.9", "swa = 1", "graphs = auto", "precision = 16-mixed"])
def test_what_needs_a_whole_network(setting: str) -> None:
    with pytest.raises(InputError, match=rf"training.sharding = blocks .* training.{setting} needs; leave one"):
        tiny("training.sharding=blocks", f"training.{setting.replace(' ', '')}")


def test_whole_networks_are_moved_to_the_device() -> None:
    strategy, layer = sharding.strategy(2), torch.nn.Linear(1, 1)
    strategy.parallel_devices = [torch.device("meta")]
    strategy.module_to_device(layer)
    assert layer.weight.is_meta


def test_a_single_number_cannot_be_divided() -> None:
    network = torch.nn.Module()
    network.gain = torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(InputError, match=r"first axis, and gain has none; set training.sharding to none"):
        sharding.by_block(network, None)  # type: ignore[arg-type]


def test_a_torch_that_finds_no_tensors_in_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.12.1+cu128")
    with pytest.raises(InputError, match=r"needs torch 2.13, found 2.12.1"):
        sharding.strategy(2)
