"""Polygons, as mesh files have them, to triangles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from image2point.errors import InputError


def fan_triangles(corners: np.ndarray, sizes: np.ndarray, where: str) -> np.ndarray:
    """Triangles int64 [T, 3] of F polygons, each cut from its first corner.

    corners [C]: vertices of all polygons, one after the other; sizes [F]: the number of corners of each. Polygons of
    fewer corners come first, otherwise in their order. `where` begins messages.

    Raises InputError for polygons of fewer than three corners.

    >>> fan_triangles(np.array([0, 1, 2, 3, 4, 5, 6]), np.array([4, 3]), "mesh").tolist()
    [[4, 5, 6], [0, 1, 2], [0, 2, 3]]
    """
    starts = np.cumsum(sizes) - sizes
    triangles = [np.empty((0, 3), dtype=np.int64)]
    for size in np.unique(sizes).tolist():
        if size < 3:
            raise InputError(f"{where}: a face has {size} corners, expected at least 3")
        first = starts[sizes == size]
        for corner in range(1, size - 1):
            triangles.append(corners[np.stack([first, first + corner, first + corner + 1], axis=1)].astype(np.int64))
    return np.concatenate(triangles)


def strip_triangles(strips: Sequence[np.ndarray]) -> np.ndarray:
    """Triangles int64 [T, 3] of triangle strips [n] each, of vertices; -1 ends a strip within one.

    Every second triangle is turned, so that all keep the winding of the first; those with a vertex twice are left out.

    >>> strip_triangles([np.array([0, 1, 2, 3, -1, 4, 5, 6])]).tolist()
    [[0, 1, 2], [2, 1, 3], [4, 5, 6]]
    """
    joined = np.concatenate([np.array([-1]), *(np.append(strip, -1) for strip in strips)]).astype(np.int64)
    at = np.arange(len(joined))
    begin = np.maximum.accumulate(np.where(joined == -1, at + 1, 0))
    windows = np.lib.stride_tricks.sliding_window_view(joined, 3) if len(joined) > 2 else np.empty((0, 3), np.int64)
    turned = (at[: len(windows)] - begin[: len(windows)]) % 2 == 1
    triangles = np.where(turned[:, None], windows[:, [1, 0, 2]], windows)
    a, b, c = triangles.T
    return triangles[(triangles != -1).all(axis=1) & (a != b) & (b != c) & (a != c)]
