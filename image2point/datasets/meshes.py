"""Triangle meshes: a few ways to build one, and points sampled evenly from its surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from image2point.datasets.cloud import Cloud
from image2point.errors import InputError


@dataclass(frozen=True)
class Mesh:
    """vertices float64 [V, 3]; triangles int64 [T, 3], indices of vertices; colours [V, 3] of the vertices, in 0..1.

    What is built here is wound so that triangles run counterclockwise seen from outside; in files, either way.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    colours: np.ndarray | None = None


def join(*meshes: Mesh) -> Mesh:
    """Several meshes as one, each as it is: where they overlap, the parts inside each other stay.

    >>> one = Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]]))
    >>> join(one, one).triangles.tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.triangles + start for mesh, start in zip(meshes, starts, strict=True)]),
    )


def revolve(profile: np.ndarray, segments: int, closed: bool = False, radii: np.ndarray | None = None) -> Mesh:
    """Turn a profile [k, 2] of (radius, height) about the z axis in `segments` steps.

    A profile that begins and ends at radius 0, from the bottom up, gives a solid; a `closed` one (its last point
    joined to its first, running up on its outer side) a ring. Many segments make a round body, few a prism or
    pyramid; `radii` [segments] scales the radius at each step, which makes stars.
    """
    angles = 2 * np.pi * np.arange(segments) / segments
    reach = np.ones(segments) if radii is None else radii
    spokes = np.stack([reach * np.cos(angles), reach * np.sin(angles)], axis=1)
    ring = profile[:, None, :1] * spokes
    height = np.broadcast_to(profile[:, None, 1:], (len(profile), segments, 1))
    return Mesh(np.concatenate([ring, height], axis=2).reshape(-1, 3), _grid(len(profile), segments, closed))


def sweep(path: np.ndarray, radius: float, up: np.ndarray, sides: int = 8, closed: bool = False) -> Mesh:
    """A tube about the path [k, 3]: a polygon with `sides` corners, moved along it.

    `up` [3] fixes how the polygon turns; the path must run nowhere along it. The ends stay open.
    """
    if closed:
        tangents = np.roll(path, -1, axis=0) - np.roll(path, 1, axis=0)
    else:
        tangents = np.gradient(path, axis=0)
    across = _unit(np.cross(tangents, up))
    above = _unit(np.cross(tangents, across))
    angles = 2 * np.pi * np.arange(sides) / sides
    rim = radius * (np.cos(angles)[:, None] * across[:, None] + np.sin(angles)[:, None] * above[:, None])
    return Mesh((path[:, None] + rim).reshape(-1, 3), _grid(len(path), sides, closed))


def blocks(filled: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> Mesh:
    """The outer surface of the union of the boxes where `filled` [i, j, k] is true.

    The box (a, b, c) reaches from x[a] to x[a + 1], and so on; x, y, z have one value more than `filled` has
    boxes along that axis. Faces between two filled boxes are inside and left out.
    """
    corners = np.stack(np.meshgrid(x, y, z, indexing="ij"), axis=-1).reshape(-1, 3)
    strides = (len(y) * len(z), len(z), 1)
    padded = np.pad(filled.astype(np.int8), 1)
    triangles = []
    for axis, (one, two) in enumerate(((1, 2), (2, 0), (0, 1))):
        inner = tuple(slice(None) if each == axis else slice(1, -1) for each in range(3))
        change = np.diff(padded[inner], axis=axis)
        faces = np.argwhere(change != 0)
        outward = change[change != 0] < 0  # the box is on the near side, so the face looks along the axis
        first = faces @ np.array(strides)
        second = first + np.where(outward, strides[one], strides[two])
        third = first + np.where(outward, strides[two], strides[one])
        fourth = first + strides[one] + strides[two]
        triangles += [np.stack([first, second, third], 1), np.stack([second, fourth, third], 1)]
    return Mesh(corners, np.concatenate(triangles))


def areas(mesh: Mesh) -> np.ndarray:
    """The area of every triangle, float64 [T].

    >>> areas(Mesh(np.array([[0, 0, 0], [2, 0, 0], [0, 3, 0.0]]), np.array([[0, 1, 2]])))
    array([3.])
    """
    return 0.5 * _lengths(_crosses(mesh))


def sample_surface(mesh: Mesh, count: int, rng: np.random.Generator, where: str = "mesh") -> Cloud:
    """`count` points (float64), uniform over the area of the surface, with the normals of their triangles.

    A normal points to the side from which its triangle runs counterclockwise. Colours of the vertices, where there
    are any, are interpolated. `where` begins error messages.

    Raises InputError for a mesh without area.

    >>> mesh = Mesh(np.array([[0, 0, 0], [2, 0, 0], [0, 3, 0.0]]), np.array([[0, 1, 2]]))
    >>> sample_surface(mesh, 100, np.random.default_rng(0)).normals[0].tolist()
    [0.0, 0.0, 1.0]
    """
    crosses = _crosses(mesh)
    doubled = _lengths(crosses)
    summed = np.cumsum(0.5 * doubled)
    if not len(summed) or not np.isfinite(summed[-1]) or summed[-1] <= 0:
        raise InputError(f"{where}: the surface of the mesh has no area, or its vertices are not finite")
    chosen = np.searchsorted(summed, rng.random(count) * summed[-1], side="right")
    chosen = np.minimum(chosen, len(summed) - 1)
    corners = mesh.triangles.take(chosen, axis=0)
    u, v = rng.random((2, count, 1))
    u = np.sqrt(u)  # makes (u, v) uniform over the triangle

    def between(values: np.ndarray) -> np.ndarray:
        a, b, c = (values.take(corners[:, corner], axis=0) for corner in range(3))
        b += v * (c - b)
        a += u * (b - a)
        return a

    normals = crosses.take(chosen, axis=0) / np.maximum(doubled.take(chosen), np.finfo(float).tiny)[:, None]
    return Cloud(between(mesh.vertices), normals, None if mesh.colours is None else between(mesh.colours))


def _crosses(mesh: Mesh) -> np.ndarray:
    """(b - a) × (c - a) of every triangle, float64 [T, 3]: along its normal, as long as twice its area."""
    a, b, c = (mesh.vertices.take(mesh.triangles[:, corner], axis=0) for corner in range(3))
    u, v = b - a, c - a
    # Written out: np.cross is several times slower on arrays of this size, and this is the hot spot.
    x = u[:, 1] * v[:, 2] - u[:, 2] * v[:, 1]
    y = u[:, 2] * v[:, 0] - u[:, 0] * v[:, 2]
    z = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    return np.stack([x, y, z], axis=1)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt((vectors * vectors).sum(axis=1))


def _grid(rows: int, columns: int, closed: bool) -> np.ndarray:
    """Triangles of a grid of vertices that wraps around along its columns, and along its rows if `closed`."""
    row = np.arange(rows if closed else rows - 1)[:, None]
    column = np.arange(columns)
    below, right = (row + 1) % rows, (column + 1) % columns
    corner = np.broadcast_arrays(
        row * columns + column, row * columns + right, below * columns + column, below * columns + right
    )
    a, b, c, d = (each.reshape(-1) for each in corner)
    return np.concatenate([np.stack([a, b, c], axis=1), np.stack([b, d, c], axis=1)])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
