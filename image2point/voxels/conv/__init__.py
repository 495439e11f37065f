"""One convolution, several executions: `reference` and `gather` on sparse voxels, `dense` on grids."""

from image2point.voxels.conv import dense, gather, reference

__all__ = ["dense", "gather", "reference"]
