"""One cloud from one file, whatever its format: points as they are, meshes sampled from their surface.

Open3D reads the files. It also reports damage with a printed warning and hands back whatever it had, so what
it prints is caught here and becomes the error. What it reads wrongly goes round it: ModelNet's joined OFF
headers (`OFF490 518 0`), OBJ faces with more than three corners (trimesh), and text formats whose bad lines
it skips.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from image2point.datasets.cloud import Cloud
from image2point.datasets.meshes import Mesh, sample_surface
from image2point.datasets.validate import check_cloud, check_points
from image2point.errors import InputError


def read_cloud(path: str | Path, points: int = 1024, seed: int = 0, normalise: bool = False) -> Cloud:
    """Read a cloud from a .ply, .pcd, .xyz, .off, .obj or .npy file.

    A mesh gives `points` points, uniform over its surface. A point file gives `points` of its points at
    random, or all where it has no more than that. The same file, `points` and `seed` give the same cloud.
    Coordinates stay in the file's units, unless `normalise` moves them into the unit sphere (before rounding
    to float32, which matters for coordinates far from the origin, as in maps).

    Normals and colours of the points come with .ply and .pcd that have them. On a mesh, normals are those of the
    faces, towards the side from which the file winds them counterclockwise, and colours those of the vertices,
    interpolated.

    .xyz: one point per line, x y z first, separated by blanks or commas; # begins a comment. .npy: real
    numbers [P, C], C >= 3, of which the first three columns are x, y, z.

    Raises InputError, in one line that begins with the path, for a missing or unreadable file, another
    suffix, damage, no points, NaN or infinite coordinates, and a mesh without area.
    """
    path = Path(path)
    if points < 1:
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

    rng = np.random.default_rng(seed)
    if isinstance(content, Mesh):
        cloud = sample_surface(_checked(content, path), points, rng, str(path))
    else:
        check_cloud(content, str(path))
        few = len(content) <= points
        cloud = content if few else content.take(rng.choice(len(content), points, replace=False))
    return check_cloud(replace(cloud, points=unit_sphere(cloud.points)) if normalise else cloud, str(path))


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


def _read_npy(path: Path) -> Cloud:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: not a readable .npy array of numbers: {error}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.shape[1] < 3:
        raise InputError(f"{path}: expected an array (P, 3 or more), found {getattr(array, 'shape', 'an archive')}")
    return Cloud(array[:, :3])


def _read_xyz(path: Path) -> Cloud:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split("#")[0].replace(",", " ").split()
        if fields:
            try:
                x, y, z = map(float, fields[:3])
            except ValueError:
                raise InputError(f"{path} line {number}: expected x y z, found {line.strip()[:60]!r}") from None
            rows.append((x, y, z))
    return Cloud(np.array(rows).reshape(-1, 3))


def _read_pcd(path: Path) -> Cloud:
    _check_ascii_pcd(path)
    return _open3d_points(path)


def _check_ascii_pcd(path: Path) -> None:
    """Open3D fills missing lines of a text .pcd with zeros without a word, so count them."""
    head, found, body = path.read_bytes().partition(b"DATA ascii")
    count = re.search(rb"^POINTS\s+(\d+)", head, re.MULTILINE)
    fields = re.search(rb"^FIELDS\s+(.*)$", head, re.MULTILINE)
    if not (found and count and fields):
        return  # binary, or no header at all: Open3D notices what is wrong with those
    lines = [line for line in body.splitlines() if line.strip()]
    short = [line for line in lines if len(line.split()) < len(fields[1].split())]
    if len(lines) != int(count[1]) or short:
        raise InputError(
            f"{path}: the header promises {int(count[1])} points, found {len(lines) - len(short)} complete lines"
        )


def _read_ply(path: Path) -> Cloud | Mesh:
    content = _open3d_triangles(path)
    if len(content.triangles):
        return _mesh(content)
    vertices, normals, colours = content.vertices, content.vertex_normals, content.vertex_colors
    return Cloud(np.asarray(vertices), _some(normals), _some(colours))


def _read_off(path: Path) -> Mesh:
    with path.open("rb") as file:
        header = file.readline()
        joined = re.fullmatch(rb"OFF\s*(\d+\s+\d+\s+\d+\s*)", header)
        if not joined:
            return _with_faces(_open3d_mesh(path), path)
        with tempfile.TemporaryDirectory() as folder:
            repaired = Path(folder) / "repaired.off"
            with repaired.open("wb") as copy:
                copy.write(b"OFF\n" + joined[1])
                shutil.copyfileobj(file, copy)
            return _with_faces(_open3d_mesh(repaired, path), path)


def _read_obj(path: Path) -> Mesh:
    with path.open("rb") as file:
        polygons = any(line.startswith(b"f") and len(line.split(b"#")[0].split()) > 4 for line in file)
    return _with_faces((_trimesh_mesh if polygons else _open3d_mesh)(path), path)


READERS: dict[str, Callable[[Path], Cloud | Mesh]] = {
    ".ply": _read_ply,
    ".pcd": _read_pcd,
    ".xyz": _read_xyz,
    ".off": _read_off,
    ".obj": _read_obj,
    ".npy": _read_npy,
}


def _with_faces(mesh: Mesh, path: Path) -> Mesh:
    if not len(mesh.triangles):
        raise InputError(f"{path}: a mesh without faces; for points alone use .ply or .xyz")
    return mesh


def _checked(mesh: Mesh, path: Path) -> Mesh:
    """Only vertices that a face uses matter; they must exist and be finite."""
    low, high = int(mesh.triangles.min()), int(mesh.triangles.max())
    if low < 0 or high >= len(mesh.vertices):
        wrong = low if low < 0 else high
        raise InputError(f"{path}: a face uses vertex {wrong}, but there are {len(mesh.vertices)} vertices")
    check_points(mesh.vertices[np.unique(mesh.triangles)], f"{path}, vertices")
    return mesh


def _open3d_mesh(path: Path, name: Path | None = None) -> Mesh:
    return _mesh(_open3d_triangles(path, name))


def _open3d_triangles(path: Path, name: Path | None = None) -> Any:
    open3d = import_open3d()
    return _run(path, name or path, lambda: open3d.io.read_triangle_mesh(str(path)))


def _mesh(content: Any) -> Mesh:
    triangles = np.asarray(content.triangles).astype(np.int64)
    return Mesh(np.asarray(content.vertices), triangles, _some(content.vertex_colors))


def _open3d_points(path: Path) -> Cloud:
    open3d = import_open3d()
    keep = {"remove_nan_points": False, "remove_infinite_points": False}  # they are refused, not dropped
    content = _run(path, path, lambda: open3d.io.read_point_cloud(str(path), **keep))
    return Cloud(np.asarray(content.points), _some(content.normals), _some(content.colors))


def _some(vectors: Any) -> np.ndarray | None:
    """Open3D's vectors [P, 3]; None where the file has none."""
    return np.asarray(vectors) if len(vectors) else None


def _run(path: Path, name: Path, read: Callable[[], Any]) -> Any:
    """Read quietly; anything that Open3D reports as failed is an InputError."""
    with _listening() as heard:
        content = read()
    said = re.sub(r"\x1b\[[0-9;]*m|\[Open3D \w+\] ", "", "\n".join(heard)).replace(str(path), name.name)
    failures = [line for line in said.splitlines() if re.search("fail|unable|error|not supported", line, re.IGNORECASE)]
    if failures:
        raise InputError(f"{name}: damaged, or not a {name.suffix} file: {'; '.join(dict.fromkeys(failures))}")
    return content


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Catch what is printed: Open3D writes to Python's stdout, its PLY library to the process's stderr."""
    heard: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file, redirect_stdout(StringIO()) as printed:
        os.dup2(file.fileno(), 2)
        try:
            yield heard
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            heard += [file.read().decode(errors="replace"), printed.getvalue()]


def _trimesh_mesh(path: Path) -> Mesh:
    import trimesh

    try:
        mesh: Any = trimesh.load(path, force="mesh", process=False)
    except Exception as error:  # trimesh raises whatever its parsing stumbled over
        raise InputError(f"{path}: damaged, or not a {path.suffix} file: {type(error).__name__}: {error}") from None
    return Mesh(np.asarray(mesh.vertices), np.asarray(mesh.faces).astype(np.int64))


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
