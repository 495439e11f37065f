"""Does a voxel size fit the clouds that it is used on?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from image2point.voxels import Window, neighbour_table, voxelize

FEW = 8
"""Voxels of a cloud at which hardly anything of its shape is left: a cloud around the origin has one in each octant."""
LONELY = 0.75
"""Share of voxels without a neighbour from which on a kernel of 3×3×3 sees little but its centre."""
ACROSS = 40
"""Voxels along the longest side of a cloud in the paper's experiments."""


def doubt(clouds: Sequence[np.ndarray], voxel_size: float) -> str | None:
    """A warning where the median of some clouds [P, 3] has hardly any voxels, or voxels that touch no other.

    >>> print(doubt([np.array([[0.0, 0, 0], [2, 2, 2]])], voxel_size=5.0))
    a training cloud is 2 wide, in voxels of 5: that makes 1, too few for a shape; data.voxel_size=0.05 gives 40 across
    """
    wide = float(np.median([np.ptp(points, axis=0).max() for points in clouds]))
    counts, lonely = [], []
    for points in clouds:
        sites = voxelize([points], voxel_size).sites
        reads = neighbour_table(sites, Window((3, 3, 3), padding=(1, 1, 1))).index() >= 0
        counts.append(len(sites))
        lonely.append(float((reads.sum(1) == 1).double().mean()))
    count, share = int(np.median(counts)), float(np.median(lonely))
    if count <= FEW:
        found = f"that makes {count}, too few for a shape"
    elif share >= LONELY:
        found = f"{share:.0%} of them touch no other, and kernels of 3×3×3 see little else"
    else:
        return None
    hint = f"; data.voxel_size={_rounded(wide / ACROSS, 1)} gives {ACROSS} across" if wide else ""
    return f"a training cloud is {_rounded(wide, 3)} wide, in voxels of {voxel_size:g}: {found}{hint}"


def _rounded(value: float, digits: int) -> str:
    return f"{float(f'{value:.{digits}g}'):g}"
