"""`image2point data`: list, info, prepare and verify, for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path

import layouts
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from image2point.cli import app
from image2point.datasets import registry
from image2point.files import files_below


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


def test_files_behind_links_are_verified(tmp_path: Path) -> None:
    layouts.folder(tmp_path / "store")
    (tmp_path / "clouds").mkdir()
    for name in ("train", "test"):
        (tmp_path / "clouds" / name).symlink_to(tmp_path / "store" / name)
    whole, linked = (call("verify", "folder", tmp_path / name, "--json", "-") for name in ("store", "clouds"))
    files = [set(json.loads(each.stdout)["files"]) for each in (whole, linked)]
    assert files[0] and files[0] == files[1]
    (tmp_path / "store" / "test" / "above").symlink_to(tmp_path / "store")  # a ring
    assert {str(path.relative_to(tmp_path / "clouds")) for path in files_below(tmp_path / "clouds")} >= files[0]


def test_bad_rows_are_listed_where_that_is_asked_for(tmp_path: Path) -> None:
    root = layouts.folder(tmp_path / "clouds")
    np.save(root / "train" / "table" / "nan.npy", np.full((4, 3), np.nan))
    layouts.write(root / "test" / "table" / "notes.doc", "x")
    stopped = call("prepare", "folder", root, tmp_path / "out")
    assert stopped.exit_code == 2 and "notes.doc: unsupported suffix '.doc'" in stopped.stderr
    done = call("prepare", "folder", root, tmp_path / "out", "--skip-bad")
    assert done.exit_code == 0, done.output
    assert "skipped: 2" in done.stdout and "nan.npy: none of its 4 points are finite: all are NaN" in done.stdout
    checked = call("verify", "folder", root)
    assert checked.exit_code == 2 and "problems: 2" in checked.stdout
    assert len(checked.stderr.splitlines()) == 1 and "2 problems, the first" in checked.stderr


def test_duplicates_are_notes_unless_strict(tmp_path: Path) -> None:
    root = layouts.folder(tmp_path / "clouds")
    (root / "test" / "table" / "copy.npz").write_bytes((root / "train" / "table" / "a.npz").read_bytes())
    plain, strict = call("verify", "folder", root), call("verify", "folder", root, "--strict")
    assert plain.exit_code == 0 and "the same points twice: folder/train" in plain.stdout
    assert strict.exit_code == 2 and "a.npz" in strict.stderr and "copy.npz" in strict.stderr


def test_a_tilde_and_a_relative_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quoted, or from a script, no shell expands it; a relative root says which folder it was looked for in."""
    layouts.folder(tmp_path / "clouds")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert call("verify", "folder", "~/clouds").exit_code == 0
    assert call("prepare", "folder", "~/clouds", "~/out", "--json", "~/report.json").exit_code == 0
    assert call("verify", "prepared", "out").exit_code == 0 and (tmp_path / "report.json").is_file()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name in ("folder", "modelnet", "prepared", "shapenet"):
        lost = call("verify", name, "clouds")
        assert lost.exit_code == 2 and f"relative path, looked for in {tmp_path / 'elsewhere'}" in lost.stderr
    assert "a relative path" not in call("verify", "folder", "~/nowhere").stderr
    assert "~nobody-of-this-name/x" in call("verify", "folder", "~nobody-of-this-name/x").stderr


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    root = layouts.folder(tmp_path / "clouds")
    taken = layouts.write(tmp_path / "taken", "a file")
    for arguments in (
        ("verify", "folder", taken),
        ("verify", "folder", root, "--json", taken / "report.json"),
        ("verify", "folder", root, "--json", root),
        ("prepare", "folder", root, taken / "out"),
        ("prepare", "folder", root, tmp_path / ("a" * 300)),
    ):
        failed = call(*arguments)
        assert failed.exit_code == 2, (arguments, failed.output, failed.exception)
        assert len(failed.stderr.splitlines()) == 1 and failed.stderr.startswith("error: ")


def test_columns_and_points_that_were_not_seen(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            layouts.write(
                tmp_path / "clouds" / split / name / "1.xyz", "1 2 3 255 0 51\nnan nan nan 0 0 0\n3 4 5 9 9 9\n"
            )
    named = ("--columns", "x y z red green blue")
    assert call("prepare", "folder", tmp_path / "clouds", tmp_path / "out", *named).exit_code == 0
    cloud = registry.load_dataset("prepared", tmp_path / "out").train[0]
    assert len(cloud) == 2
    np.testing.assert_allclose(cloud.colours, [[1, 0, 0.2], [9 / 255] * 3], atol=1e-6)
    strict = call("verify", "folder", tmp_path / "clouds", "--nan-points", "refuse")
    assert strict.exit_code == 2 and "1 of 3 points are not finite" in strict.stderr
    assert call("verify", "folder", tmp_path / "clouds", "--nan-points", "keep").exit_code == 2
    assert call("verify", "folder", tmp_path / "clouds", "--columns", "x y z red").exit_code == 2


def test_nothing_that_is_printed_steers_the_terminal(tmp_path: Path) -> None:
    root = layouts.folder(tmp_path / "clouds")
    layouts.write(root / "train" / "table" / "a\x1b[2J.xyz", "1 2 3\n")
    for command in (("verify", "folder", root), ("prepare", "folder", root, tmp_path / "out", "--skip-bad")):
        failed = call(*command)
        assert failed.exit_code == 2 and "\\x1b[2J" in failed.stderr and "\x1b" not in failed.output
    missing = call("verify", "folder", tmp_path / "\x1b]0;title\x07")
    assert missing.exit_code == 2 and "\x1b" not in missing.output


def test_scenes_by_a_config(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "town" / split).mkdir(parents=True)
        rng = np.random.default_rng(0)
        np.savez(
            tmp_path / "town" / split / "a.npz", xyz_cm=rng.integers(0, 900, (50, 3)), kind=rng.integers(1, 3, 50)
        )  # fmt: skip
    config = tmp_path / "town.yaml"
    fields = "scenes: {points: xyz_cm, unit: 0.01, label: kind}"
    config.write_text(f"data: {{name: scenes, labels: {{1: road, 2: tree, 7: ignore}}, {fields}}}\n")
    told = call("verify", "scenes", tmp_path / "town")
    assert told.exit_code == 2 and "no field holds labels" in told.stderr
    done = call("prepare", "scenes", tmp_path / "town", tmp_path / "out", "--config", config)
    assert done.exit_code == 0, done.output
    for name, place, more in (("scenes", "town", ("--config", config)), ("prepared", "out", ())):
        report = json.loads(call("verify", name, tmp_path / place, *more, "--json", "-").stdout)
        counts = report["splits"]["train"]["per_class"]
        assert set(counts) == {"road", "tree"} and sum(counts.values()) == 50 and report["of_points"]
