"""Tests on real data run where IMAGE2POINT_TEST_DATA names it, and say elsewhere what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_data import VARIABLE, real_data


def test_real_data_are_found_below_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "modelnet40_ply_hdf5_2048").mkdir()
    assert real_data("modelnet40_ply_hdf5_*") == tmp_path / "modelnet40_ply_hdf5_2048"
    with pytest.raises(pytest.skip.Exception, match=rf"no weights/a\.pt in {tmp_path}.*put it there"):
        real_data("weights/a.pt")


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_variable_a_skip_says_what_to_do(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(pytest.skip.Exception, match=f"set {VARIABLE} to a folder with weights"):
        real_data("weights")


def test_a_folder_that_is_not_there_is_no_reason_to_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises((pytest.fail.Exception, pytest.skip.Exception), match="nowhere, which is not a folder") as told:
        real_data("weights")
    assert told.type is pytest.fail.Exception
