"""torchvision, importable beside a torch that it was not built for. A leaf: any part of the project may import it.

torchvision's wheel from the package index expects operators that only a CUDA build of torch brings: beside a CPU-only
torch its import fails on a missing operator `torchvision::nms`. No network here uses that operator; declaring its
schema is enough for the import to succeed. timm, torchmetrics, lightning and ocnn import torchvision without that care,
so call `import_torchvision` before any of them.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch

_DETECTION_OPERATORS = ("nms", "qnms")


@cache
def import_torchvision() -> torch.library.Library | None:
    """Import torchvision, where it is installed, declaring the operators that it misses.

    The declaration lives as long as what is returned, which the cache keeps.

    >>> _ = import_torchvision()
    >>> import torchvision
    """
    if find_spec("torchvision") is None:
        return None
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
