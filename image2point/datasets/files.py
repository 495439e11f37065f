"""One cloud from one file, whatever its format: points as they are, meshes sampled from their surface.

Open3D samples meshes. Files are read by `ply.py`, `pcd.py`, `off.py` and `arrays.py`, and by trimesh (.obj, .stl):
Open3D's own readers hand back whatever they had of a damaged file, drop polygons, and end the process on one damaged
file in fifty.
"""

from __future__ import annotations

import ctypes
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from image2point.datasets.arrays import read_npy, read_npz
from image2point.datasets.cloud import Cloud
from image2point.datasets.meshes import Mesh, areas
from image2point.datasets.off import read_off
from image2point.datasets.pcd import read_pcd
from image2point.datasets.ply import read_ply
from image2point.datasets.text import LARGEST, read_lines
from image2point.datasets.validate import check_cloud, check_points
from image2point.errors import InputError, one_line

SAMPLES = 2048
"""Points of a mesh where no number is asked for."""


def read_cloud(path: str | Path, points: int | None = 1024, seed: int = 0, normalise: bool = False) -> Cloud:
    """Read a cloud from a .ply, .pcd, .xyz, .pts, .off, .obj, .stl, .npy or .npz file.

    A mesh gives `points` points, uniform over its surface. A point file gives `points` of its points at
    random, or all where it has no more than that. None: 2048 points of a mesh, all of a point file. The same
    file, `points` and `seed` give the same cloud.
    Coordinates stay in the file's units, unless `normalise` moves them into the unit sphere (before rounding
    to float32, which matters for coordinates far from the origin, as in maps).

    Normals and colours of the points come with .ply and .pcd that have them. On a mesh, normals are those of the
    faces, towards the side from which the file winds them counterclockwise, and colours those of the vertices,
    interpolated.

    .xyz: one point per line, x y z first, separated by blanks or commas; # begins a comment. .pts: the same, perhaps
    after a line with the number of points; seven columns are x y z, intensity and 8-bit red, green, blue. .npy: real
    numbers [P, C], C >= 3, of which the first three columns are x, y, z. .npz: such an array named `points`, or
    alone; `normals`, `colours` and `parts` where it has arrays of these names.

    Raises InputError, in one line that begins with the path, for a missing or unreadable file, another
    suffix, damage, no points, NaN or infinite coordinates, and a mesh without area.
    """
    path = Path(path)
    if points is not None and points < 1:
        raise InputError(f"points must be at least 1, found {points}")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: unsupported suffix {path.suffix!r}; supported are {' '.join(READERS)}")
    if not path.is_file():
        raise InputError(f"{path}: " + ("this is a folder, expected a file" if path.is_dir() else "no such file"))
    try:
        content = reader(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None

    if isinstance(content, Mesh):
        cloud = _sample(content, points or SAMPLES, seed, path)
    else:
        check_cloud(content, str(path))
        few = points is None or len(content) <= points
        cloud = (
            content if few else content.take(np.random.default_rng(seed).choice(len(content), points, replace=False))
        )
    return check_cloud(replace(cloud, points=unit_sphere(cloud.points)) if normalise else cloud, str(path))


@np.errstate(over="ignore", invalid="ignore")  # what is not finite afterwards is refused, with its place
def unit_sphere(points: np.ndarray) -> np.ndarray:
    """Move the mean of `points` [P, 3] to the origin and scale the farthest point to distance 1; same type, new array.

    Points that all coincide become the origin.
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


def _read_xyz(path: Path) -> Cloud:
    return Cloud(np.array(list(_rows(path, 3))).reshape(-1, 3))


def _read_pts(path: Path) -> Cloud:
    rows = list(_rows(path, 7, counted=True))
    wide = bool(rows) and all(len(row) == 7 for row in rows)
    table = np.array([row if wide else row[:3] for row in rows]).reshape(len(rows), 7 if wide else 3)
    return Cloud(table[:, :3], colours=table[:, 4:] / 255 if wide else None)


def _rows(path: Path, width: int, counted: bool = False) -> Iterator[list[float]]:
    """The first `width` numbers of each line, at least three. `counted`: the first line may be their number, alone."""
    promised, found = None, 0
    for line in read_lines(path):
        fields = line.replace(",", " ").split()
        if counted and not found and promised is None and re.fullmatch(r"\d{1,15}", line):
            promised = int(line)
            continue
        try:
            row = [float(field) for field in fields[:width]]
        except ValueError:
            row = []
        if len(row) < 3:
            raise InputError(f"{path} point {found}: expected x y z, found {line[:60]!r}")
        found += 1
        yield row
    if promised is not None and promised != found:
        raise InputError(f"{path}: its first line promises {promised} points, found {found}")


def _read_obj(path: Path) -> Mesh:
    return _trimesh_mesh(path, skip_materials=True, maintain_order=True)


def _read_stl(path: Path) -> Mesh:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
    if not (head.lstrip().startswith(b"solid") and b"facet" in head):
        count = int.from_bytes(head[80:84], "little") if len(head) >= 84 else None
        if count is None or 84 + 50 * count != size:
            promised = "no number of triangles" if count is None else f"{count} triangles, {84 + 50 * count:,} bytes"
            raise InputError(f"{path}: damaged, or not a .stl file: its header has {promised}, the file {size:,} bytes")
    return _trimesh_mesh(path)


def _trimesh_mesh(path: Path, **options: Any) -> Mesh:
    import trimesh

    if path.stat().st_size > LARGEST:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes; expected at most {LARGEST:,}")
    try:
        with np.errstate(all="ignore"), quiet("trimesh"):
            mesh: Any = trimesh.load(path, force="mesh", process=False, **options)
            vertices, triangles = np.asarray(mesh.vertices), np.asarray(mesh.faces).astype(np.int64)
    except Exception as error:  # trimesh raises whatever its parsing stumbled over
        reason = one_line(error)
        raise InputError(f"{path}: damaged, or not a {path.suffix} file: {type(error).__name__}: {reason}") from None
    return Mesh(vertices, triangles.reshape(-1, 3))


READERS: dict[str, Callable[[Path], Cloud | Mesh]] = {
    ".ply": read_ply,
    ".pcd": read_pcd,
    ".xyz": _read_xyz,
    ".pts": _read_pts,
    ".off": read_off,
    ".obj": _read_obj,
    ".stl": _read_stl,
    ".npy": read_npy,
    ".npz": read_npz,
}


def _sample(mesh: Mesh, count: int, seed: int, path: Path) -> Cloud:
    """`count` points of a mesh, uniform over its area, with the normals of their faces and colours between vertices.

    Only vertices that a face uses matter; they must exist and be finite.
    """
    if not len(mesh.triangles):
        raise InputError(f"{path}: a mesh without faces; for points alone use .ply or .xyz")
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


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Keep a library and its modules from logging: what it complains of becomes the error."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


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
