"""What changed under an interrupted run is noticed, and whatever a kill leaves is brought to the same end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from tiny_runs import rows, run_transfer, tiny

from image2point.errors import InputError
from image2point.experiments.evaluate import evaluate_run
from image2point.experiments.measure import open_subject
from image2point.jobs.lifecycle import commit_of
from image2point.training.interrupt import Interrupted
from image2point.training.journal import Journal


def assert_same(run: Path, whole: Path) -> None:
    assert rows(run) == rows(whole)
    ours, theirs = load_file(run / "weights.safetensors"), load_file(whole / "weights.safetensors")
    assert all((ours[name] == theirs[name]).all() for name in theirs)


@pytest.mark.parametrize("change", ["edited", "edited behind a link", "removed", "renamed", "touched"])
def test_a_change_of_the_data_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """A file that only has another time is the same; anything else stops the run."""
    rng = np.random.default_rng(0)
    for name, flat in (("flat", 0.2), ("round", 1.0)):
        for split, count in (("train", 3), ("test", 2)):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                np.savetxt(folder / f"{number}.xyz", rng.normal(size=(60, 3)) * [1, 1, flat])
    if change == "edited behind a link":
        (tmp_path / "data/train/flat").rename(tmp_path / "store")
        (tmp_path / "data/train/flat").symlink_to(tmp_path / "store")
    config = tiny("data.name=folder", f"data.root={tmp_path / 'data'}", "data.validation=0", "training.epochs=1")
    whole = run_transfer(config, tmp_path / "whole").path
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Journal, "step", lambda *_: signal.raise_signal(signal.SIGTERM))
        run_transfer(config, tmp_path)
    first = tmp_path / "data/train/flat/0.xyz"
    if change.startswith("edited"):
        np.savetxt(first, rng.normal(size=(60, 3)))
    elif change == "removed":
        first.unlink()
    elif change == "renamed":
        for split in ("train", "test"):
            (tmp_path / "data" / split / "flat").rename(tmp_path / "data" / split / "zebra")
    else:
        os.utime(first, (1e9, 1e9))
        assert_same(run_transfer(config, tmp_path, resume=True).path, whole)
        return
    with pytest.raises(InputError, match=r"the data of .*tiny changed since it was begun"):
        run_transfer(config, tmp_path, resume=True)


def test_more_clouds_than_the_run_had_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A fifth of each class is the test set: with more files another fifth, which the run was trained on."""
    rng = np.random.default_rng(0)

    def write(numbers: range) -> None:
        for name in ("flat", "round"):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            for number in numbers:
                np.save(tmp_path / "data" / name / f"{number}.npy", rng.normal(size=(60, 3)))

    write(range(6))
    config = tiny("data.name=folder", f"data.root={tmp_path / 'data'}", "data.validation=0", "training.epochs=1")
    run = run_transfer(config, tmp_path).path
    assert evaluate_run(run).doubt == "" and open_subject(run) and not caplog.text
    write(range(6, 12))
    found = evaluate_run(run)
    assert found.doubt and f"warning: {found.doubt}" == found.lines[0]
    open_subject(run)
    assert "the data has other clouds, labels or classes than" in caplog.text
    caplog.clear()
    open_subject(run, ["data.shots=2"])
    assert not caplog.text


def test_other_threads_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Journal, "step", lambda *_: signal.raise_signal(signal.SIGTERM))
        run_transfer(tiny("training.epochs=1"), tmp_path)
    stored = json.loads((tmp_path / "tiny/fingerprint.json").read_text())
    stored["environment"]["threads"] = 64
    del stored["environment"]["commit"]  # as earlier versions wrote it
    (tmp_path / "tiny/fingerprint.json").write_text(json.dumps(stored))
    run_transfer(tiny("training.epochs=1"), tmp_path, resume=True)
    said = capsys.readouterr().out
    assert "warning: threads changed since the run was begun, 64 -> 1: results may differ" in said
    assert "commit" not in said


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_the_commit_is_that_of_the_checkout_that_keeps_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        named = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *named, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    kept, installed = tmp_path / "code/kept.py", tmp_path / ".venv/installed.py"
    for file in (kept, installed):
        file.parent.mkdir()
        file.write_text("1\n")
    assert commit_of(kept) is None
    git("init")
    git("add", "code")
    git("commit", "-m", "one")
    git("tag", "v1")
    assert commit_of(kept) == git("rev-parse", "HEAD")
    assert commit_of(installed) is None
    kept.write_text("2\n")
    assert commit_of(kept) == git("rev-parse", "HEAD") + "+changes"
    monkeypatch.setenv("PATH", "")
    assert commit_of(kept) is None


def test_the_page_is_written_before_the_run_counts_as_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise InputError("cannot write the report: no space left")

    config = tiny("training.epochs=1", "report.html=true")
    with monkeypatch.context() as patch, pytest.raises(InputError, match="no space left"):
        patch.setattr("image2point.report.page.write_page", full)
        run_transfer(config, tmp_path)
    assert not (tmp_path / "tiny/summary.json").exists()
    run = run_transfer(config, tmp_path, resume=True)
    assert run.report.is_file() and run.finished and not run.checkpoint.exists()


@pytest.mark.parametrize("left", [(), ("log.txt",), ("checkpoint", ".metrics.csv.x.part")])
def test_what_a_killed_process_left_of_a_directory_is_begun_anew(tmp_path: Path, left: tuple[str, ...]) -> None:
    (tmp_path / "tiny").mkdir()
    for name in left:
        (tmp_path / "tiny" / name).touch()
    whole = run_transfer(tiny("training.epochs=1"), tmp_path / "whole").path
    assert_same(run_transfer(tiny("training.epochs=1"), tmp_path, resume=True).path, whole)
    assert not list((tmp_path / "tiny").glob(".*"))


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.tex").touch()
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError, match="is not a run directory"):
            run_transfer(tiny(), tmp_path, **options)
    assert (tmp_path / "tiny" / "thesis.tex").exists()
