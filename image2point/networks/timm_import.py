"""timm, imported where a 2D network is needed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def load_timm() -> ModuleType:
    """The package timm, which takes seconds to import."""
    return import_module("timm")
