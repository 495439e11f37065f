"""What trackers are told of a run: each row once, in one run of theirs, however often ours is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger
from tiny_runs import interrupt_at, rows, run_transfer, separable, tiny

from image2point.errors import InputError
from image2point.runs import Run
from image2point.training import loop, trackers
from image2point.training.interrupt import Interrupted

REAL = ("mlflow", "trackio", "wandb")


class Recorder:
    """Stands where a tracker would, and keeps what it is told."""

    told: list[Any]

    def __init__(self, config: Any, known: str | None) -> None:
        self.version = known or "first"
        Recorder.told.append(("open", known))

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        Recorder.told.append(step)

    def finalize(self, status: str) -> None:
        Recorder.told.append(status)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    Recorder.told = []
    monkeypatch.setattr(trackers, "find_spec", lambda name: True)
    monkeypatch.setitem(trackers._OPEN, "wandb", Recorder)
    return Recorder


def test_a_logger_of_lightning_gets_the_rows_of_metrics_csv(
    tmp_path: Path, recorded: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Saving(CSVLogger):
        def finalize(self, status: str) -> None:
            self.save()

    monkeypatch.setitem(trackers._OPEN, "wandb", lambda config, known: Saving(tmp_path, name="csv", version=known))
    run = run_transfer(tiny("training.trackers=[wandb]"), tmp_path).path
    (written,) = (tmp_path / "csv").iterdir()
    ours, theirs = rows(run), rows(written)
    assert [row["step"] for row in theirs] == [row["epoch"] for row in ours] == ["0", "1", "2", "3"]
    for name in ("train_loss", "validation_loss", "learning_rate"):
        assert [row[name] for row in theirs] == [row[name] for row in ours]


@pytest.mark.parametrize("place", ["step 4", "between"])
def test_a_resumed_run_goes_on_in_the_run_of_the_tracker(
    place: str, tmp_path: Path, recorded: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = separable(tmp_path / "data", "training.trackers=[wandb]", "training.checkpoint_every_minutes=0")
    with monkeypatch.context() as patch:
        if place == "between":  # a row was told, and the checkpoint does not know: the epoch is closed again

            def dies(*_: Any, **__: Any) -> None:
                raise RuntimeError

            write, calls = loop.close_epoch, []

            def closing(job: Any, state: Any, epoch: int) -> None:
                write(job, state, epoch)
                calls.append(epoch)
                if epoch == 2:
                    dies()

            patch.setattr(loop, "close_epoch", closing)
            with pytest.raises(RuntimeError):
                run_transfer(config, tmp_path)
        else:
            interrupt_at(patch, place)
            with pytest.raises(Interrupted):
                run_transfer(config, tmp_path)
    run = run_transfer(config, tmp_path, resume=True)
    told = recorded.told
    assert [each for each in told if isinstance(each, int)] == [0, 1, 2, 3]
    assert [each for each in told if isinstance(each, tuple)] == [("open", None), ("open", "first")]
    assert [each for each in told if isinstance(each, str)] == ["failed", "success"]
    assert json.loads(run.trackers.read_text("utf-8")) == {"wandb": {"id": "first", "epoch": 3}}


@pytest.mark.parametrize("text", ["[", "[1]", '{"wandb": {"epoch": 3}}', '{"wandb": {"id": "a", "epoch": "last"}}'])
def test_a_damaged_memory_of_trackers_is_named(text: str, tmp_path: Path, recorded: type[Recorder]) -> None:
    run = Run(tmp_path)
    run.trackers.write_text(text)
    with pytest.raises(InputError, match=r"trackers\.json: expected an id and an epoch for each tracker"):
        trackers.Trackers(run, tiny("training.trackers=[wandb]"), print).begin()


def test_a_run_outlives_its_tracker(tmp_path: Path, recorded: type[Recorder], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Recorder, values: dict[str, float], step: int) -> None:
        raise OSError("the server is gone")

    monkeypatch.setattr(Recorder, "log_metrics", fails)
    run = run_transfer(tiny("training.trackers=[wandb]"), tmp_path)
    log = run.log.read_text("utf-8")
    assert log.count("warning: wandb takes no more (") == 1 and "the server is gone" in log
    assert run.finished and len(rows(run.path)) == 4


def test_a_tracker_that_does_not_open_ends_the_run_before_training(
    tmp_path: Path, recorded: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(config: Any, known: Any) -> None:
        raise PermissionError("not logged in")

    with monkeypatch.context() as patch:
        patch.setitem(trackers._OPEN, "wandb", closed)
        with pytest.raises(InputError, match=r"wandb cannot be opened: .*not logged in.*--resume"):
            run_transfer(tiny("training.trackers=[wandb]"), tmp_path)
    assert not (tmp_path / "tiny/metrics.csv").exists()
    assert run_transfer(tiny(), tmp_path, resume=True).finished  # the setting is free to change


def test_a_missing_package_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"the package mlflow is not installed: pip install 'image2point\[mlflow\]'"):
        run_transfer(tiny("training.trackers=[mlflow]"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_tracker_is_told_by_the_config() -> None:
    with pytest.raises(InputError, match=r"training.trackers.*'mlflow', 'trackio' or 'wandb'"):
        tiny("training.trackers=[neptune]")


def test_trials_of_a_learning_rate_are_not_told(tmp_path: Path, recorded: type[Recorder]) -> None:
    choose = "choose={lr: [0.1, 0.05], epochs: 1}"
    run_transfer(separable(tmp_path / "data", choose, "training.trackers=[wandb]"), tmp_path)
    assert recorded.told == [("open", None), 0, 1, 2, 3, "success"]


@pytest.mark.parametrize("name", REAL)
def test_the_trackers_themselves(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted and resumed, with each tracker on this machine alone."""
    package = pytest.importorskip(name, reason=f"pip install 'image2point[{name}]' brings it")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = separable(tmp_path / "data", f"training.trackers=[{name}]")
    with monkeypatch.context() as patch:
        interrupt_at(patch, "step 4")
        with pytest.raises(Interrupted):
            run_transfer(config, tmp_path)
    run = run_transfer(config, tmp_path, resume=True)
    known = json.loads(run.trackers.read_text("utf-8"))[name]
    assert known["epoch"] == 3
    if name == "mlflow":
        client = package.tracking.MlflowClient()
        found = client.search_runs([client.get_experiment_by_name(trackers.PROJECT).experiment_id])
        assert [(each.info.run_id, each.info.status) for each in found] == [(known["id"], "FINISHED")]
        assert found[0].data.params["network/arch"] == "test_resnet"
        history = client.get_metric_history(known["id"], "train_loss")
        assert [each.step for each in history] == [1, 2, 3]
    elif name == "trackio":
        assert [each.name for each in package.Api().runs(trackers.PROJECT) if each.name == known["id"]] == [known["id"]]
    else:  # its file is for its own program to read
        assert {each.name.split("-")[-1] for each in (tmp_path / "wandb").glob("offline-run-*")} == {known["id"]}
