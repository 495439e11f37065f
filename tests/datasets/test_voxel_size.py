"""Voxel sizes that fit no cloud are told."""

from __future__ import annotations

import numpy as np
import pytest

from image2point.datasets.voxel_size import doubt


def spheres(points: int, radius: float = 1.0) -> list[np.ndarray]:
    normal = np.random.default_rng(0).normal(size=(3, points, 3))
    return list(radius * normal / np.linalg.norm(normal, axis=2, keepdims=True))


@pytest.mark.parametrize("size", [0.05, 0.1, 0.3])
def test_usual_sizes_raise_no_doubt(size: int) -> None:
    assert doubt(spheres(1024), size) is None
    assert doubt(spheres(1024, 1000.0), 1000 * size) is None


def test_clouds_of_hardly_any_voxels() -> None:
    told = doubt(spheres(1024), 2.0)  # one voxel in each octant
    assert told and "2 wide" in told and "makes 8, too few" in told and "data.voxel_size=0.05 gives 40" in told
    few, many = spheres(1024, 0.01)[:1], spheres(1024)[:2]
    assert doubt([*few, *many], 0.1) is None  # the median counts


@pytest.mark.parametrize(("radius", "size"), [(1.0, 1e-4), (1000.0, 0.05)], ids=["tiny voxels", "millimetres"])
def test_voxels_that_touch_no_other(radius: float, size: float) -> None:
    told = doubt(spheres(1024, radius), size)
    assert told and "100% of them touch no other" in told and f"data.voxel_size={radius * 0.05:g} gives 40" in told


def test_clouds_without_extent_get_no_hint() -> None:
    told = doubt([np.zeros((5, 3))], 0.1)
    assert told and told.endswith("too few for a shape")
