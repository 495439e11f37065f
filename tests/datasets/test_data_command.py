"""`image2point data`: list, info, prepare and verify, for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path

import layouts
import numpy as np
from typer.testing import CliRunner, Result

from image2point.cli import app
from image2point.datasets import registry


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_list_and_info() -> None:
    listed = call("list")
    assert listed.exit_code == 0 and [line.split()[0] for line in listed.stdout.splitlines()] == list(registry.DATASETS)
    assert set(json.loads(call("list", "--json", "-").stdout)) == set(registry.DATASETS)
    for name, dataset in registry.DATASETS.items():
        text = call("info", name).stdout
        assert dataset.title in text and dataset.terms in text and dataset.layout in text
        assert json.loads(call("info", name, "--json", "-").stdout)["citation"] == dataset.citation
    wrong = call("info", "modelnet41")
    assert wrong.exit_code == 2 and wrong.stderr.startswith("error: there is no dataset 'modelnet41'")


def test_prepare_verify_and_train_on_it(tmp_path: Path) -> None:
    root, out = layouts.modelnet_off(tmp_path / "ModelNet10"), tmp_path / "out"
    done = call("prepare", "modelnet_off", root, out, "--points", 64, "--json", tmp_path / "prepared.json")
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "prepared.json").read_text())
    assert facts["clouds"] == {"train": 6, "test": 4} and facts["skipped"] == []
    assert "6 train, 4 test clouds" in done.stdout
    again = call("prepare", "modelnet_off", root, out)
    assert again.exit_code == 2 and "exists already" in again.stderr
    report = tmp_path / "report.json"
    for name, place in (("modelnet_off", root), ("prepared", out)):
        assert (
            call("verify", name, place, "--json", report, *(["--points", 64] if place == root else [])).exit_code == 0
        )
        found = json.loads(report.read_text())
        assert found["splits"]["train"]["per_class"] == {"chair": 3, "night_stand": 3} and not found["problems"]
    assert registry.load_dataset("prepared", out).train[0].normals is not None


def test_bad_rows_are_listed_where_that_is_asked_for(tmp_path: Path) -> None:
    root = layouts.folder(tmp_path / "clouds")
    np.save(root / "train" / "table" / "nan.npy", np.full((4, 3), np.nan))
    layouts.write(root / "test" / "table" / "notes.doc", "x")
    stopped = call("prepare", "folder", root, tmp_path / "out")
    assert stopped.exit_code == 2 and "notes.doc: unsupported suffix '.doc'" in stopped.stderr
    done = call("prepare", "folder", root, tmp_path / "out", "--skip-bad")
    assert done.exit_code == 0, done.output
    assert "skipped: 2" in done.stdout and "nan.npy: all of its 4 points are NaN" in done.stdout
    checked = call("verify", "folder", root)
    assert checked.exit_code == 2 and "problems: 2" in checked.stdout
    assert len(checked.stderr.splitlines()) == 1 and "2 problems, the first" in checked.stderr


def test_duplicates_are_notes_unless_strict(tmp_path: Path) -> None:
    root = layouts.folder(tmp_path / "clouds")
    (root / "test" / "table" / "copy.npz").write_bytes((root / "train" / "table" / "a.npz").read_bytes())
    plain, strict = call("verify", "folder", root), call("verify", "folder", root, "--strict")
    assert plain.exit_code == 0 and "the same points twice: folder/train" in plain.stdout
    assert strict.exit_code == 2 and "a.npz" in strict.stderr and "copy.npz" in strict.stderr
