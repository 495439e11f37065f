"""The 3D substrate: points → voxels, and the operations of a ConvNet on them. Needs nothing but torch."""

from image2point.voxels import functional
from image2point.voxels.blur import BlurPool
from image2point.voxels.cloud_norm import (
    EvoNorm,
    FilterResponseNorm,
    GlobalResponseNorm,
    GroupNorm,
    LayerNorm,
    RmsNorm,
)
from image2point.voxels.depth_conv import DepthConv
from image2point.voxels.errors import VoxelError
from image2point.voxels.interpolate import upsample_aligned, upsample_linear
from image2point.voxels.modules import Pointwise, TiedConv, VoxelConv
from image2point.voxels.norm import BatchNorm
from image2point.voxels.plan import Window, neighbour_table
from image2point.voxels.points import to_points
from image2point.voxels.pool import AvgPool, GlobalPool, MaxPool
from image2point.voxels.quantise import voxelize
from image2point.voxels.rearrange import SpaceToDepth
from image2point.voxels.sites import Sites
from image2point.voxels.tensor import DenseVoxels, Voxels, VoxelTensor
from image2point.voxels.transposed import TiedTransposedConv, TransposedConv
from image2point.voxels.upsample import upsample
from image2point.voxels.whole_grid import AdaptivePool, MapConv, MapLinear, Stretch, TiedMapConv, TiedMapLinear

__all__ = [
    "AdaptivePool",
    "AvgPool",
    "BatchNorm",
    "BlurPool",
    "DenseVoxels",
    "DepthConv",
    "EvoNorm",
    "FilterResponseNorm",
    "GlobalPool",
    "GlobalResponseNorm",
    "GroupNorm",
    "LayerNorm",
    "MapConv",
    "MapLinear",
    "MaxPool",
    "Pointwise",
    "RmsNorm",
    "Sites",
    "SpaceToDepth",
    "Stretch",
    "TiedConv",
    "TiedMapConv",
    "TiedMapLinear",
    "TiedTransposedConv",
    "TransposedConv",
    "VoxelConv",
    "VoxelError",
    "VoxelTensor",
    "Voxels",
    "Window",
    "functional",
    "neighbour_table",
    "to_points",
    "upsample",
    "upsample_aligned",
    "upsample_linear",
    "voxelize",
]
