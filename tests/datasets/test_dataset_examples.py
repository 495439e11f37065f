"""The examples in the docstrings of the datasets and of the leaves that they use print what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import image2point.datasets

MODULES = (
    "image2point.files",
    "image2point.errors",
    *(f"image2point.datasets.{module.name}" for module in pkgutil.iter_modules(image2point.datasets.__path__)),
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    found = doctest.DocTestFinder(exclude_empty=True)
    counts = [len(each.examples) for name in MODULES for each in found.find(importlib.import_module(name))]
    assert sum(counts) > 40
