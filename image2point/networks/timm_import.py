"""timm, importable beside a CPU-only torch as well (see `image2point.torchvision_import`)."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

from image2point.torchvision_import import import_torchvision


@cache
def load_timm() -> ModuleType:
    """The package timm. It takes seconds to import, so this is called where a 2D network is needed."""
    import_torchvision()
    return import_module("timm")
