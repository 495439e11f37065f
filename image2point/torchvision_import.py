"""torchvision, importable beside a torch that it was not built for.

torchvision's wheel from the package index expects operators that only a CUDA build of torch brings: beside a CPU-only
torch its import fails on a missing operator `torchvision::nms`, and with it that of timm, torchmetrics and lightning.
No network here uses that operator; declaring its schema is enough for the import to succeed. `image2point/__init__.py`
calls `mend_torchvision` before anything else, so that any of them can be imported after `import image2point`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

_DETECTION_OPERATORS = ("nms", "qnms")
_declared: list[object] = []  # a declaration of torch.library lives as long as its object


def mend_torchvision() -> None:
    """See to it that a later `import torchvision` declares the operators that it misses. Imports nothing itself.

    >>> mend_torchvision()
    >>> import torchvision
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname == "torchvision" else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except RuntimeError as error:
            if "torchvision::" not in str(error) or _declared:
                raise
            _declare()
            for name in [name for name in sys.modules if name.startswith("torchvision.")]:
                del sys.modules[name]
            super().exec_module(module)


def _declare() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _DETECTION_OPERATORS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
