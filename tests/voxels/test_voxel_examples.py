"""The examples in the docstrings of `image2point.voxels` print what they say."""

from __future__ import annotations

import doctest
import pkgutil
from importlib import import_module

import pytest

from image2point import voxels

MODULES = [
    module.name
    for module in pkgutil.walk_packages(voxels.__path__, "image2point.voxels.")
    if "triton" not in module.name and "spconv" not in module.name
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(import_module(name)).failed == 0


@pytest.mark.parametrize("name", sorted(n for n in voxels.__all__ if n.islower() and n != "functional"))
def test_every_public_function_has_one(name: str) -> None:
    assert ">>>" in (getattr(voxels, name).__doc__ or "")
