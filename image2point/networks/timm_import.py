"""timm, importable beside a CPU-only torch as well.

timm imports torchvision, and torchvision's wheel from the package index expects operators that only its CUDA
build brings: its import then fails on a missing operator `torchvision::nms`. No network here uses that
operator; declaring its schema is enough for the import to succeed.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from types import ModuleType

import torch

_DETECTION_OPERATORS = ("nms", "qnms")


@cache
def load_timm() -> ModuleType:
    """The package timm. It takes seconds to import, so this is called where a 2D network is needed."""
    _import_torchvision()
    return import_module("timm")


@cache
def _import_torchvision() -> torch.library.Library | None:
    """Import torchvision, declaring the operators that it misses; the declaration lives as long as the cache."""
    try:
        import_module("torchvision")
        return None
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _DETECTION_OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import_module("torchvision")
    return library
