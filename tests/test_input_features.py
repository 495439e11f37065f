"""Normals, height and colour from config to prediction, with a head that is more than a linear layer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import tiny
from typer.testing import CliRunner

import image2point as i2p
from image2point.cli import app
from image2point.datasets.files import import_open3d
from image2point.errors import InputError
from image2point.experiments.evaluate import evaluate_run
from image2point.jobs.reuse import predict
from image2point.jobs.transfer import run_transfer

SETTINGS = (
    "data.features=[normals, xyz, height]",
    "data.scaling={height: 0.5}",
    "data.up=z",
    'network.axis={layer1.*: x, "*": z}',
    "training.epochs=1",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, three shapes in batches of two and one, whose head has a batch norm."""
    head = ("network.head=batchnorm", "training.batch_size=2", "data.shots=1", "finetune.policy=io")
    return run_transfer(tiny(*SETTINGS, *head), tmp_path_factory.mktemp("features")).path


def test_a_run_stores_what_it_was_told_and_gives_it_back(run: Path) -> None:
    network = json.loads((run / "summary.json").read_text())["network"]
    assert network["head"] == "batchnorm" and network["axis"] == {"layer1.*": "x", "*": "z"}
    options = json.loads((run / "lifting.json").read_text())["options"]
    assert options["head"] == "batchnorm" and options["in_channels"] == 7
    net = i2p.load(run)
    assert "fc.norm.running_var" in net.state_dict() and net.lifting.options.axis == network["axis"]
    assert evaluate_run(run).agrees
    page = CliRunner().invoke(app, ["report", str(run), "--out", str(run / "page.html")])
    assert page.exit_code == 0, page.output
    assert "x for layer1.*, z for *" in (run / "page.html").read_text()


def test_prediction_takes_normals_from_the_file(run: Path, tmp_path: Path) -> None:
    open3d = import_open3d()
    rng = np.random.default_rng(0)
    points, normals = rng.uniform(-1, 1, (60, 3)), rng.normal(size=(60, 3))
    shares = []
    for number, sign in enumerate((1, -1)):
        cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
        cloud.normals = open3d.utility.Vector3dVector(sign * normals)
        path = tmp_path / f"{number}.ply"
        open3d.io.write_point_cloud(str(path), cloud)
        shares.append(predict(run, [path])[0].probabilities)
    assert shares[0] != shares[1]
    np.save(tmp_path / "bare.npy", points)
    with pytest.raises(InputError, match=r"bare\.npy: the input feature normals needs a cloud with normals"):
        predict(run, [tmp_path / "bare.npy"])


def test_a_network_of_estimated_normals_takes_any_file(tmp_path: Path) -> None:
    settings = ("data.normals=estimated", "training.epochs=0", "collapse.final=[]", "collapse.every=0")
    place = run_transfer(tiny(*SETTINGS, *settings), tmp_path).path
    points = np.random.default_rng(0).uniform(-1, 1, (60, 3))
    np.save(tmp_path / "bare.npy", points)
    assert sum(predict(place, [tmp_path / "bare.npy"])[0].probabilities) == pytest.approx(1)


def test_what_the_clouds_lack_is_found_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"synthetic/train cloud 0: the input feature colour needs .* with colours"):
        run_transfer(tiny("data.features=[xyz, colour]"), tmp_path)
    assert not (tmp_path / "tiny").exists()


def test_height_needs_to_know_what_is_up() -> None:
    with pytest.raises(InputError, match=r"data\.features has height.* set data\.up to x, y or z"):
        tiny("data.features=[height]")


def test_the_norm_of_the_head_has_followed_the_scores(run: Path) -> None:
    state = i2p.load(run).state_dict()
    # Three clouds in batches of two and one: the batch of one is not counted.
    assert int(state["fc.norm.num_batches_tracked"]) == 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values() if tensor.is_floating_point())
