"""Lift ImageNet ConvNets into 3D networks over voxels, fine-tune them, and measure neural collapse.

The public names; each loads what it needs when it is first used, so that importing the package stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from image2point.torchvision_import import mend_torchvision

if TYPE_CHECKING:
    from image2point import collapse
    from image2point.decoders import segmenter
    from image2point.errors import InputError
    from image2point.finetune import freeze
    from image2point.jobs.artefact import load
    from image2point.lifting import lift
    from image2point.lifting.export import export
    from image2point.lifting.rules import register_rule
    from image2point.training.recalibration import recalibrate
    from image2point.voxels import DenseVoxels, VoxelTensor, to_points, voxelize

__version__ = "0.2.0"
mend_torchvision()

_HOME = {
    "DenseVoxels": "image2point.voxels",
    "InputError": "image2point.errors",
    "VoxelTensor": "image2point.voxels",
    "export": "image2point.lifting.export",
    "freeze": "image2point.finetune",
    "lift": "image2point.lifting",
    "load": "image2point.jobs.artefact",
    "recalibrate": "image2point.training.recalibration",
    "register_rule": "image2point.lifting.rules",
    "segmenter": "image2point.decoders",
    "to_points": "image2point.voxels",
    "voxelize": "image2point.voxels",
}
__all__ = [
    "DenseVoxels", "InputError", "VoxelTensor", "collapse", "export", "freeze", "lift", "load", "recalibrate",
    "register_rule", "segmenter", "to_points", "voxelize",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "collapse":
        return import_module("image2point.collapse")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'image2point' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
