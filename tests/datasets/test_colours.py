"""Colours of files in bytes become shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from image2point.datasets.columns import unit_colours
from image2point.datasets.files import read_cloud


def test_colours_of_pts(tmp_path: Path) -> None:
    (tmp_path / "a.pts").write_text("2\n0 0 0 -1000 255 51 0\n1 0 0 -900 0 102 204\n")
    cloud = read_cloud(tmp_path / "a.pts", normalise=False)
    np.testing.assert_allclose(cloud.colours, [[1, 0.2, 0], [0, 0.4, 0.8]], atol=1e-6)


def test_a_rounding_error_above_one_is_one() -> None:
    given = np.array([[0, 0.5, 1.0000001]], dtype=np.float32)
    np.testing.assert_array_equal(unit_colours(given), [[0, 0.5, 1]])
    np.testing.assert_allclose(unit_colours(np.array([[0.0, 1.0, 2.0]])), [[0, 1 / 255, 2 / 255]])


def test_dark_colours_in_bytes_are_not_taken_for_shares(tmp_path: Path) -> None:
    """All of them 0 or 1, as in a scan at night: in bytes, 1 is a 255th."""
    np.testing.assert_allclose(unit_colours(np.array([[0, 1, 1]], dtype=np.uint8)), [[0, 1 / 255, 1 / 255]])
    np.testing.assert_allclose(unit_colours(np.array([[0.0, 1.0, 0.5]])), [[0, 1, 0.5]])
    (tmp_path / "night.pts").write_text("2\n0 0 0 -1000 1 0 0\n1 0 0 -900 0 1 1\n")
    cloud = read_cloud(tmp_path / "night.pts", normalise=False)
    np.testing.assert_allclose(cloud.colours, np.array([[1, 0, 0], [0, 1, 1]]) / 255, atol=1e-6)
