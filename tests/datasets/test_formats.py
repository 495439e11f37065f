"""Files as other programs write them, each with the reading that is right."""

from __future__ import annotations

import codecs
import struct
import tracemalloc
from pathlib import Path

import layouts
import numpy as np
import pytest

from image2point.datasets import registry
from image2point.datasets.catalogue import Options
from image2point.datasets.cifar10 import load_cifar10
from image2point.datasets.files import READERS, read_cloud
from image2point.datasets.listed import read_json_list, read_list
from image2point.datasets.meshes import Mesh, areas
from image2point.errors import InputError

XYZ = "element vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
SQUARE = "0 0 0\n2 0 0\n0 2 0\n2 2 0\n"
PCD = "VERSION 0.7\nFIELDS {}\nSIZE {}\nTYPE {}\nWIDTH 4\nHEIGHT 1\nPOINTS 4\nDATA ascii\n"


def mesh_of(path: Path, content: str | bytes) -> Mesh:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    mesh = READERS[path.suffix](path)
    assert isinstance(mesh, Mesh)
    return mesh


def text(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


OBJ = "".join(f"v {row}\n" for row in SQUARE.splitlines())
TWO = {(0, 1, 2), (1, 3, 2)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.obj", OBJ + "f 1 2 3\nf 2 4 3\n"),
        ("backwards.obj", OBJ + "f -4 -3 -2\nf -3 -1 -2\n"),
        ("backwards_in_between.obj", OBJ.replace("v 2 2 0\n", "") + "f -3 -2 -1\nv 2 2 0\nf -3 -1 -2\n"),
        ("textures.obj", "vt 0 0\nvt 1 0\nvn 0 0 1\n" + OBJ + "f -4/-2/-1 -3/-1/-1 -2/1/1\nf 2/1/1 4/1/1 3/2/1\n"),
        ("normals.obj", "vn 0 0 1\n" + OBJ + "f 1//1 2//-1 3//1\nf 2//1 4//1 3//1\n"),
        ("materials.obj", OBJ + "usemtl a\nf 1 2 3\nusemtl f 7\ng f v 1 2\ns off\nf 2 4 3\n"),
        ("continued.obj", OBJ + "f 1 \\\n 2 3\nf 2 4\\\r\n 3 # a comment\n"),
        ("marked.obj", codecs.BOM_UTF8 + OBJ.encode() + b"f 1 2 3\nf 2 4 3\n# \xe9t\xe9\n"),
        ("later.obj", "f 1 2 3\nf 2 4 3\n" + OBJ),
        ("faces_over_lines.off", f"OFF\n4 2 0\n{SQUARE}3 0\n1\n2\n3 1 3\n 2\n"),
        ("colours_behind.off", f"OFF\n4 2 0\n{SQUARE}3 0 1 2 255 0 0\n3 1 3 2 0.5 0.5 0.5 1\n"),
        ("lower.off", f"off\n4 2\n{SQUARE}3 0 1 2\n3 1 3 2\n"),
        ("marked.off", codecs.BOM_UTF8 + f"OFF\n4 2 0\n{SQUARE}3 0 1 2\n3 1 3 2\n".encode()),
        ("latin.off", f"OFF # \xe9\n4 2 0\n{SQUARE}3 0 1 2\n3 1 3 2\n".encode("latin-1")),
        ("strip.ply", f"ply\nformat ascii 1.0\n{XYZ}element tristrips 1\nproperty list int int vertex_indices\n"
         f"end_header\n{SQUARE}4 0 1 2 3\n"),
        ("strips.ply", f"ply\nformat ascii 1.0\n{XYZ}element tristrips 1\nproperty list int int vertex_indices\n"
         f"end_header\n{SQUARE}9 0 1 2 -1 1 3 2 2 -1\n"),
        ("marked.ply", codecs.BOM_UTF8 + f"ply\nformat ascii 1.0\n{XYZ}element face 2\n"
         f"property list uchar int vertex_indices\nend_header\n{SQUARE}3 0 1 2\n3 1 3 2\n".encode()),
    ],
)  # fmt: skip
def test_two_triangles(tmp_path: Path, name: str, content: str | bytes) -> None:
    mesh = mesh_of(tmp_path / name, content)
    np.testing.assert_array_equal(mesh.vertices, np.fromstring(SQUARE, sep=" ").reshape(4, 3))
    assert {tuple(np.roll(row, -row.argmin()).tolist()) for row in mesh.triangles} == TWO
    assert areas(mesh).tolist() == [2, 2]


def test_a_long_strip_keeps_its_winding(tmp_path: Path) -> None:
    """Binary, as the scanners of Stanford write it: every second triangle of a strip runs the other way round."""
    vertices = b"".join(struct.pack("<3f", i // 2, i % 2, 0) for i in range(12))
    header = XYZ.replace("4", "12")
    content = f"ply\nformat binary_little_endian 1.0\n{header}element tristrips 1\n".encode()
    content += b"property list int int vertex_indices\nend_header\n" + vertices
    mesh = mesh_of(tmp_path / "a.ply", content + struct.pack("<14i", 13, *range(6), -1, *range(6, 12)))
    a, b, c = (mesh.vertices[mesh.triangles[:, corner]] for corner in range(3))
    assert len(mesh.triangles) == 8 and (np.cross(b - a, c - a)[:, 2] == -1).all()


def test_materials_cost_no_memory(tmp_path: Path) -> None:
    """Two thousand materials over the same vertices: kept once, not once for each."""
    faces = "".join(f"usemtl m{i}\nf {3 * i + 1} {3 * i + 2} {3 * i + 3}\n" for i in range(2000))
    content = "".join(f"v {i} {j == 1:d} {j == 2:d}\n" for i in range(2000) for j in range(3)) + faces
    tracemalloc.start()
    mesh = mesh_of(tmp_path / "a.obj", content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mesh.vertices.shape == (6000, 3) and areas(mesh).sum() == pytest.approx(1000)
    assert peak < 40 * len(content)


def test_facets_in_text_and_binary_are_one_mesh(tmp_path: Path) -> None:
    """Solids one after the other, capitals, and a binary file whose header begins with `solid`."""
    corners = np.array([[[0, 0, 0], [2, 0, 0], [0, 2, 0]], [[2, 0, 0], [2, 2, 0], [0, 2, 0]]], dtype=np.float32)
    loops = ["".join("VERTEX {:g} {:g} {:g}\n".format(*point) for point in facet) for facet in corners]
    solids = [f"Solid a\nfacet normal 0 0 1\nouter loop\n{loop}endloop\nendfacet\nendsolid a\n" for loop in loops]
    records = b"".join(struct.pack("<3f", 0, 0, 0) + facet.tobytes() + b"\0\0" for facet in corners)
    binary = b"solid facet".ljust(80) + (2).to_bytes(4, "little") + records
    for name, content in (("text", codecs.BOM_UTF8 + "".join(solids).encode()), ("binary", binary)):
        mesh = mesh_of(tmp_path / f"{name}.stl", content)
        np.testing.assert_array_equal(mesh.vertices[mesh.triangles], corners)


@pytest.mark.parametrize("name", ["points.obj", "points.off"])
def test_vertices_alone_are_points(tmp_path: Path, name: str) -> None:
    content = "".join(f"vn 0 0 1\nv {row} 255 0 {i}\n" for i, row in enumerate(SQUARE.splitlines()))
    if name.endswith(".off"):
        content = "NCOFF\n4 0 0\n" + "".join(
            f"{row} 0 0 2 255 0 {i} 255\n" for i, row in enumerate(SQUARE.splitlines())
        )
    cloud = read_cloud(text(tmp_path / name, content))
    np.testing.assert_array_equal(cloud.points, np.fromstring(SQUARE, sep=" ").reshape(4, 3))
    np.testing.assert_allclose(cloud.colours, [[1, 0, i / 255] for i in range(4)])
    assert cloud.normals is None if name.endswith(".obj") else (cloud.normals == [0, 0, 1]).all()


def test_colours_between_the_vertices_of_an_obj(tmp_path: Path) -> None:
    content = "v 0 0 0 0 0 0\nv 1 0 0 1 0 0\nv 0 1 0 0 1 0\nf 1 2 3\n"
    cloud = read_cloud(text(tmp_path / "a.obj", content), points=50)
    np.testing.assert_allclose(cloud.colours, cloud.points, atol=1e-6)


L = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]
ARROW = [(0, 0), (2, 1), (0, 2), (1, 1)]
KEYHOLE = [(0, 0), (3, 0), (3, 3), (0, 3), (0, 0), (1, 1), (1, 2), (2, 2), (2, 1), (1, 1)]
COMB = [(0, 0), (5, 0), (5, 3), (4, 3), (4, 1), (3, 1), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)]


@pytest.mark.parametrize(
    ("outline", "area"), [(L, 3), (ARROW, 1), (COMB, 11), (KEYHOLE, 8), ([(0, 0), (1, 0), (2, 0), (1, 1)], 1)]
)
@pytest.mark.parametrize("plane", [(0, 1), (1, 2), (2, 0), (1, 0)])
@pytest.mark.parametrize("start", range(4))
def test_polygons_that_are_not_convex(
    tmp_path: Path, outline: list[tuple[int, int]], area: float, plane: tuple[int, int], start: int
) -> None:
    """Cut from one corner, the triangles of such a polygon would overlap and reach out of it."""
    corners = np.ones((len(outline), 3))
    corners[:, plane] = np.roll(outline, start, axis=0)
    rows = "".join("{} {} {}\n".format(*corner) for corner in corners)
    face = " ".join(map(str, range(len(outline))))
    mesh = mesh_of(tmp_path / "a.off", f"OFF\n{len(outline)} 1 0\n{rows}{len(outline)} {face}\n")
    assert areas(mesh).sum() == pytest.approx(area) and len(mesh.triangles) == len(outline) - 2
    a, b, c = (mesh.vertices[mesh.triangles[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    assert (normals @ normals.sum(axis=0) >= 0).all()  # the winding of the file is kept
    assert normals.sum(axis=0)[3 - sum(plane)] * (1 if plane in ((0, 1), (1, 2), (2, 0)) else -1) > 0


# --- what depth cameras do not see


def test_points_that_were_not_seen(tmp_path: Path) -> None:
    rows = "nan nan nan 0 0 1\n1 2 3 nan nan nan\n4 nan 6 0 0 1\n7 8 9 0 2 0\n"
    names = "x y z normal_x normal_y normal_z"
    path = text(tmp_path / "a.pcd", PCD.format(names, "4 " * 6, "F " * 6) + rows)
    notes: list[str] = []
    cloud = read_cloud(path, note=notes.append)
    assert cloud.points.tolist() == [[1, 2, 3], [7, 8, 9]] and cloud.normals is not None
    assert cloud.normals.tolist() == [[0, 0, 0], [0, 1, 0]]  # the first is unknown
    assert len(notes) == 1 and "2 of 4 points are NaN" in notes[0] and str(path) in notes[0]
    with pytest.raises(InputError, match="2 of 4 points are not finite, the first is point 0"):
        read_cloud(path, nan_points="refuse")
    with pytest.raises(InputError, match="nan_points must be drop or refuse"):
        read_cloud(path, nan_points="keep")  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".xyz", ".npy", ".ply"])
def test_in_other_files_only_points_that_are_nan_throughout(tmp_path: Path, suffix: str) -> None:
    def written(rows: str) -> Path:
        path = tmp_path / f"a{suffix}"
        if suffix == ".npy":
            np.save(path, np.array(rows.split(), dtype=np.float32).reshape(-1, 3))
            return path
        return text(path, rows if suffix == ".xyz" else f"ply\nformat ascii 1.0\n{XYZ}end_header\n{rows}")

    seen = read_cloud(written("1 2 3\nnan nan nan\n4 5 6\n7 8 9\n"), note=lambda _: None)
    assert seen.points.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    with pytest.raises(InputError, match="1 of 4 points are not finite"):
        read_cloud(written("1 2 3\nnan 0 nan\n4 5 6\n7 8 9\n"), note=lambda _: None)


def test_a_set_tells_of_the_first_file_of_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            for number in range(3):
                layouts.write(tmp_path / split / name / f"{number}.xyz", f"nan nan nan\n1 2 {number}\n3 4 5\n")
    train = registry.load_dataset("folder", tmp_path).train
    assert [len(train[i]) for i in range(6)] == [2] * 6
    assert len([record for record in caplog.records if "1 of 3 points are NaN" in record.message]) == 2
    refusing = registry.load_dataset("folder", tmp_path, Options(nan_points="refuse")).train
    with pytest.raises(InputError, match="not finite"):
        refusing[0]


# --- names and scales of columns


@pytest.mark.parametrize(
    ("fields", "sizes", "types", "row"),
    [
        ("X Y Z Red Green Blue", "8 8 8 2 2 2", "F F F U U U", "1 2 3 65535 0 13107"),
        ("x y z RGB", "4 4 4 4", "F F F U", f"1 2 3 {(255 << 16) + 51}"),
        ("x y z r g b", "4 4 4 4 4 4", "F F F F F F", "1 2 3 1.0 0 0.2"),
        ("x y z diffuse_red diffuse_green diffuse_blue", "4 4 4 1 1 1", "F F F U U U", "1 2 3 255 0 51"),
    ],
)
def test_colours_by_any_name(tmp_path: Path, fields: str, sizes: str, types: str, row: str) -> None:
    cloud = read_cloud(text(tmp_path / "a.pcd", PCD.format(fields, sizes, types) + f"{row}\n" * 4))
    assert cloud.points[0].tolist() == [1, 2, 3]
    np.testing.assert_allclose(cloud.colours[0], [1, 0, 0.2], atol=1e-6)  # type: ignore[index]


@pytest.mark.parametrize(
    ("kind", "prefix", "row"),
    [
        ("uchar", "diffuse_", "255 0 51"),
        ("uint8", "", "255 0 51"),
        ("ushort", "", "65535 0 13107"),
        ("ushort", "", "255 0 51"),
        ("float", "", "1 0 0.2"),
        ("float", "", "255 0 51"),
        ("int", "", "255 0 51"),
    ],
)
def test_colours_of_any_type(tmp_path: Path, kind: str, prefix: str, row: str) -> None:
    properties = "".join(f"property {kind} {prefix}{name}\n" for name in ("red", "green", "blue"))
    rows = "".join(f"{point} {row}\n" for point in SQUARE.splitlines())
    cloud = read_cloud(text(tmp_path / "a.ply", f"ply\nformat ascii 1.0\n{XYZ}{properties}end_header\n{rows}"))
    np.testing.assert_allclose(cloud.colours, [[1, 0, 0.2]] * 4, atol=1e-6)


@pytest.mark.parametrize("name", ["dark.ply", "dark.pcd", "dark.pts"])
def test_bytes_are_bytes_however_dark(tmp_path: Path, name: str) -> None:
    properties = "".join(f"property uchar {each}\n" for each in ("red", "green", "blue"))
    header = {"ply": f"ply\nformat ascii 1.0\n{XYZ}{properties}end_header\n", "pts": "4\n",
              "pcd": PCD.format("x y z red green blue", "4 4 4 1 1 1", "F F F U U U")}[name[-3:]]  # fmt: skip
    cloud = read_cloud(text(tmp_path / name, header + SQUARE.replace("\n", " 1 0 1\n")))
    np.testing.assert_allclose(cloud.colours, [[1 / 255, 0, 1 / 255]] * 4, atol=1e-7)


def test_an_older_header_and_commas(tmp_path: Path) -> None:
    header = PCD.format("X Y Z", "4 4 4", "F F F").replace("FIELDS", "COLUMNS").replace("WIDTH 4\nHEIGHT 1\n", "")
    cloud = read_cloud(text(tmp_path / "a.pcd", header + SQUARE.replace(" ", ",")))
    assert cloud.points.tolist()[3] == [2, 2, 0]


def test_records_of_npy(tmp_path: Path) -> None:
    records = np.zeros(3, dtype=[("Intensity", "u2"), ("X", "f8"), ("Y", "f8"), ("Z", "f8"), ("name", "S4")])
    records["X"], records["Z"] = [1, 2, 3], 7
    np.save(tmp_path / "a.npy", records)
    assert read_cloud(tmp_path / "a.npy").points.tolist() == [[1, 0, 7], [2, 0, 7], [3, 0, 7]]


def test_bytes_as_colours_of_npz(tmp_path: Path) -> None:
    colours = np.array([[255, 0, 51]] * 2, dtype=np.uint8)
    np.savez(tmp_path / "a.npz", points=np.zeros((2, 3)), colours=colours)
    np.testing.assert_allclose(read_cloud(tmp_path / "a.npz").colours, [[1, 0, 0.2]] * 2, atol=1e-6)


# --- columns of .xyz and .pts


HEADERS = ("x y z nx ny nz", "//X Y Z Nx Ny Nz", '# "x","y","z","nx","ny","nz"', "X;Y;Z;NormalX;NormalY;NormalZ")


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_names_the_columns(tmp_path: Path, header: str) -> None:
    cloud = read_cloud(text(tmp_path / "a.xyz", f"{header}\n2\n1 2 3 0 0 5\n4 5 6 0 5 0\n"))
    assert cloud.points.tolist() == [[1, 2, 3], [4, 5, 6]] and cloud.colours is None
    assert cloud.normals is not None and cloud.normals.tolist() == [[0, 0, 1], [0, 1, 0]]


def test_a_comment_about_x_y_z_is_no_header(tmp_path: Path) -> None:
    cloud = read_cloud(text(tmp_path / "a.xyz", "# x y z in metres\n# points: 2\n1 2 3\n4 5 6\n"))
    assert cloud.points.tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(InputError, match="line 1: expected decimal points, found a decimal comma"):
        read_cloud(text(tmp_path / "b.xyz", "1,5;2,5;3,5;255;0;0\n"))


@pytest.mark.parametrize("head", [",x,y,z", "id x y z extra", "x,y,z"])
def test_names_for_another_number_of_columns_are_refused(tmp_path: Path, head: str) -> None:
    path = text(tmp_path / "a.xyz", f"{head}\n0,0.5,0.25,0.75\n1,1,2,3\n")
    with pytest.raises(InputError, match=r"a line names [35] columns \(.*\), and the rows have 4; name them all"):
        read_cloud(path)
    assert read_cloud(path, columns="_ x y z").points.tolist() == [[0.5, 0.25, 0.75], [1, 2, 3]]


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a line names the column 'label' twice"):
        read_cloud(text(tmp_path / "a.xyz", "x y z label label\n1 2 3 4 5\n"))


def test_arrays_the_wrong_way_round_are_refused(tmp_path: Path) -> None:
    for suffix, shape in ((".npy", (3, 500)), (".npz", (6, 40)), (".npy", (48, 64))):
        path = tmp_path / f"a{suffix}"
        (np.save if suffix == ".npy" else np.savez)(path, np.zeros(shape))  # type: ignore[operator]
        with pytest.raises(InputError, match="more columns than rows; is it transposed"):
            read_cloud(path)
    np.save(tmp_path / "few.npy", np.ones((2, 9)) * [[1], [2]])
    assert len(read_cloud(tmp_path / "few.npy")) == 2


def test_coordinates_of_maps_in_single_precision_are_refused(tmp_path: Path) -> None:
    """Once they are moved to the origin, nothing would show that the shape is lost."""
    ball = np.random.default_rng(0).normal([500000, 5800000, 80], size=(200, 3))
    fields = {"x": "f4", "y": "f4", "z": "f4"}
    np.save(tmp_path / "a.npy", ball.astype(np.float32))
    np.save(tmp_path / "b.npy", np.array([tuple(row) for row in ball], dtype=list(fields.items())))
    np.savez(tmp_path / "c.npz", points=ball.astype(np.float32))
    for path in sorted(tmp_path.iterdir()):
        for normalise in (False, True):
            with pytest.raises(InputError, match=r"near 5\.8e\+06, float32 numbers are 0\.5 apart, and the cloud is"):
                read_cloud(path, normalise=normalise)
    np.save(tmp_path / "a.npy", ball)
    assert len(np.unique(read_cloud(tmp_path / "a.npy", normalise=True).points[:, 1])) == 200


def test_no_rows_at_all(tmp_path: Path) -> None:
    for columns in (None, "x y z nx ny nz"):
        with pytest.raises(InputError, match="the cloud is empty"):
            read_cloud(text(tmp_path / "a.xyz", "x y z nx ny nz\n"), columns=columns)


def test_a_user_names_the_columns(tmp_path: Path) -> None:
    path = text(tmp_path / "a.xyz", "10 1 2 3 255 0 51\n10 4 5 6 0 0 0\n")
    cloud = read_cloud(path, columns="_ x y z r g b")
    assert cloud.points.tolist() == [[1, 2, 3], [4, 5, 6]]
    np.testing.assert_allclose(cloud.colours, [[1, 0, 0.2], [0, 0, 0]], atol=1e-6)
    assert read_cloud(path, columns="_, X, Y, Z, nx, ny, nz").normals is not None
    for wrong in ("x y", "x y z red green", "x y z x", "x y z depth", ""):
        with pytest.raises(InputError, match="expected x y z, perhaps nx ny nz"):
            read_cloud(path, columns=wrong or "y z")


def test_columns_that_nobody_named_are_told_of(tmp_path: Path) -> None:
    notes: list[str] = []
    cloud = read_cloud(text(tmp_path / "a.xyz", "1 2 3 255 0 51\n4 5 6 0 0 0\n"), note=notes.append)
    assert cloud.colours is None and cloud.normals is None
    assert len(notes) == 1 and "columns 4 to 6 are left out" in notes[0] and "red green blue" in notes[0]
    read_cloud(text(tmp_path / "a.xyz", "1 2 3\n4 5 6\n"), note=notes.append)
    assert len(notes) == 1


@pytest.mark.parametrize(("rest", "coloured"), [("255 0 51", True), ("-80 255 0 51", True), ("0.1 0.2 0.3", False)])
def test_columns_of_pts(tmp_path: Path, rest: str, coloured: bool) -> None:
    rows = f"1 2 3 {rest}\n4 5 6 {rest}\n"
    cloud = read_cloud(text(tmp_path / "a.pts", f"2\n{rows}2\n{rows}"), note=lambda _: None)  # two scans in one file
    assert cloud.points.tolist() == [[1, 2, 3], [4, 5, 6]] * 2
    if coloured:
        np.testing.assert_allclose(cloud.colours, [[1, 0, 0.2]] * 4, atol=1e-6)
    else:
        assert cloud.colours is None


@pytest.mark.parametrize("separator", [",", ";", "\t", " , ", "; "])
def test_separators(tmp_path: Path, separator: str) -> None:
    cloud = read_cloud(
        text(tmp_path / "a.xyz", SQUARE.replace(" ", separator).replace("\n", f"{separator.strip()}\r\n"))
    )
    assert cloud.points.tolist()[3] == [2, 2, 0]


def test_a_config_says_what_the_columns_are(tmp_path: Path) -> None:
    from image2point import config as configuration
    from image2point.jobs.ingredients import load_splits

    for split in ("train", "test"):
        for name in ("a", "b"):
            layouts.write(tmp_path / split / name / "1.xyz", "1 2 3 255 0 51\n3 4 5 255 0 51\n")
    data = {"name": "folder", "root": str(tmp_path), "columns": "x y z red green blue", "validation": 0}
    cloud = load_splits(configuration.from_values({"data": data}).data).train[0]
    np.testing.assert_allclose(cloud.colours, [[1, 0, 0.2]] * 2, atol=1e-6)
    with pytest.raises(InputError, match="expected x y z"):
        load_splits(configuration.from_values({"data": {**data, "columns": "x y z red"}}).data)


# --- byte order marks and litter


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_in_any_text(tmp_path: Path, encoding: str) -> None:
    def marked(name: str, content: str) -> Path:
        path = layouts.write(tmp_path / name, content.encode(encoding))
        assert path.read_bytes()[:2] in (b"\xef\xbb", b"\xff\xfe", b"\xfe\xff")
        return path

    assert read_cloud(marked("a.xyz", SQUARE)).points.tolist()[1] == [2, 0, 0]
    assert read_cloud(marked("a.pts", f"4\n{SQUARE}")).points.tolist()[1] == [2, 0, 0]
    assert len(mesh_of(marked("a.off", ""), f"OFF\n4 1 0\n{SQUARE}4 0 1 3 2\n".encode(encoding)).triangles) == 2
    assert len(mesh_of(marked("a.obj", ""), f"{OBJ}f 1 2 4 3\n".encode(encoding)).triangles) == 2
    marked("names.txt", "chair\nbed\n")
    assert read_list(tmp_path, "names.txt", "") == ["chair", "bed"]
    assert read_json_list(marked("a.json", '["chair"]'), "names") == ["chair"]


def remark(path: Path) -> None:
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())


LISTS = {
    "modelnet": (layouts.modelnet_h5, ("shape_names.txt", "train_files.txt", "test_files.txt")),
    "modelnet_text": (layouts.modelnet_text, ("modelnet40_shape_names.txt", "chair/chair_0001.txt")),
    "shapenet": (layouts.shapenet_meshes, ("all.csv",)),
    "shapenet_part": (layouts.shapenet_part_text, ("synsetoffset2category.txt", "02691156/0a04e3eab45ca15dd.txt")),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_byte_order_mark_in_lists(tmp_path: Path, name: str) -> None:
    make, files = LISTS[name]
    plain = registry.load_dataset(name, make(tmp_path / "plain"))
    root = make(tmp_path / "marked")
    for file in files:
        remark(root / file)
    marked = registry.load_dataset(name, root)
    assert marked.train.classes == plain.train.classes and len(marked.train) == len(plain.train)
    np.testing.assert_array_equal(marked.train[0].points, plain.train[0].points)


def test_a_byte_order_mark_in_the_names_of_cifar(tmp_path: Path) -> None:
    layouts.write(tmp_path / "batches.meta.txt", codecs.BOM_UTF8 + b"cat\r\ndog\r\n")
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        (tmp_path / name).write_bytes(bytes(3073))
    assert load_cifar10(tmp_path)[0].classes == ("cat", "dog")


LITTER = (".DS_Store", "._a.off", "Thumbs.db", "desktop.ini", "ehthumbs.db", "__MACOSX/x", "Icon\r", "@eaDir/y")


@pytest.mark.parametrize("name", ["modelnet_off", "folder", "shapenet"])
def test_litter_of_file_managers(tmp_path: Path, name: str) -> None:
    make = {"modelnet_off": layouts.modelnet_off, "folder": layouts.folder,
            "shapenet": lambda r: layouts.shapenet_pc15k(r, 20)}[name]  # fmt: skip
    plain = registry.load_dataset(name, make(tmp_path / "plain"))
    root = make(tmp_path / "littered")
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for place in folders:
        for litter in (*LITTER, "._a.npy"):
            layouts.write(place / litter, "x")
    littered = registry.load_dataset(name, root)
    assert littered.train.classes == plain.train.classes
    assert [len(littered.train), len(littered.test)] == [len(plain.train), len(plain.test)]
    for index in range(len(littered.train)):
        np.testing.assert_array_equal(littered.train[index].points, plain.train[index].points)
