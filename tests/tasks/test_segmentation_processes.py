"""Two processes segment as one does at the same global batch, to rounding."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rooms import Rooms, segmenting
from tiny_runs import rows, run_transfer

from image2point.runs import Run


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """A whole run, from files of scenes, in double precision; batches of three scenes, so that shares are unequal."""
    for split, rooms in (("train", Rooms("train", 5, 0)), ("test", Rooms("test", 3, 1))):
        for number in range(len(rooms)):
            scene = rooms[number]
            (tmp_path / "data" / split).mkdir(parents=True, exist_ok=True)
            np.savez(tmp_path / "data" / split / f"{number}.npz", points=scene.points, label=scene.labels)
    settings = ("data.name=scenes", f"data.root={tmp_path / 'data'}", "data.validation=0.2", "training.epochs=1",
                "data.labels={-1: ignore, 0: floor, 1: wall, 2: ball}", "training.precision=64", "finetune.policy=all",
                "network.stem=paper", "training.class_weights=effective_number", "collapse.every=1",
                "data.crop={size: 3.0, per_scene: 2}")  # fmt: skip
    one = run_transfer(segmenting("name=one", *settings), tmp_path)
    config = tmp_path / "two.yaml"
    config.write_text(segmenting("name=two", "training.devices=2", *settings).to_yaml())
    command = [sys.executable, "-m", "image2point", "transfer", str(config), "--runs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = rows(one.path), rows(tmp_path / "two")
    assert len(first) == len(second) == 2
    for a, b in zip(first, second, strict=True):
        for name in a:
            assert (a[name] == "") == (b[name] == ""), name
            if a[name]:
                assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-6, abs=1e-9), name
    finals = [each.read_summary()["final"] for each in (one, Run(tmp_path / "two"))]
    assert finals[0]["points"] == finals[1]["points"] and finals[0]["voxels"] == finals[1]["voxels"]
