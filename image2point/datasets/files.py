"""One cloud from one file, whatever its format: points as they are, meshes sampled from their surface.

Open3D samples meshes. Files are read by our own parsers, one module a format: Open3D's own readers hand back whatever
they had of a damaged file, drop polygons, and end the process on one damaged file in fifty.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np

from image2point.datasets.arrays import read_npy, read_npz
from image2point.datasets.cloud import Cloud
from image2point.datasets.meshes import Mesh, areas
from image2point.datasets.obj import read_obj
from image2point.datasets.off import read_off
from image2point.datasets.pcd import read_pcd
from image2point.datasets.ply import read_ply
from image2point.datasets.rows import read_pts, read_xyz
from image2point.datasets.stl import read_stl
from image2point.datasets.validate import check_cloud, check_points
from image2point.errors import InputError, one_line
from image2point.files import looked_for
from image2point.storage import fetched

logger = logging.getLogger("image2point")

SAMPLES = 2048
"""Points of a mesh where no number is asked for."""


NanPoints = Literal["drop", "refuse"]

READERS: dict[str, Callable[[Path], Cloud | Mesh]] = {
    ".ply": read_ply,
    ".pcd": read_pcd,
    ".xyz": read_xyz,
    ".pts": read_pts,
    ".off": read_off,
    ".obj": read_obj,
    ".stl": read_stl,
    ".npy": read_npy,
    ".npz": read_npz,
}

WITH_COLUMNS = {".xyz": read_xyz, ".pts": read_pts}
"""Formats that do not say themselves what their columns are."""


def read_cloud(
    path: str | Path,
    points: int | None = 1024,
    seed: int = 0,
    normalise: bool = False,
    columns: str | None = None,
    nan_points: NanPoints = "drop",
    note: Callable[[str], None] = logger.warning,
) -> Cloud:
    """Read a cloud from a .ply, .pcd, .xyz, .pts, .off, .obj, .stl, .npy or .npz file.

    A mesh gives `points` points, uniform over its surface. A point file gives `points` of its points at
    random, or all where it has no more than that. None: 2048 points of a mesh, all of a point file. The same
    file, `points` and `seed` give the same cloud.
    Coordinates stay in the file's units, unless `normalise` moves them into the unit sphere (before rounding
    to float32, which matters for coordinates far from the origin, as in maps).

    Normals and colours of the points come with the formats that name them (.ply, .pcd, .npz, records in .npy); a
    normal that is NaN is unknown, a row of zeros. On a mesh, normals are those of the faces, towards the side from
    which the file winds them counterclockwise, and colours those of the vertices, interpolated. Colours become 0..1
    from bytes, 0..255 or 0..65535. A .ply, .off or .obj file without faces gives its vertices as points.

    columns: what the columns of .xyz and .pts are, such as "x y z red green blue" or "x y z nx ny nz", with `_` for
    each to leave out; otherwise a first line of names says it, .pts of six or seven columns end in 8-bit red, green,
    blue, and other columns than x, y, z are left out.
    nan_points: depth cameras write NaN where they saw nothing. "drop" leaves out points of .pcd with a coordinate that
    is NaN, and of other files those of which all three are; "refuse" refuses the file.
    note: called with one line about anything that was left out of the file, such as the number of those points.

    Raises InputError, in one line that begins with the path, for a missing or unreadable file, another
    suffix, damage, no points, other NaN and infinite coordinates, and a mesh without area.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "two.xyz"
    ...     _ = path.write_text("0 0 0 255 0 0\\n1 0 0 0 255 0\\n")
    ...     read_cloud(path, columns="x y z red green blue").colours
    array([[1., 0., 0.],
           [0., 1., 0.]], dtype=float32)
    """
    path = fetched(path)
    if points is not None and points < 1:
        raise InputError(f"points must be at least 1, found {points}")
    if nan_points not in ("drop", "refuse"):
        raise InputError(f"nan_points must be drop or refuse, found {nan_points!r}")
    if os.path.isdir(path):  # which is False of a name that is too long, too
        raise InputError(f"{path}: this is a folder, expected a file; all files in it are {path}/*")
    suffix = path.suffix.lower()
    reader = READERS.get(suffix)
    if suffix in WITH_COLUMNS:
        reader = partial(WITH_COLUMNS[suffix], columns=columns, note=note)
    if reader is None:
        raise InputError(f"{path}: unsupported suffix {path.suffix!r}; supported are {' '.join(READERS)}")
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file{looked_for(path)}")
        content = reader(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {one_line(error.strerror or error)}") from None

    if isinstance(content, Mesh):
        cloud = _sample(content, points or SAMPLES, seed, path)
    else:
        cloud = drop_unseen(content, path, nan_points, note)
        check_cloud(cloud, str(path))
        if points is not None and len(cloud) > points:
            cloud = cloud.take(np.random.default_rng(seed).choice(len(cloud), points, replace=False))
    if normalise:
        cloud = replace(cloud, points=unit_sphere(cloud.points))
    return check_cloud(cloud, str(path))


def drop_unseen(cloud: Cloud, path: Path, nan_points: NanPoints, note: Callable[[str], None]) -> Cloud:
    """The points that were seen, see `read_cloud`; NaN normals, where nothing is known, become zero."""
    if cloud.normals is not None and cloud.normals.dtype.kind == "f" and cloud.normals.ndim == 2:
        unknown = np.isnan(cloud.normals).any(axis=1)
        if unknown.any():
            cloud = replace(cloud, normals=np.where(unknown[:, None], 0, cloud.normals))
    if nan_points == "refuse" or cloud.points.dtype.kind != "f":
        return cloud
    nan = np.isnan(cloud.points)
    gone = nan.any(axis=1) if path.suffix.lower() == ".pcd" else nan.all(axis=1)
    if not gone.any():
        return cloud
    if gone.all():
        raise InputError(f"{path}: none of its {len(cloud):,} points are finite: all are NaN, where nothing was seen")
    fields = (cloud.normals, cloud.colours, cloud.labels, *cloud.attributes.values())
    if any(values is not None and len(values) != len(cloud) for values in fields):
        return cloud  # refused, with what is wrong, by check_cloud
    note(f"{path}: {gone.sum():,} of {len(cloud):,} points are NaN, where nothing was seen, and left out")
    return cloud.take(np.flatnonzero(~gone))


@np.errstate(over="ignore", invalid="ignore")  # what is not finite afterwards is refused, with its place
def unit_sphere(points: np.ndarray) -> np.ndarray:
    """Move the mean of `points` [P, 3] to the origin and scale the farthest point to distance 1; same type, new array.

    Points that all coincide become the origin.

    >>> unit_sphere(np.array([[1.0, 0, 0], [3.0, 0, 0]]))
    array([[-1.,  0.,  0.],
           [ 1.,  0.,  0.]])
    """
    points = np.asarray(points)
    kind = points.dtype if points.dtype.kind == "f" else np.dtype(np.float32)
    # The differences are taken from one of the points first: exact, however far away the cloud is.
    centred = points.astype(np.float64) - points[0]
    centred -= centred.mean(axis=0)
    radius = np.sqrt((centred**2).sum(axis=1).max())
    return (centred / radius if radius > 0 else centred).astype(kind)


def unit_spheres(points: np.ndarray) -> np.ndarray:
    """`unit_sphere` of every cloud of [n, P, 3], cloud by cloud, to bound the memory; same type, new array."""
    moved = np.empty_like(points)
    for row, cloud in enumerate(points):
        moved[row] = unit_sphere(cloud)
    return moved


def _sample(mesh: Mesh, count: int, seed: int, path: Path) -> Cloud:
    """`count` points of a mesh, uniform over its area, with the normals of their faces and colours between vertices.

    Only vertices that a face uses matter; they must exist and be finite.
    """
    if not len(mesh.triangles):
        raise InputError(f"{path}: a mesh without faces")
    low, high = int(mesh.triangles.min()), int(mesh.triangles.max())
    if low < 0 or high >= len(mesh.vertices):
        wrong = low if low < 0 else high
        raise InputError(f"{path}: a face uses vertex {wrong}, but there are {len(mesh.vertices)} vertices")
    check_points(mesh.vertices[np.unique(mesh.triangles)], f"{path}, vertices")
    area = areas(mesh).sum()
    if not (np.isfinite(area) and area > 0):
        raise InputError(f"{path}: the surface of the mesh has no area")
    open3d = import_open3d()
    utility = open3d.utility
    surface = open3d.geometry.TriangleMesh(
        utility.Vector3dVector(mesh.vertices), utility.Vector3iVector(mesh.triangles.astype(np.int32))
    )
    if mesh.colours is not None:
        surface.vertex_colors = utility.Vector3dVector(mesh.colours)
    utility.random.seed(seed % 2**31)  # the only randomness that Open3D has is global
    points = surface.sample_points_uniformly(count, use_triangle_normal=True)
    colours = np.array(points.colors) if mesh.colours is not None else None
    return Cloud(np.array(points.points), np.array(points.normals), colours)


def import_open3d() -> ModuleType:
    """Open3D, on systems without libusb-1.0 too: it links that library, and the package libusb-package carries it."""
    try:
        import open3d
    except (ImportError, OSError) as error:
        if "libusb" not in str(error):
            raise
        try:
            import libusb_package
        except ImportError:
            raise ImportError(
                f"{error}: Open3D needs libusb-1.0. Install the system package libusb-1.0-0, or with pip libusb-package"
            ) from None
        ctypes.CDLL(str(libusb_package.get_library_path()), mode=ctypes.RTLD_GLOBAL)
        for name in [name for name in sys.modules if name.split(".")[0] == "open3d"]:
            del sys.modules[name]  # the half that had been imported
        import open3d
    return open3d
