"""Every public name of the package is documented, every public function by an example, and the examples run."""

from __future__ import annotations

import doctest
import inspect
import pkgutil
from importlib import import_module

import pytest

from image2point import collapse

MODULES = [f"image2point.collapse.{module.name}" for module in pkgutil.iter_modules(collapse.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    module = import_module(name)
    found = doctest.testmod(module)
    public = [each for each in vars(module).values() if getattr(each, "__module__", "") == name]
    functions = [each for each in public if inspect.isfunction(each) and each.__name__ in collapse.__all__]
    assert found.failed == 0 and found.attempted >= len(functions)


def test_every_public_function_has_an_example() -> None:
    for name in collapse.__all__:
        documentation = inspect.getdoc(getattr(collapse, name)) or ""
        assert documentation, name
        if inspect.isfunction(getattr(collapse, name)):
            assert ">>>" in documentation, name
