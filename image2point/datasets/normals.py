"""Normals estimated from the points alone, for clouds that have none or none to trust."""

from __future__ import annotations

import numpy as np

NEIGHBOURS = 16


def estimate_normals(points: np.ndarray) -> np.ndarray:
    """Normals float32 [P, 3] of `points` [P, 3]: the direction of least spread of each point's 16 nearest (Open3D).

    The sign follows from the points too: each normal points away from the mean of the cloud. That is outward for
    convex shapes, and for others a rule that does not depend on the order of the points or their pose. Points without
    a plane (fewer than three, or all on a line) get some direction across them.

    >>> grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0), [0.0]), axis=-1).reshape(-1, 3)
    >>> np.abs(estimate_normals(grid)).max(axis=0).round(3)
    array([0., 0., 1.], dtype=float32)
    """
    from image2point.datasets.files import import_open3d

    open3d = import_open3d()
    exact = np.asarray(points, dtype=np.float64)
    centred = exact - exact.mean(axis=0)
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(centred))
    cloud.estimate_normals(open3d.geometry.KDTreeSearchParamKNN(NEIGHBOURS), fast_normal_computation=False)
    normals = np.asarray(cloud.normals)
    inward = (normals * centred).sum(axis=1, keepdims=True) < 0
    return np.where(inward, -normals, normals).astype(np.float32)
