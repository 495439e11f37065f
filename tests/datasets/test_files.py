"""Clouds from files: every format, the traps of the reader underneath, and damage in one line."""

from __future__ import annotations

import builtins
import importlib
import re
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image2point.datasets import files, registry
from image2point.datasets.files import import_open3d, read_cloud, unit_sphere
from image2point.errors import InputError

CLOUDS = Path(__file__).resolve().parents[2] / "data" / "fixtures" / "clouds"

CUBE = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
ROWS = "".join(f"{x} {y} {z}\n" for x, y, z in CUBE)
FACES = "".join("4 {} {} {} {}\n".format(*quad) for quad in QUADS)
PLY = "ply\nformat ascii 1.0\nelement vertex 8\nproperty float x\nproperty float y\nproperty float z\n"
PLY_FACES = "element face 6\nproperty list uchar int vertex_indices\n"
PCD = (
    "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\n"
    "WIDTH 8\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 8\nDATA ascii\n"
)
OBJ = "".join(f"v {row}\n" for row in ROWS.splitlines())
OBJ_QUADS = "".join("f {} {} {} {}\n".format(*(corner + 1 for corner in quad)) for quad in QUADS)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("path", sorted(CLOUDS.iterdir()), ids=lambda path: path.name)
def test_fixtures(path: Path) -> None:
    cloud = read_cloud(path, points=200)
    assert cloud.points.dtype == np.float32 and np.isfinite(cloud.points).all()
    assert len(cloud) == (200 if path.suffix in (".off", ".obj", ".ply", ".stl") else 64)
    np.testing.assert_array_equal(cloud.points, read_cloud(path, points=200).points)
    few = read_cloud(path, points=20)
    assert len(few) == 20
    assert not np.array_equal(few.points, read_cloud(path, points=20, seed=1).points)


def test_all_formats_have_a_fixture() -> None:
    assert {path.suffix for path in CLOUDS.iterdir()} == set(files.READERS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.off", f"OFF\n8 6 0\n{ROWS}{FACES}"),
        ("joined.off", f"OFF8 6 0\n{ROWS}{FACES}"),
        ("one_line.off", f"OFF 8 6 0\n{ROWS}{FACES}"),
        ("windows.off", f"OFF8 6 0\n{ROWS}{FACES}".replace("\n", "\r\n")),
        ("quads.obj", OBJ + OBJ_QUADS),
        ("mixed.obj", OBJ + OBJ_QUADS.splitlines()[0] + "\n" + "".join(
            f"f {a + 1} {b + 1} {c + 1}\nf {a + 1} {c + 1} {d + 1}\n" for a, b, c, d in QUADS[1:])),
        ("normals.obj", OBJ + "vn 0 0 1\n" + re.sub(r"(\d)", r"\1//1", OBJ_QUADS)),
        ("quads.ply", PLY + PLY_FACES + "end_header\n" + ROWS + FACES),
        ("UPPER.PLY", PLY + PLY_FACES + "end_header\n" + ROWS + FACES),
    ],
)  # fmt: skip
def test_a_cube_keeps_its_six_faces(tmp_path: Path, name: str, content: str) -> None:
    cloud = read_cloud(write(tmp_path / name, content), points=6000)
    share = [np.isclose(cloud.points[:, axis], side).mean() for axis in range(3) for side in (0, 1)]
    np.testing.assert_allclose(share, 1 / 6, atol=0.03)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.xyz", ROWS),
        ("more_columns.xyz", ROWS.replace("\n", " 9 9 9\n")),
        ("commas.xyz", "# a comment\n\n" + ROWS.replace(" ", ",")),
        ("a.pcd", PCD + ROWS),
        ("a.ply", PLY + "end_header\n" + ROWS),
    ],
)
def test_points_are_kept(tmp_path: Path, name: str, content: str) -> None:
    cloud = read_cloud(write(tmp_path / name, content))
    assert sorted(map(tuple, cloud.points.tolist())) == CUBE
    assert cloud.normals is None and cloud.colours is None


@pytest.mark.parametrize("options", [{"write_ascii": True}, {}, {"compressed": True}])
@pytest.mark.parametrize("suffix", [".pcd", ".ply"])
def test_what_open3d_writes(tmp_path: Path, suffix: str, options: dict[str, bool]) -> None:
    open3d = import_open3d()
    points = np.random.default_rng(0).normal(size=(50, 3))
    path = tmp_path / f"written{suffix}"
    open3d.io.write_point_cloud(str(path), open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points)), **options)
    np.testing.assert_allclose(read_cloud(path).points, points, atol=1e-5)


@pytest.mark.parametrize("suffix", [".pcd", ".ply"])
def test_normals_and_colours_stay_with_their_points(tmp_path: Path, suffix: str) -> None:
    open3d = import_open3d()
    points = np.random.default_rng(0).uniform(size=(50, 3))
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    cloud.normals = open3d.utility.Vector3dVector(2 * points)
    cloud.colors = open3d.utility.Vector3dVector(points)
    path = tmp_path / f"coloured{suffix}"
    open3d.io.write_point_cloud(str(path), cloud)
    for read in (read_cloud(path), read_cloud(path, points=20), read_cloud(path, points=20, normalise=True)):
        assert read.normals is not None and read.colours is not None
        assert len(read.points) == len(read.normals) == len(read.colours) == min(len(read), 50)
        np.testing.assert_allclose(np.linalg.norm(read.normals, axis=1), 1, atol=1e-6)
        length = np.linalg.norm(read.colours, axis=1, keepdims=True)
        np.testing.assert_allclose(read.colours / length, read.normals, atol=0.02)  # 8-bit colours
    np.testing.assert_allclose(read_cloud(path).colours, read_cloud(path).points, atol=0.005)


@pytest.mark.parametrize("name", ["cube.ply", "cube.off", "cube.obj"])
def test_a_mesh_has_the_normals_of_its_faces(tmp_path: Path, name: str) -> None:
    content = {
        "cube.ply": PLY + PLY_FACES + "end_header\n" + ROWS + FACES,
        "cube.off": f"OFF\n8 6 0\n{ROWS}{FACES}",
        "cube.obj": OBJ + OBJ_QUADS,
    }[name]
    cloud = read_cloud(write(tmp_path / name, content), points=300)
    assert cloud.normals is not None and cloud.colours is None
    on_face = np.isclose(cloud.points, 0) | np.isclose(cloud.points, 1)
    np.testing.assert_allclose(np.abs(cloud.normals)[on_face], 1, atol=1e-6)


def test_colours_of_vertices_are_interpolated(tmp_path: Path) -> None:
    colours = "property uchar red\nproperty uchar green\nproperty uchar blue\n"
    rows = "".join(f"{x} {y} {z} {255 * x} {255 * y} {255 * z}\n" for x, y, z in CUBE)
    cloud = read_cloud(write(tmp_path / "a.ply", PLY + colours + PLY_FACES + "end_header\n" + rows + FACES), 300)
    np.testing.assert_allclose(cloud.colours, cloud.points, atol=1e-6)


def test_npy_with_more_columns(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(50, 6))
    np.save(tmp_path / "a.npy", points)
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.npy").points, points[:, :3].astype(np.float32))


def test_subsampling_takes_points_of_the_file(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", points)
    cloud = read_cloud(tmp_path / "a.npy", points=30)
    assert len({tuple(row) for row in cloud.points} & {tuple(row) for row in points}) == 30


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "empty.ply": (b"", "damaged, or not a .ply file"),
    "junk.ply": ("hello", "damaged, or not a .ply file"),
    "no_points.ply": (PLY.replace("vertex 8", "vertex 0") + "end_header\n", "the cloud is empty"),
    "truncated.ply": (PLY + "end_header\n0 0 0\n1 1 1\n", "promises 8 rows of 'vertex', the file ends"),
    "faces_cut.ply": (
        PLY + PLY_FACES + "end_header\n" + ROWS + "4 0 1 3 2\n",
        "promises 6 rows of 'face', the file ends",
    ),
    "vertex99.ply": (
        PLY + PLY_FACES.replace("face 6", "face 1") + "end_header\n" + ROWS + "3 0 1 99\n",
        "a face uses vertex 99",
    ),
    "nan.ply": (PLY + "end_header\n" + ROWS.replace("1 1 1", "nan 1 1"), "1 of 8 points are not finite"),
    "empty.pcd": (b"", "its header has no line DATA"),
    "cut.pcd": (PCD + ROWS[:-10], "the header promises 8 points, found"),
    "short_line.pcd": (PCD + ROWS.replace("1 1 1", "1 1"), "promises 8 points, found 7 complete lines"),
    "inf.pcd": (PCD + ROWS.replace("0 0 0\n", "inf 0 0\n"), "not finite"),
    "blind.pcd": (PCD + "nan nan nan\n" * 8, "none of its 8 points are finite: all are NaN"),
    "binary_cut.pcd": ((PCD.replace("ascii", "binary")).encode() + bytes(50), "promises 8 points, 4 are there"),
    "empty.xyz": (b"", "the cloud is empty"),
    "two_columns.xyz": ("1 2 3\n4 5\n6 7 8\n", "point 1: expected x y z, found '4 5'"),
    "words.xyz": ("hello\n", "point 0: expected x y z"),
    "binary.xyz": (b"\x00\x01\x02", "it holds zero bytes"),
    "inf.xyz": ("1 2 3\n1 inf 3\n", "not finite, the first is point 1"),
    "empty.off": (b"", "expected OFF in its first line, found ''"),
    "no_header.off": ("8 6 0\n" + ROWS + FACES, "expected OFF in its first line, found '8 6 0'"),
    "vertices_cut.off": ("OFF\n8 6 0\n0 0 0\n", "promises 8 vertices"),
    "faces_cut.off": ("OFF\n8 6 0\n" + ROWS + "4 0 1 3 2\n", "promises 8 vertices and 6 faces, found 9 lines"),
    "joined_cut.off": ("OFF8 6 0\n" + ROWS + "4 0 1 3 2\n", "promises 8 vertices and 6 faces, found 9 lines"),
    "vertex99.off": ("OFF\n8 1 0\n" + ROWS + "3 0 1 99\n", "a face uses vertex 99"),
    "no_area.off": ("OFF\n3 1 0\n0 0 0\n0 0 0\n0 0 0\n3 0 1 2\n", "has no area"),
    "empty.obj": (b"", "it has no vertices"),
    "lines_only.obj": (OBJ + "l 1 2 3\n", "has no faces, only lines or curves (l)"),
    "vertex99.obj": (OBJ + "f 1 2 99\n", "a face uses vertex 99, but there are 8 vertices"),
    "quad99.obj": (OBJ + "f 1 2 99 3\n", "a face uses vertex 99"),
    "from_zero.obj": (OBJ + "f 0 1 2\n", "line 9: a face counts its vertices from 0; .obj counts from 1"),
    "too_far_back.obj": (OBJ + "f -1 -2 -9\n", "line 9: a face uses vertex -9, but there are 8 vertices before it"),
    "word.obj": (OBJ + "f 1 two 3\n", "line 9: expected f with numbers of vertices"),
    "short.obj": ("v 1 2\n" + OBJ, "line 1: expected v x y z, found 'v 1 2'"),
    "two_corners.obj": (OBJ + "f 1 2\n", "a face has 2 corners"),
    "cut.stl": ("solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\n", "1 facets need 3 vertices"),
    "empty.stl": ("solid a\nendsolid a\n", "a mesh without faces"),
    "nan.obj": ("v 0 0 0\nv 1 0 0\nv 0 nan 1\nf 1 2 3\nf 1 2 3\n", "not finite"),
    "empty.npy": (b"", "not a readable .npy array"),
    "junk.npy": (b"hello", "not a readable .npy array"),
    "model.doc": ("a", "unsupported suffix '.doc'; supported are .ply .pcd .xyz .pts .off .obj .stl .npy .npz"),
    "none": (b"", "unsupported suffix ''"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damage_is_one_line(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    content, message = BROKEN[name]
    path = write(tmp_path / name, content)
    with pytest.raises(InputError) as caught:
        read_cloud(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and message in text and "\n" not in text and "\x1b" not in text
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 3)), "the cloud is empty"),
        (np.zeros((5, 2)), r"expected an array \(P, 3 or more\), found \(5, 2\)"),
        (np.zeros(5), r"found \(5,\)"),
        (np.zeros((5, 3), complex), "expected real numbers"),
        (np.full((5, 3), [0, np.nan, 0]), "5 of 5 points are not finite"),
        (np.full((5, 3), np.nan), "none of its 5 points are finite: all are NaN"),
        (np.array([[None, 1, 2]], dtype=object), "not a readable .npy array"),
    ],
)
def test_wrong_npy(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=message):
        read_cloud(tmp_path / "a.npy")


def test_an_archive_is_no_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", points=np.zeros((4, 3)))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(InputError, match="an archive"):
        read_cloud(tmp_path / "a.npy")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.ply: no such file"):
        read_cloud(tmp_path / "a.ply")
    (tmp_path / "folder.ply").mkdir()
    with pytest.raises(InputError, match="this is a folder"):
        read_cloud(tmp_path / "folder.ply")
    with pytest.raises(InputError, match="points must be at least 1"):
        read_cloud(CLOUDS / "torus.npy", points=0)


@settings(deadline=None)
@given(st.integers(1, 40), st.floats(1e-3, 1e3), st.floats(-1e6, 1e6), st.integers(0, 99))
def test_unit_sphere(count: int, size: float, offset: float, seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(count, 3)) * size + offset
    before = points.copy()
    cloud = unit_sphere(points)
    np.testing.assert_array_equal(points, before)
    np.testing.assert_allclose(cloud.mean(axis=0), 0, atol=1e-6)
    radius = np.linalg.norm(cloud, axis=1).max()
    assert radius == pytest.approx(1 if count > 1 else 0, abs=1e-6)


def test_coordinates_of_a_map_keep_their_shape(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(100, 3))
    np.save(tmp_path / "map.npy", points + np.array([5e6, 4e5, 100]))
    cloud = read_cloud(tmp_path / "map.npy", normalise=True)
    np.testing.assert_allclose(cloud.points, unit_sphere(points), atol=1e-6)


def test_open3d_without_libusb(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without libusb-1.0 the copy in the package libusb-package is loaded first."""
    loaded: list[str] = []
    carrier = types.ModuleType("libusb_package")
    carrier.get_library_path = lambda: "the/library"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "libusb_package", carrier)
    monkeypatch.setattr(files.ctypes, "CDLL", lambda path, mode: loaded.append(path))
    _break_open3d(monkeypatch, until=lambda: bool(loaded))
    assert import_open3d().__name__ == "open3d"
    assert loaded == ["the/library"]


def test_no_libusb_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libusb_package", None)
    _break_open3d(monkeypatch, until=lambda: False)
    with pytest.raises(ImportError, match=r"needs libusb-1\.0\. Install the system package"):
        import_open3d()


def _break_open3d(monkeypatch: pytest.MonkeyPatch, until: Callable[[], bool]) -> None:
    """Make `import open3d` fail as it does without the library, `until` that is true."""
    real, stand_in = builtins.__import__, types.ModuleType("open3d")

    def fail(name: str, *rest: Any) -> Any:
        if name != "open3d":
            return real(name, *rest)
        if not until():
            raise OSError("libusb-1.0.so.0: cannot open shared object file: No such file or directory")
        return stand_in

    # The real modules, if another test has loaded them, must survive this one.
    for name in [name for name in sys.modules if name.split(".")[0] == "open3d"]:
        monkeypatch.setitem(sys.modules, name, sys.modules[name])
    monkeypatch.setattr(builtins, "__import__", fail)


def test_importing_the_module_is_light() -> None:
    source = Path(importlib.import_module("image2point.datasets.files").__file__ or "").read_text()
    assert "\nimport open3d" not in source and "trimesh" not in source


def test_the_name_of_a_member_stays_on_one_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("two\nlines\x1b.npy", b"no array")
    with pytest.raises(InputError, match=r"`two lines\\x1b.npy`") as caught:
        read_cloud(tmp_path / "a.npz")
    assert str(caught.value).isprintable()


def test_rows_of_a_damaged_list_stay_on_one_line(tmp_path: Path) -> None:
    row = '1,02691156,02691156,"a\n\x07/b",val\n'
    (tmp_path / "all.csv").write_text(f"id,synsetId,subSynsetId,modelId,split\n{row}")
    (tmp_path / "02691156").mkdir()
    with pytest.raises(InputError, match="row 1") as caught:
        registry.load_dataset("shapenet", tmp_path)
    assert str(caught.value).isprintable()
