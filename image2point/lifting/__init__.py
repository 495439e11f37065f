"""2D → 3D: rewrite a traced 2D ConvNet into a network over voxels, and carry its weights along."""

from image2point.lifting.graph import LiftError
from image2point.lifting.lift_network import lift
from image2point.lifting.network import LiftedNetwork
from image2point.lifting.records import Lifting, Options, ParameterRecord, SourceRecord

__all__ = [
    "LiftError",
    "LiftedNetwork",
    "Lifting",
    "Options",
    "ParameterRecord",
    "SourceRecord",
    "lift",
]
