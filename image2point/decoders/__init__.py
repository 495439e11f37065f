"""From the stage maps of a lifted network to one map per voxel, and scores at every voxel.

A decoder is a module that is called with the input voxels and the list of the stage maps, the finest first, and gives
a map at stride 1 of `out_channels` channels.
"""

from image2point.decoders.segmenter import Segmenter, segmenter, site_head

__all__ = ["Segmenter", "segmenter", "site_head"]
