"""Colours of files in bytes become shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from image2point.datasets.files import read_cloud


def test_colours_of_pts(tmp_path: Path) -> None:
    (tmp_path / "a.pts").write_text("2\n0 0 0 -1000 255 51 0\n1 0 0 -900 0 102 204\n")
    cloud = read_cloud(tmp_path / "a.pts", normalise=False)
    np.testing.assert_allclose(cloud.colours, [[1, 0.2, 0], [0, 0.4, 0.8]], atol=1e-6)
