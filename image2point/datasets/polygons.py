"""Rows of polygons, as .ply and .off files have them, to triangles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from image2point.errors import InputError


def fans(polygons: Sequence[np.ndarray], where: str) -> np.ndarray:
    """Triangles int64 [T, 3] of polygons: arrays [n, k] of n polygons with k corners each, cut from their first corner.

    Raises InputError for polygons of fewer than three corners.
    """
    triangles = [np.empty((0, 3), dtype=np.int64)]
    for corners in polygons:
        count = corners.shape[1]
        if count < 3 and len(corners):
            raise InputError(f"{where}: a face has {count} corners, expected at least 3")
        for corner in range(1, count - 1):
            triangles.append(corners[:, [0, corner, corner + 1]].astype(np.int64))
    return np.concatenate(triangles)


def grouped(rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Ragged rows of corners → one array [n, k] for each number of corners k."""
    by_count: dict[int, list[Sequence[int]]] = {}
    for row in rows:
        by_count.setdefault(len(row), []).append(row)
    return [np.array(same, dtype=np.int64).reshape(len(same), count) for count, same in sorted(by_count.items())]
