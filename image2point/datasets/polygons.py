"""Polygons, as mesh files have them, to triangles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from image2point.errors import InputError

MOST_CORNERS = 500
"""Corners of the largest polygon that is not convex: cutting one takes the square of them."""


def polygon_triangles(vertices: np.ndarray, corners: np.ndarray, sizes: np.ndarray, where: str) -> np.ndarray:
    """Triangles int64 [T, 3] of F polygons: cut from the first corner of each, or by its ears where it is not convex.

    vertices [V, 3]; corners [C]: vertices of all polygons, one after the other; sizes [F]: the number of corners of
    each. Polygons of fewer corners come first, otherwise in their order. Corners that are no vertices are left for the
    caller to refuse. `where` begins messages.

    Raises InputError for polygons of fewer than three corners, and large ones that are not convex.

    >>> square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.0]])
    >>> polygon_triangles(square, np.array([0, 1, 2, 3, 0, 1, 2]), np.array([4, 3]), "mesh").tolist()
    [[0, 1, 2], [0, 1, 2], [0, 2, 3]]
    """
    starts = np.cumsum(sizes) - sizes
    triangles = [np.empty((0, 3), dtype=np.int64)]
    for size in np.unique(sizes).tolist():
        if size < 3:
            raise InputError(f"{where}: a face has {size} corners, expected at least 3")
        first = starts[sizes == size]
        polygons = corners[first[:, None] + np.arange(size)].astype(np.int64)
        fans = np.stack([polygons[:, [0, corner, corner + 1]] for corner in range(1, size - 1)])  # [size - 2, n, 3]
        if size > 3 and len(vertices) and polygons.min() >= 0 and polygons.max() < len(vertices):
            for row in np.flatnonzero(_not_convex(vertices, fans)):
                if size > MOST_CORNERS:
                    raise InputError(f"{where}: a face of {size:,} corners is not convex; cut it into triangles")
                fans[:, row] = polygons[row][_ears(vertices[polygons[row]])]
        triangles.append(fans.reshape(-1, 3))
    return np.concatenate(triangles)


@np.errstate(all="ignore")  # of vertices that are not finite, which are refused elsewhere
def _not_convex(vertices: np.ndarray, fans: np.ndarray) -> np.ndarray:
    """bool [n]: whether a triangle of the fan [k, n, 3] of a polygon looks the other way than the polygon does."""
    a, b, c = (vertices[fans[..., corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    whole = normals.sum(axis=0)
    return np.asarray(((normals * whole).sum(axis=-1) < -1e-9 * (whole**2).sum(axis=-1)).any(axis=0))


def _ears(corners: np.ndarray) -> list[list[int]]:
    """Triangles, as rows of `corners` [n, 3], of one flat polygon: corner after corner is cut off where the triangle
    that goes holds no other corner (G. H. Meisters, "Polygons have ears", 1975). What is left of a polygon that crosses
    itself is cut from its first corner.
    """
    normal = np.cross(corners, np.roll(corners, -1, axis=0)).sum(axis=0)
    axis = int(np.abs(normal).argmax())
    flat = np.delete(corners - corners.mean(axis=0), axis, axis=1)
    if (normal[axis] < 0) != (axis == 1):  # seen so that the polygon runs counterclockwise
        flat = flat[:, ::-1]

    def turn(a: int, b: int, c: int | list[int]) -> np.ndarray:
        u, v = flat[b] - flat[a], flat[c] - flat[a]
        return np.asarray(u[0] * v[..., 1] - u[1] * v[..., 0])

    left, triangles = list(range(len(corners))), []
    while len(left) > 3:
        for at in range(len(left)):
            a, b, c = left[at - 1], left[at], left[(at + 1) % len(left)]
            if turn(a, b, c) > 0:
                others = [other for other in left if other not in (a, b, c)]
                within = (turn(a, b, others) >= 0) & (turn(b, c, others) >= 0) & (turn(c, a, others) >= 0)
                apart = (flat[others][:, None] != flat[[a, b, c]]).any(axis=2).all(axis=1)
                if not (within & apart).any():
                    triangles.append([a, b, c])
                    left.pop(at)
                    break
        else:
            break
    return triangles + [[left[0], left[i], left[i + 1]] for i in range(1, len(left) - 1)]


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
