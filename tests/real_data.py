"""Where tests on real data find it: below the folder that the variable IMAGE2POINT_TEST_DATA names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "IMAGE2POINT_TEST_DATA"


def real_data(pattern: str) -> Path:
    """The first file or folder of this pattern below the folder of real data; without one the test is skipped.

    A variable that names no folder is a mistake, so the test fails.
    """
    if not os.environ.get(VARIABLE):
        pytest.skip(f"no real data: set {VARIABLE} to a folder with {pattern}")
    folder = Path(os.environ[VARIABLE])
    if not folder.is_dir():
        pytest.fail(f"{VARIABLE} names {folder}, which is not a folder: name one with {pattern}, or unset it")
    found = sorted(folder.glob(pattern))
    if not found:
        pytest.skip(f"no {pattern} in {folder}, which {VARIABLE} names: put it there")
    return found[0]
