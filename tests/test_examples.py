"""The examples in docstrings print what they say, and every public function has one."""

from __future__ import annotations

import doctest
import inspect
import pkgutil
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import image2point
from image2point import collapse, voxels

NEED_MORE = ("triton", "spconv", "benchmarks.peers", "__main__")
MODULES = [
    module.name
    for module in pkgutil.walk_packages(image2point.__path__, "image2point.")
    if not any(part in module.name for part in NEED_MORE)
]
PUBLIC = [
    (home, name)
    for home in (image2point, collapse, voxels)
    for name in home.__all__
    if inspect.isfunction(getattr(home, name))
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[1])
    assert doctest.testmod(import_module(name)).failed == 0


@pytest.mark.parametrize(("home", "name"), PUBLIC, ids=[name for _, name in PUBLIC])
def test_every_public_function_has_one(home: ModuleType, name: str) -> None:
    assert ">>>" in (getattr(home, name).__doc__ or "")
