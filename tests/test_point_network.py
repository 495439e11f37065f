"""The peer of scripts/point_network.py: centres, neighbours, and where it is installed PyTorch Geometric."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import point_network  # noqa: E402

from image2point.datasets.recipe import Recipe  # noqa: E402
from image2point.datasets.synthetic import SyntheticShapes  # noqa: E402

SETTINGS = [
    "data.name=synthetic", "data.validation=0", "data.shots=2", "data.synthetic.points=64", "data.classes=40",
    "data.synthetic.train_per_class=5", "data.synthetic.test_per_class=2", "data.synthetic.classes=[box, cone, torus]",
    "training.threads=1", "training.batch_size=4", "choose={lr: [0.1, 0.2], epochs: [1, 2], clouds: 2}",
]  # fmt: skip


def test_each_centre_is_the_farthest_from_those_before() -> None:
    line = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [10, 0, 0], [6, 0, 0]])
    assert point_network.farthest(line, 4).tolist() == [0, 3, 4, 2]


def test_clouds_of_a_batch_keep_to_themselves() -> None:
    shapes = SyntheticShapes("train", samples_per_class=1, points=200, classes=("box", "cone"))
    clouds = point_network.Clouds(shapes, Recipe(voxel_size=0.1))
    points, of_cloud, levels = clouds.batch(np.array([1, 0]))
    owner = torch.arange(2).repeat_interleave(200)
    assert len(points) == 400 and of_cloud.bincount().tolist() == [point_network.CENTRES[-1]] * 2
    for count, (centres, edges) in zip(point_network.CENTRES, levels, strict=True):
        assert len(centres) == 2 * count and edges.shape == (2, 2 * count * point_network.NEIGHBOURS)
        below, owner = owner, owner[centres]
        assert torch.equal(below[edges[0]], owner[edges[1]])
        distance = (points[edges[0]] - points[centres][edges[1]]).norm(dim=1).view(-1, point_network.NEIGHBOURS)
        assert (distance[:, 0] == 0).all() and (distance.diff(dim=1) >= -1e-6).all()
        points = points[centres]


def test_a_seed_is_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch_geometric")
    config = ROOT / "configs" / "ablations" / "_ten_shots.yaml"
    asked = [str(config), *SETTINGS, "--seeds", "1", "2", "--epochs", "2", "--lr", "0.001", "0.003"]
    monkeypatch.setattr(sys, "argv", ["point_network.py", *asked, "--rows", str(tmp_path)])
    point_network.main()
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["seed"] for row in rows] == [1, 2] and all(0 <= row["test_accuracy"] <= 1 for row in rows)
    monkeypatch.setattr(point_network, "train", None)
    point_network.main()
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
