"""Bad input ends in one line and exit code 2, with nothing lost and nothing half-written."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pytest
from tiny_runs import tiny
from typer.testing import CliRunner, Result

from image2point import files
from image2point.cli import app
from image2point.jobs.transfer import run_transfer
from image2point.training import checkpoint


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result: Result, *words: str) -> None:
    """The command failed as bad input does, in one line that has these words."""
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny("training.epochs=1").to_yaml())
    return path


@pytest.fixture
def modelnet(tmp_path: Path) -> Path:
    """A ModelNet folder of two classes' clouds, small but whole."""
    root = tmp_path / "modelnet"
    root.mkdir()
    names = [f"class_{number:02}" for number in range(40)]
    (root / "shape_names.txt").write_text("\n".join(names))
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        (root / f"{split}_files.txt").write_text(f"ply_data_{split}0.h5\n")
        with h5py.File(root / f"ply_data_{split}0.h5", "w") as file:
            file["data"] = rng.uniform(-1, 1, (40, 8, 3)).astype(np.float32)
            file["label"] = np.arange(40, dtype=np.uint8)[:, None]
    return root


def on_modelnet(config: Path, root: Path, *overrides: str) -> Result:
    runs = config.parent / "runs"
    result = call(
        "transfer", config, "data.name=modelnet", f"data.root={root}", "data.validation=0", *overrides, "--runs", runs
    )
    assert result.exit_code == 0 or not runs.exists()  # nothing is begun before the data were found good
    return result


def test_one_cloud_per_class_and_one_point_per_cloud_train(config: Path, modelnet: Path) -> None:
    result = on_modelnet(config, modelnet, "data.points=1", "training.batch_size=8")
    assert result.exit_code == 0, result.output


def test_missing_root(config: Path, tmp_path: Path) -> None:
    refused(on_modelnet(config, tmp_path / "nowhere"), "nowhere", "expected a folder")


def test_missing_file(config: Path, modelnet: Path) -> None:
    (modelnet / "ply_data_test0.h5").unlink()
    refused(on_modelnet(config, modelnet), "ply_data_test0.h5", "missing")


def test_truncated_file(config: Path, modelnet: Path) -> None:
    path = modelnet / "ply_data_train0.h5"
    path.write_bytes(path.read_bytes()[:1000])
    refused(on_modelnet(config, modelnet), "ply_data_train0.h5", "truncated")


@pytest.mark.parametrize(
    ("data", "label", "words"),
    [
        (np.zeros((40, 8, 2), np.float32), np.arange(40, dtype=np.uint8), ("(N, P, 3)", "(40, 8, 2)")),
        (np.zeros((40, 8, 3), np.int32), np.arange(40, dtype=np.uint8), ("floating", "int32")),
        (np.zeros((40, 8, 3), np.float32), np.arange(40, dtype=np.float32), ("integer", "float32")),
        (np.zeros((39, 8, 3), np.float32), np.arange(40, dtype=np.uint8), ("39 rows", "40")),
        (
            np.zeros((40, 8, 3), np.float32),
            np.arange(40, dtype=np.uint8) + 18,
            ("lists 40 classes", "label 40", "row 22"),
        ),
        (np.full((40, 8, 3), np.nan, np.float32), np.arange(40, dtype=np.uint8), ("row 0", "NaN")),
    ],
    ids=["shape", "type", "label type", "lengths", "label outside", "NaN"],
)
def test_wrong_arrays(
    config: Path, modelnet: Path, data: np.ndarray, label: np.ndarray, words: tuple[str, ...]
) -> None:
    with h5py.File(modelnet / "ply_data_train0.h5", "w") as file:
        file["data"], file["label"] = data, label
    refused(on_modelnet(config, modelnet), "ply_data_train0.h5", *words)


def test_more_shots_than_there_are(config: Path, modelnet: Path) -> None:
    refused(on_modelnet(config, modelnet, "data.shots=2", "data.validation=null"), "2 shots", "class_00", "only 1")


def test_voxel_index_that_overflows(config: Path, tmp_path: Path) -> None:
    refused(
        call("transfer", config, "data.voxel_size=1e-10", "--runs", tmp_path),
        "synthetic/",
        "does not fit",
        "larger voxels",
    )


def test_a_batch_smaller_than_the_processes(tmp_path: Path) -> None:
    # Launching two processes is not needed to find out: the data decide.
    from types import SimpleNamespace

    import torch

    from image2point.errors import InputError
    from image2point.jobs.ingredients import load_splits, make_recipe
    from image2point.tasks.registry import TASKS
    from image2point.training.interrupt import StopSignal
    from image2point.training.loop import Job

    settings = tiny("training.batch_size=1")
    fabric: Any = SimpleNamespace(world_size=2, is_global_zero=False)
    with pytest.raises(InputError, match="1 clouds cannot be shared by 2 processes"):
        network: Any = torch.nn.Module()
        splits, recipe = load_splits(settings.data), make_recipe(settings)
        Job(fabric, TASKS["classification"], network, splits, recipe, settings, cast(Any, None), StopSignal())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["training.epohs=3"], ["training.epohs", "did you mean epochs?"]),
        (["training.warmup_epochs=1"], ["warmup_epochs = 1"]),
        (["finetune.policy=none"], ["finetune.policy = none"]),
        (["network.arch=resnet51"], ["resnet51"]),
        (["network.weights=file:nowhere.safetensors"], ["nowhere.safetensors"]),
        (["network.weights=magic"], ["magic"]),
        (["data.synthetic.classes=[box, boks]"], ["boks"]),
        (["seed"], ["key=value"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_bad_settings_begin_nothing(config: Path, tmp_path: Path, overrides: list[str], words: list[str]) -> None:
    refused(call("transfer", config, *overrides, "--runs", tmp_path / "runs"), *words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("transfer shapes.yaml resume", ["key=value without spaces", "did you mean --resume?"]),
        ("transfer shapes.yaml training.epochs = 3", ["'training.epochs'", "key=value without spaces"]),
        ("transfer shapes.yaml lr=0.1", ["did you mean training.lr"]),
        ("transfer shapes.yaml network.architecture=resnet18", ["did you mean arch?"]),
        ("transfer shapes.yaml network.arch=resnet-18", ["did you mean resnet18"]),
        ("transfer shapes.yaml network.weights=resnet18.pth", ["did you mean file:resnet18.pth?"]),
        ("transfer shapes.yaml network.weights=wheel:efficientnet_lite0", ["the network is test_resnet", "lift tf_"]),
        ("transfer shapes.yaml data.root=nowhere", ["no point-cloud data at nowhere", "looked for in"]),
        ("transfer shapes.yaml data.root=clouds/ball", ["no class folders", "put the 3 files in it into a folder"]),
        ("transfer shapes.yaml data.root=half", ["no folder test", "with the class folders directly in it"]),
        ("transfer shapes.yaml data.root=one", ["the one class ball"]),
        ("transfer shapes.yaml data.shots=50", ["50 shots", "'ball'", "only 2"]),
        ("transfer shapes.yaml training.accelerator=cuda", ["torch finds no GPU", "use cpu or auto"]),
        ("transfer shape.yaml", ["does not exist", "did you mean shapes.yaml?"]),
        ("transfer modelnet40/resnet50_ionorm", ["did you mean modelnet40/resnet50_io_norm?"]),
        ("transfer modelnet40/nothing_of_that_name", ["`image2point config --list`"]),
        ("transfer sweep.yaml", ["use `image2point sweep sweep.yaml`"]),
        ("sweep shapes.yaml", ["no section `sweep`", "`image2point transfer shapes.yaml`"]),
        ("sweep sweep.yaml", ["training.lrr", "did you mean lr?"]),
        ("predict shapes.yaml clouds/ball/0.npy", ["shapes.yaml is not a run directory but a file"]),
        ("evaluate old", ["old is not a run directory", "did you mean runs/old?"]),
        ("report runs", ["runs in it: runs/new, runs/old"]),
        ("report clouds", ["clouds is not a run directory"]),
    ],
)
def test_mistakes_of_a_first_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for folder in ("clouds/ball", "clouds/box", "half/train/ball", "half/train/box", "one/ball"):
        Path(folder).mkdir(parents=True)
        for number in range(3):
            np.save(f"{folder}/{number}.npy", np.random.default_rng(number).normal(size=(16, 3)))
    shapes = tiny("name=shapes", "data.name=folder", "data.root=clouds", "data.validation=0").to_yaml()
    Path("shapes.yaml").write_text(shapes)
    Path("sweep.yaml").write_text("base: shapes.yaml\nsweep:\n- training.lrr: [0.1, 0.2]\n")
    for name in ("old", "new"):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "config.yaml").write_text(shapes)
    refused(call(*command.split()), *words)
    assert sorted(path.name for path in Path("runs").iterdir()) == ["new", "old"]


def test_a_folder_of_clouds_is_predicted_file_by_file(tmp_path: Path) -> None:
    run = run_transfer(tiny("training.epochs=0", "finetune.policy=none"), tmp_path).path
    (tmp_path / "clouds").mkdir()
    refused(call("predict", run, tmp_path / "clouds"), "this is a folder", f"{tmp_path / 'clouds'}/*")


@pytest.mark.parametrize(("size", "words"), [("5", "too few for a shape"), ("0.0001", "touch no other"), ("0.3", "")])
def test_a_voxel_size_that_fits_no_cloud_is_told(tmp_path: Path, size: str, words: str) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(tiny("training.epochs=0", "finetune.policy=none", f"data.voxel_size={size}").to_yaml())
    result = call("transfer", config, "--runs", tmp_path)
    assert result.exit_code == 0
    told = [line for line in result.output.splitlines() if line.startswith("warning: a training cloud is")]
    assert len(told) == bool(words) and all(words in line for line in told)


def test_an_existing_run_is_not_touched(config: Path, tmp_path: Path) -> None:
    other = tmp_path / "runs/tiny"
    other.mkdir(parents=True)
    (other / "precious.txt").write_text("mine")
    refused(call("transfer", config, "--runs", tmp_path / "runs"), "exists already", "--resume", "--overwrite")
    refused(call("transfer", config, "--runs", tmp_path / "runs", "--overwrite"), "not a run directory")
    refused(call("transfer", config, "--runs", tmp_path / "runs", "--resume"), "not a run directory")
    refused(call("transfer", config, "--runs", tmp_path / "runs", "--resume", "--overwrite"), "one of them")
    assert [path.name for path in other.iterdir()] == ["precious.txt"]


def test_overwrite_replaces_a_run_only_when_the_input_is_good(config: Path, tmp_path: Path) -> None:
    assert call("transfer", config, "--runs", tmp_path).exit_code == 0
    before = (tmp_path / "tiny/weights.safetensors").read_bytes()
    refused(call("transfer", config, "network.weights=file:nowhere", "--runs", tmp_path, "--overwrite"), "nowhere")
    for late in (
        ("training.accumulate=4",),
        ("training.batch_voxels=2",),
        ("finetune.policy=layer:auto", "training.lr_by_role={depth: 2}"),
    ):
        assert call("transfer", config, *late, "--runs", tmp_path, "--overwrite").exit_code == 2
    assert (tmp_path / "tiny/weights.safetensors").read_bytes() == before and not list(tmp_path.glob(".*.old"))
    assert call("transfer", config, "seed=1", "--runs", tmp_path, "--overwrite").exit_code == 0
    assert (tmp_path / "tiny/weights.safetensors").read_bytes() != before and not list(tmp_path.glob(".*.old"))


def test_a_full_disk_in_training(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        refused(call("transfer", config, "--runs", tmp_path), "cannot write a checkpoint", "No space left", "--resume")
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", full)
        refused(call("transfer", config, "--runs", tmp_path, "--resume"), "No space left")
    assert not (tmp_path / "tiny/summary.json").exists()
    assert call("transfer", config, "--runs", tmp_path, "--resume").exit_code == 0


def test_a_folder_that_cannot_be_written(config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(call("transfer", config, "--runs", tmp_path / "file"), "cannot write the run directory")


def test_a_loss_that_explodes(config: Path, tmp_path: Path) -> None:
    refused(
        call("transfer", config, "training.lr=1e30", "training.epochs=3", "training.batch_size=4", "--runs", tmp_path),
        "the loss became", "training.lr",
    )  # fmt: skip


@pytest.mark.parametrize("verb", ["evaluate", "predict", "report"])
def test_runs_that_are_none(tmp_path: Path, verb: str) -> None:
    extra = ["cloud.npy"] if verb == "predict" else []
    refused(call(verb, tmp_path / "nowhere", *extra), "nowhere", "not a run directory")
    refused(call(verb, tmp_path, *extra), str(tmp_path))


def test_unfinished_runs_and_bad_files(tmp_path: Path) -> None:
    run = run_transfer(tiny("training.epochs=0", "finetune.policy=none"), tmp_path).path
    np.save(tmp_path / "nan.npy", np.full((3, 3), np.nan, np.float32))
    np.save(tmp_path / "empty.npy", np.empty((0, 3), np.float32))
    for name, word in (("nan.npy", "finite"), ("empty.npy", "empty"), ("none.npy", "none.npy"), ("a.doc", "a.doc")):
        refused(call("predict", run, tmp_path / name), name, word)
    weights = run / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    refused(call("evaluate", run), "weights.safetensors cannot be read")
    (run / "summary.json").unlink()
    refused(call("evaluate", run), "not a finished run", "--resume")


def test_what_a_killed_process_wrote_is_cleared_away_and_nothing_else(tmp_path: Path) -> None:
    """By the next that writes to the same file; what another process still writes stays."""
    left, other = tmp_path / ".a.txt.12345678.part", tmp_path / ".b.txt.12345678.part"
    for path in (left, other):
        path.touch()
    with files.writing(tmp_path / "a.txt") as ours, files.writing(tmp_path / "a.txt") as theirs:
        assert ours.exists() and theirs.exists()
        ours.write_text("first")
        theirs.write_text("second")
        assert not left.exists() and other.exists()
    assert (tmp_path / "a.txt").read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "a.txt"]


def test_json_gets_no_number_that_it_has_no_word_for() -> None:
    nan, inf = float("nan"), float("inf")
    assert files.finite({"a": [1.5, nan], "b": {"c": (-inf, 2)}, "d": "nan"}) == {
        "a": [1.5, None],
        "b": {"c": [None, 2]},
        "d": "nan",
    }
