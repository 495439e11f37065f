"""The committed examples are what their script writes, and small."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

from image2point.datasets import modelnet
from image2point.datasets.files import read_cloud

REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURES = REPOSITORY / "data" / "fixtures"


def test_the_script_writes_the_same(tmp_path: Path) -> None:
    runpy.run_path(str(REPOSITORY / "scripts" / "make_fixtures.py"))["make"](tmp_path)
    names = {path.relative_to(FIXTURES) for path in FIXTURES.rglob("*") if path.is_file()}
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()} == names
    for new, old in zip(
        modelnet.load_modelnet(tmp_path / "modelnet", None),
        modelnet.load_modelnet(FIXTURES / "modelnet", None),
        strict=True,
    ):
        assert new.points.shape == old.points.shape and new.classes == old.classes
        np.testing.assert_array_equal(new.labels, old.labels)
    for path in (FIXTURES / "clouds").iterdir():
        assert len(read_cloud(tmp_path / "clouds" / path.name)) == len(read_cloud(path))


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in FIXTURES.rglob("*") if path.is_file()) < 100_000
