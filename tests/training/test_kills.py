"""kill -9 at every write and at random moments: the same command comes to the same end, byte for byte.

Each scenario is killed at each of its writes: when a folder is made, a file opened (it is empty then), flushed (half of
it is there), renamed or removed. Of writes that repeat, as at every checkpoint, it is one or another. In these
processes the clock stands still, so results are compared with times and all. Not compared are `log.txt`, which
tells of sessions, and the files of `.sweep`, which belong to one call each; of TensorBoard's files, the curves in them.
"""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from killing import SAID, WRITES, Nursery, writes
from tiny_runs import VALUES

RANDOM = 8
"""Kills of each scenario at random moments."""

Command = tuple[str, ...]
TRANSFER: Command = ("transfer", "tiny.yaml", "--runs", "runs")
CHOOSE: Command = (*TRANSFER, "finetune.policy=layer:auto", "finetune.candidates=[layer1.0]", "finetune.probe_epochs=1")
PRETRAIN: Command = ("pretrain", "images.yaml", "--runs", "runs")
SWEEP: Command = ("sweep", "grid.yaml", "--runs", "runs", "--executor", "inline")
PREPARE: Command = ("data", "prepare", "folder", "clouds", "prepared")
REPORT: Command = ("report", "runs/tiny", "runs/other", "--out", "page.html", "--figures", "figures")


@dataclass(frozen=True)
class Scenario:
    """`before` makes what is there when `command` begins; `again` is what a user gives after a kill.

    least: how many kills there are at least, with those at random moments.
    """

    command: Command
    again: Command
    least: int
    before: tuple[Command, ...] = ()
    interrupted: bool = False
    """Whether a run is there that was killed after its first epoch."""


SCENARIOS = {
    "transfer": Scenario(TRANSFER, (*TRANSFER, "--resume"), 40),
    "transfer --resume": Scenario((*TRANSFER, "--resume"), (*TRANSFER, "--resume"), 30, interrupted=True),
    "transfer --overwrite": Scenario(
        (*TRANSFER, "--overwrite"), (*TRANSFER, "--overwrite"), 40, ((*TRANSFER, "seed=5"),)
    ),
    "layer:auto": Scenario(CHOOSE, (*CHOOSE, "--resume"), 40),
    "sweep": Scenario(SWEEP, SWEEP, 40),
    "pretrain": Scenario(PRETRAIN, (*PRETRAIN, "--resume"), 30),
    "prepare": Scenario(PREPARE, PREPARE, 12),
    "prepare --overwrite": Scenario((*PREPARE, "--overwrite"), (*PREPARE, "--overwrite"), 20, (PREPARE,)),
    "report": Scenario(REPORT, REPORT, 12, (TRANSFER, (*TRANSFER, "name=other", "seed=5"))),
}
assert sum(scenario.least for scenario in SCENARIOS.values()) >= 200


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(inputs(tmp_path_factory.mktemp("first")), TRANSFER) as nursery:
        yield nursery


def inputs(folder: Path) -> Path:
    """The folder with the configs and data of all scenarios: few steps, but everything that a run can write."""
    folder.mkdir(exist_ok=True)
    training = {**VALUES["training"], "epochs": 2, "batch_size": 9, "checkpoint_every_minutes": 0}
    data = {**VALUES["data"], "validation": 0.34}
    data["synthetic"] = {**data["synthetic"], "train_per_class": 3}
    collapse = {"every": 0, "at": [1], "layers": ["layer1"]}
    tiny = {**VALUES, "training": training, "data": data, "collapse": collapse, "report": {"html": True, "examples": 2}}
    grid = {**tiny, "name": "grid", "report": {"html": False}, "sweep": [{"seed": [1, 2]}]}
    images = {"size": 16, "train_per_class": 2, "test_per_class": 2, "class_split": {"novel": 21, "seed": 1}}
    network = {"arch": "test_resnet"}
    pretrain = {"name": "images", "network": network, "images": images, "training": training, "collapse": collapse}
    for name, values in (("tiny", tiny), ("grid", grid), ("images", pretrain)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("flat", "round"):
            (folder / "clouds" / split / label).mkdir(parents=True)
            for number in range(2):
                np.save(folder / "clouds" / split / label / f"{number}.npy", rng.normal(size=(20, 3)).astype("f4"))
    return folder


def prepared(nursery: Nursery, folder: Path, scenario: Scenario) -> Path:
    """A folder in which the scenario may begin."""
    inputs(folder)
    for command in scenario.before:
        assert nursery.run(folder, command) == 0, (folder / SAID).read_text()
    if scenario.interrupted:
        assert nursery.run(folder, TRANSFER) == 0
        tables = [
            at for at, line in enumerate(writes(folder), start=1) if line == "os.rename /runs/tiny/.metrics.csv.part"
        ]
        shutil.rmtree(folder / "runs")
        assert nursery.run(folder, TRANSFER, write=tables[1] + 1) == -9
        assert list((folder / "runs/tiny/checkpoint").glob("epoch-*"))
    return folder


def found(folder: Path) -> dict[str, object]:
    """What lies below a folder, by path: the content of files; of TensorBoard's files together their curves."""
    content: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name in (SAID, WRITES, "log.txt") or "/.sweep/" in name or "tfevents" in path.name:
            continue
        if path.name == "tensorboard":
            content[name] = curves(path)
        else:
            content[name] = path.read_bytes() if path.is_file() else None
    return content


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def one_of_each(lines: list[str], rng: np.random.Generator) -> list[int]:
    """Where each write happens, counted from 1; of those that repeat, one is drawn."""
    places: dict[str, list[int]] = {}
    for at, line in enumerate(lines, start=1):
        places.setdefault(line, []).append(at)
    return sorted(int(rng.choice(found)) for found in places.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_whatever_a_kill_leaves_comes_to_the_same_end(tmp_path: Path, nursery: Nursery, name: str) -> None:
    scenario, rng = SCENARIOS[name], np.random.default_rng(list(SCENARIOS).index(name))
    begun = prepared(nursery, tmp_path / "begun", scenario)
    whole = Path(shutil.copytree(begun, tmp_path / "whole"))
    clock = time.monotonic()
    assert nursery.run(whole, scenario.command) == 0, (whole / SAID).read_text()
    seconds, expected = time.monotonic() - clock, found(whole)
    attempts: list[dict[str, Any]] = [{"write": at} for at in one_of_each(writes(whole), rng)]
    attempts += [{"moment": float(moment)} for moment in rng.uniform(0, seconds, RANDOM)]
    kills, faults = 0, []
    for attempt in attempts:
        folder = Path(shutil.copytree(begun, tmp_path / "killed"))
        kills += nursery.run(folder, scenario.command, **attempt) == -9
        at = writes(folder)[-1:]
        ended = nursery.run(folder, scenario.again)
        left = found(folder)
        if left != expected:
            other = [path for path in {*left, *expected} if left.get(path, 0) != expected.get(path, 0)]
            faults.append(f"{attempt} {at}: exit {ended}, {other}: {(folder / SAID).read_text().splitlines()[-1:]}")
        shutil.rmtree(folder)
    print(f"{name}: {kills} kills in {time.monotonic() - clock:.0f} s, {len(faults)} faults", flush=True)
    assert not faults, "\n".join(faults)
    assert kills >= scenario.least


@pytest.mark.slow
def test_a_closed_terminal_leaves_a_checkpoint(tmp_path: Path) -> None:
    """The run leads the session of a terminal whose other end goes away in its first epoch.

    Tests that run under nohup ignore the hang-up, and so would their children.
    """
    config = inputs(tmp_path / "begun") / "tiny.yaml"
    arguments = ["transfer", str(config), "training.epochs=100000", "training.checkpoint_every_minutes=1000"]
    program = (
        "import fcntl, signal, sys, termios; from image2point.cli import main; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "signal.signal(signal.SIGHUP, signal.SIG_DFL); "
        f"sys.argv[1:] = {[*arguments, '--runs', str(tmp_path)]!r}; main()"
    )
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        while not (tmp_path / "tiny/metrics.csv").exists():
            assert process.poll() is None
            os.read(ours, 4096)
        os.close(ours)
        try:
            assert process.wait(60) != 0
        finally:
            process.kill()
    assert list((tmp_path / "tiny/checkpoint").glob("epoch-*-step-*"))
    assert "Traceback" not in (tmp_path / "tiny/log.txt").read_text()
