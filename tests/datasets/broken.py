"""Files and folders that are broken in every way that users have met: what is wrong, how it is made, what reads it.

The table in docs/bad_input.md is made of these by scripts/bad_input_table.py.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import laspy
import layouts
import numpy as np

from image2point.datasets import registry
from image2point.datasets.catalogue import Options
from image2point.datasets.download import unpack_archive
from image2point.datasets.files import read_cloud
from image2point.datasets.prepare import prepare_dataset, read_all
from image2point.datasets.scene_files import read_scene
from image2point.datasets.splits import Splits, StoredClouds
from image2point.datasets.verify import verify_dataset
from image2point.errors import InputError


@dataclass(frozen=True)
class Case:
    """make: writes something broken into a folder and returns its path; read: what a user does with it."""

    what: str
    make: Callable[[Path], Path]
    read: Callable[[Path], object]


def message(case: Case, folder: Path) -> str:
    """What the user is told, with the folder cut off."""
    path = case.make(folder)
    try:
        case.read(path)
    except InputError as error:
        return str(error).replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "")
    raise AssertionError(f"{case.what}: nothing was noticed")


def _file(name: str, content: str | bytes) -> Callable[[Path], Path]:
    return lambda folder: layouts.write(folder / name, content)


def _array(name: str, values: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        np.save(folder / name, values, allow_pickle=True)
        return folder / name

    return make


def _cloud(what: str, name: str, content: str | bytes) -> Case:
    return Case(what, _file(name, content), read_cloud)


def _set(what: str, dataset: str, layout: Callable[[Path], Path], damage: Callable[[Path], object]) -> Case:
    """A healthy layout, damaged, then read as a whole."""

    def make(folder: Path) -> Path:
        root = layout(folder / dataset)
        damage(root)
        return root

    def read(root: Path) -> None:
        splits = registry.load_dataset(dataset, root)
        for part in (splits.train, splits.validation, splits.test):
            for cloud, _, _, problem in read_all(part) if part is not None else ():
                if cloud is None:
                    raise InputError(problem)

    return Case(what, make, read)


def _archive(what: str, *names: str, mode: int = stat.S_IFREG | 0o644, content: bytes = b"x") -> Case:
    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "archive.zip", "w", zipfile.ZIP_DEFLATED) as file:
            for name in names:
                entry = zipfile.ZipInfo(name)
                entry.external_attr = mode << 16
                file.writestr(entry, content, zipfile.ZIP_DEFLATED)
        return folder / "archive.zip"

    return Case(what, make, lambda path: unpack_archive(path, path.parent / "data", "data"))


def _h5(name: str, **arrays: object) -> Callable[[Path], object]:
    """Replaces arrays of a file; None removes one."""

    def damage(root: Path) -> None:
        with h5py.File(root / name, "r+") as file:
            for key, values in arrays.items():
                if key in file:
                    del file[key]
                if values is not None:
                    file[key] = values

    return damage


def _hole(root: Path) -> None:
    """A header that promises 8 TB, in a file of a few kilobytes."""
    with h5py.File(root / "ply_data_train0.h5", "r+") as file:
        del file["data"]
        file.create_dataset("data", shape=(333_000_000, 2048, 3), dtype="f4", chunks=(64, 2048, 3))


def _text(name: str, old: str, new: str) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        text = (root / name).read_text(encoding="utf-8")
        assert old in text
        (root / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return damage


def _index(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        index = json.loads((root / "prepared.json").read_text())
        change(index)
        (root / "prepared.json").write_text(json.dumps(index))

    return damage


def _prepared(root: Path) -> Path:
    points = layouts.points(0, 6, 8)
    clouds = StoredClouds("made", ("a", "b"), points, np.arange(6) % 2)
    prepare_dataset(Splits(clouds, None, clouds), root, "made")
    return root


def _scene_file(path: Path, **changes: np.ndarray | None) -> None:
    arrays = {"points": layouts.points(0, 1, 8)[0], "label": np.full(8, 2), **changes}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})


def _scene(what: str, damage: Callable[[Path], object]) -> Case:
    """A folder of two scenes, damaged, of which those to test on are read."""

    def make(folder: Path) -> Path:
        for split in ("train", "test"):
            _scene_file(folder / "town" / split / "a.npz")
        damage(folder / "town")
        return folder / "town"

    return Case(what, make, lambda root: registry.load_dataset("scenes", root, Options(labels={2: "ground"})).test[0])


def _cut_laz(folder: Path) -> Path:
    data = laspy.create(point_format=6, file_version="1.4")
    data.x, data.y, data.z = layouts.points(0, 1, 5000)[0].T
    data.write(folder / "whole.laz")
    content = (folder / "whole.laz").read_bytes()
    (folder / "a.laz").write_bytes(content[: len(content) // 2])
    return folder / "a.laz"


def _kitti(root: Path) -> Path:
    for sequence in ("00", "08"):
        for place, suffix, words in (("velodyne", "bin", 4), ("labels", "label", 1)):
            path = root / "sequences" / sequence / place / f"000000.{suffix}"
            path.parent.mkdir(parents=True)
            path.write_bytes(bytes(8 * 4 * words))
    return root


def _cut(name: str, keep: int) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:keep])


def _strict(root: Path) -> None:
    report = verify_dataset(registry.find_dataset("folder"), root, Options())
    if report.notes:
        raise InputError(report.notes[0])


def _shared(root: Path) -> None:
    shutil.copy(root / "train" / "table" / "a.npz", root / "test" / "table" / "same.npz")


def _loop(root: Path) -> None:
    os.symlink("tetra.off", root / "train" / "椅子" / "broken.off")
    (root / "train" / "椅子" / "tetra.off").unlink()


def _bomb(content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("points.npy", content)
        data = bytearray((folder / "a.npz").read_bytes())
        if len(content) > 2**20:  # the sizes that the archive says of itself, made a hundred times as large
            for at in (data.find(b"PK\1\2") + 24, 22):
                data[at : at + 4] = (100 * len(content) % 2**32).to_bytes(4, "little")
        (folder / "a.npz").write_bytes(data)
        return folder / "a.npz"

    return make


def _read_long(path: Path) -> object:
    try:
        return read_cloud(path)
    except InputError as error:
        raise InputError(str(error).replace("missing" * 50, "missing…")) from None


def _elsewhere(root: Path) -> Path:
    """A file with an array, outside of the data."""
    with h5py.File(root.parent / "private.h5", "w") as file:
        file["data"] = layouts.points(0, 6, 16)
    return root.parent / "private.h5"


def _replaced(root: Path, put: Callable[[h5py.File], object]) -> None:
    with h5py.File(root / "ply_data_train0.h5", "r+") as file:
        del file["data"]
        put(file)


def _external_link(root: Path) -> None:
    link = h5py.ExternalLink(str(_elsewhere(root)), "data")
    _replaced(root, lambda file: file.__setitem__("data", link))


def _external_storage(root: Path) -> None:
    place = [(str(_elsewhere(root)), 0, 6 * 16 * 3 * 4)]
    _replaced(root, lambda file: file.create_dataset("data", (6, 16, 3), "f4", external=place))


def _virtual(root: Path) -> None:
    layout = h5py.VirtualLayout(shape=(6, 16, 3), dtype="f4")
    layout[:] = h5py.VirtualSource(str(_elsewhere(root)), "data", shape=(6, 16, 3))
    _replaced(root, lambda file: file.create_virtual_dataset("data", layout))


def _load_relative(place: Path) -> object:
    place.mkdir()
    before = Path.cwd()
    os.chdir(place)
    try:
        return registry.load_dataset("folder", "clouds")
    finally:
        os.chdir(before)


def _one_class(folder: Path) -> Path:
    for split in ("train", "test"):
        layouts.write(folder / "clouds" / split / "ball" / "a.xyz", "1 2 3\n")
    return folder / "clouds"


def _splits_of_a_run(root: Path) -> object:
    from image2point import config as configuration
    from image2point.jobs.ingredients import load_splits

    return load_splits(configuration.from_values({"data": {"name": "folder", "root": str(root)}}).data)


PLY = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
FACES = "element face 1\nproperty list uchar int vertex_indices\n"
ROWS = "0 0 0\n1 0 0\n0 1 0\n"
PCD = (
    "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 3\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
    "POINTS 3\nDATA ascii\n"
)
NPY = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999, 3), }".ljust(117)
    + b"\n"
)
OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"
STL = bytes(80) + (4_000_000_000).to_bytes(4, "little") + bytes(50)

CASES: tuple[Case, ...] = (
    # one file
    _cloud("no such kind of file", "notes.doc", "hello"),
    Case("no such file", lambda folder: folder / "missing.ply", read_cloud),
    Case("a folder in place of a file", lambda folder: (folder / "a.ply").mkdir() or folder / "a.ply", read_cloud),
    _cloud("empty .ply", "a.ply", ""),
    _cloud("a picture named .ply", "photo.ply", b"\x89PNG\r\n\x1a\n" + bytes(40)),
    _cloud(".ply cut off in its header", "a.ply", PLY),
    _cloud(".ply with fewer vertices than promised", "a.ply", PLY + "end_header\n0 0 0\n"),
    _cloud(
        ".ply that promises 999,999,999,999 vertices",
        "a.ply",
        PLY.replace("3\n", "999999999999\n", 1) + "end_header\n" + ROWS,
    ),
    _cloud(".ply with a word for a number", "a.ply", PLY + "end_header\n" + ROWS.replace("1 0 0", "1 zero 0")),
    _cloud(".ply with NaN", "a.ply", PLY + "end_header\n" + ROWS.replace("1 0 0", "1 nan 0")),
    _cloud(
        ".ply with a face of a vertex that is not there", "a.ply", PLY + FACES + "end_header\n" + ROWS + "3 0 1 7\n"
    ),
    _cloud(".ply with a negative vertex number", "a.ply", PLY + FACES + "end_header\n" + ROWS + "3 0 1 -2\n"),
    _cloud(".ply with a face of two corners", "a.ply", PLY + FACES + "end_header\n" + ROWS + "2 0 1\n"),
    _cloud(".ply with a list of negative length", "a.ply", PLY + FACES + "end_header\n" + ROWS + "-3 0 1 2\n"),
    _cloud(".ply of faces alone", "a.ply", "ply\nformat ascii 1.0\n" + FACES + "end_header\n3 0 1 2\n"),
    _cloud(".ply without z", "a.ply", PLY.replace("property float z\n", "") + "end_header\n" + ROWS),
    _cloud(
        "binary .ply cut off",
        "a.ply",
        PLY.replace("ascii", "binary_little_endian").encode() + b"end_header\n" + bytes(20),
    ),
    _cloud(
        ".ply with a triangle strip of a vertex that is not there",
        "a.ply",
        PLY + FACES.replace("face", "tristrips") + "end_header\n" + ROWS + "4 0 1 2 7\n",
    ),
    _cloud(
        ".ply with colours beyond 16 bits",
        "a.ply",
        PLY
        + "".join(f"property int {c}\n" for c in ("red", "green", "blue"))
        + "end_header\n"
        + ROWS.replace("\n", " 0 0 70000\n"),
    ),
    _cloud(".pcd of which nothing was seen", "a.pcd", PCD + "nan nan nan\n" * 3),
    _cloud(".pcd with infinity", "a.pcd", PCD + ROWS.replace("1 0 0", "inf 0 0")),
    _cloud(".pcd with capital fields and no Z", "a.pcd", PCD.replace("x y z", "X Y H") + ROWS),
    _cloud(".pcd without a header", "a.pcd", ROWS),
    _cloud(".pcd with fewer lines than promised", "a.pcd", PCD + "0 0 0\n"),
    _cloud(".pcd whose counts contradict each other", "a.pcd", PCD.replace("WIDTH 3", "WIDTH 4") + ROWS),
    _cloud(".pcd with a field of an unknown type", "a.pcd", PCD.replace("TYPE F F F", "TYPE F F Q") + ROWS),
    _cloud("binary .pcd cut off", "a.pcd", PCD.replace("ascii", "binary").encode() + bytes(10)),
    _cloud(
        "compressed .pcd that promises too much",
        "a.pcd",
        PCD.replace("ascii", "binary_compressed").encode() + b"\xff" * 12,
    ),
    _cloud("empty .xyz", "a.xyz", ""),
    _cloud(".xyz with a line of two numbers", "a.xyz", "1 2 3\n4 5\n"),
    _cloud(".xyz with infinity", "a.xyz", "1 2 3\n4 inf 6\n"),
    _cloud(".xyz that is no text", "a.xyz", b"\xff\xfe\x00\x01"),
    _cloud(".xyz with a number beyond float32", "a.xyz", "1 2 3\n4 1e300 6\n"),
    _cloud(".pts with fewer points than its first line says", "a.pts", "5\n1 2 3\n"),
    _cloud(".xyz with a line that ran into the next", "a.xyz", "1 2 3\n4 5 6 7 8 9\n"),
    _cloud(".xyz that names three of its four columns", "a.xyz", ",x,y,z\n0,1,2,3\n"),
    _cloud(".xyz that names a column twice", "a.xyz", "x y z label label\n1 2 3 4 5\n"),
    _cloud(".xyz with decimal commas", "a.xyz", "1,5 2,5 3,5\n"),
    _cloud(".xyz that names its columns, with a row too short", "a.xyz", "x y z nx ny nz\n1 2 3 0 0 1\n1 2 3 0\n"),
    _cloud(".xyz with zero bytes", "a.xyz", b"1 2 3\n\x00\x00\n"),
    Case(
        ".xyz of six columns, of which a user names four",
        _file("a.xyz", "1 2 3 4 5 6\n"),
        lambda path: read_cloud(path, columns="x y z intensity"),
    ),
    Case(
        ".pcd with NaN, where that is to be refused",
        _file("a.pcd", PCD + ROWS.replace("1 0 0", "nan nan nan")),
        lambda path: read_cloud(path, nan_points="refuse"),
    ),
    _cloud(".off without OFF", "a.off", "3 1 0\n" + ROWS + "3 0 1 2\n"),
    _cloud(".off that promises 999,999,999 faces", "a.off", "OFF\n3 999999999 0\n" + ROWS + "3 0 1 2\n"),
    _cloud(".off with a negative vertex number", "a.off", "OFF\n3 1 0\n" + ROWS + "3 0 1 -1\n"),
    _cloud(".off with a face of a billion corners", "a.off", "OFF\n3 1 0\n" + ROWS + "999999999 0 1 2\n"),
    _cloud(".off with joined header, cut off", "a.off", "OFF3 1 0\n" + ROWS),
    _cloud(".off with a face over two lines, cut off", "a.off", "OFF\n3 1 0\n" + ROWS + "3 0\n1\n"),
    _cloud("binary .off", "a.off", "OFF BINARY\n" + ROWS),
    _cloud(".off whose surface has no area", "a.off", "OFF\n3 1 0\n0 0 0\n0 0 0\n0 0 0\n3 0 1 2\n"),
    _cloud(".obj with a face of a vertex that is not there", "a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n"),
    _cloud(".obj of lines only", "a.obj", "v 0 0 0\nv 1 0 0\nl 1 2\n"),
    _cloud(".obj without vertices", "a.obj", "hello\n"),
    _cloud(".obj that counts from 0", "a.obj", OBJ + "f 0 1 2\n"),
    _cloud(".obj that counts back beyond the first vertex", "a.obj", OBJ + "f -1 -2 -4\n"),
    _cloud(".obj with a word in a face", "a.obj", OBJ + "f 1 2 \x1b[2J\n"),
    _cloud(".obj with a vertex of two numbers", "a.obj", "v 0 0\n"),
    _cloud(".stl that promises four billion triangles", "a.stl", STL),
    _cloud(".stl cut off", "a.stl", bytes(40)),
    _cloud("text .stl cut off", "a.stl", "solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\n"),
    _cloud(".npy that promises 12 TB", "a.npy", NPY),
    Case(".npy with a column for each point", _array("a.npy", np.zeros((3, 500))), read_cloud),
    Case(
        ".npy of map coordinates in single precision",
        _array("a.npy", np.float32([[500000, 5800000, 80], [500001, 5800001, 81]])),
        read_cloud,
    ),
    Case(".npy of two columns", _array("a.npy", np.zeros((5, 2))), read_cloud),
    Case(".npy of Python objects", _array("a.npy", np.array([[None, 1, 2]], dtype=object)), read_cloud),
    Case(".npy of complex numbers", _array("a.npy", np.zeros((5, 3), complex)), read_cloud),
    Case(".npy without points", _array("a.npy", np.zeros((0, 3))), read_cloud),
    _cloud(".npz that is no archive", "a.npz", "hello"),
    Case(
        ".npz without `points`",
        lambda f: (np.savez(f / "a.npz", a=np.ones(3), b=np.ones(3)), f / "a.npz")[1],
        read_cloud,
    ),
    Case(".npz whose array promises more than it holds", _bomb(NPY), read_cloud),
    Case(".npz that unpacks to a thousand times its size", _bomb(bytes(64 * 2**20)), read_cloud),
    Case(
        ".npy of records without z",
        _array("a.npy", np.zeros(5, dtype=[("X", "f4"), ("Y", "f4")])),
        read_cloud,
    ),
    Case("a name that is too long", lambda folder: folder / f"{'missing' * 50}.ply", _read_long),
    # datasets
    Case("a relative root, from another folder", lambda folder: folder / "elsewhere", _load_relative),
    _set("an h5 file with a link into another file", "modelnet", layouts.modelnet_h5, _external_link),
    _set("an h5 file with its numbers in another file", "modelnet", layouts.modelnet_h5, _external_storage),
    _set("an h5 file that is a view of another", "modelnet", layouts.modelnet_h5, _virtual),
    _set(
        "a class name that steers the terminal",
        "modelnet",
        layouts.modelnet_h5,
        _text("shape_names.txt", "chair", "cha\x1b[2Jir"),
    ),
    _set(
        "a file name that steers the terminal",
        "folder",
        layouts.folder,
        lambda r: layouts.write(r / "train" / "table" / "a\x1b]0;b\x07.xyz", "1 2 3\n"),
    ),
    Case("a folder of one class", _one_class, _splits_of_a_run),
    Case(
        "a root that does not exist",
        lambda folder: folder / "nowhere",
        lambda root: registry.load_dataset("modelnet", root),
    ),
    _set(
        "a list of files that is empty",
        "modelnet",
        layouts.modelnet_h5,
        lambda r: (r / "test_files.txt").write_text("\n"),
    ),
    _set(
        "a listed h5 file that is missing",
        "modelnet",
        layouts.modelnet_h5,
        lambda r: (r / "ply_data_test1.h5").unlink(),
    ),
    _set(
        "an h5 file in train and test",
        "modelnet",
        layouts.modelnet_h5,
        _text("test_files.txt", "ply_data_test0", "ply_data_train0"),
    ),
    _set("an h5 file cut off", "modelnet", layouts.modelnet_h5, _cut("ply_data_train1.h5", 900)),
    _set("an h5 file without labels", "modelnet", layouts.modelnet_h5, _h5("ply_data_train0.h5", label=None)),
    _set("an h5 file that promises 8 TB", "modelnet", layouts.modelnet_h5, _hole),
    _set(
        "points of integers",
        "modelnet",
        layouts.modelnet_h5,
        _h5("ply_data_train0.h5", data=np.zeros((6, 16, 3), "i4")),
    ),
    _set("labels of floats", "modelnet", layouts.modelnet_h5, _h5("ply_data_train0.h5", label=np.zeros((6, 1), "f4"))),
    _set(
        "more labels than clouds",
        "modelnet",
        layouts.modelnet_h5,
        _h5("ply_data_train0.h5", label=np.zeros((9, 1), "u1")),
    ),
    _set(
        "a label beyond the classes",
        "modelnet",
        layouts.modelnet_h5,
        _h5("ply_data_test0.h5", label=np.full((6, 1), 57, "u1")),
    ),
    _set(
        "NaN in one row of an h5 file",
        "modelnet",
        layouts.modelnet_h5,
        _h5(
            "ply_data_test1.h5",
            data=np.where(np.arange(6)[:, None, None] == 4, np.nan, np.ones((6, 16, 3))).astype("f4"),
        ),
    ),
    _set(
        "a class listed twice",
        "modelnet",
        layouts.modelnet_h5,
        lambda r: (r / "shape_names.txt").write_text("chair\nchair\n"),
    ),
    _set(
        "a mesh folder with a picture",
        "modelnet_off",
        layouts.modelnet_off,
        lambda r: layouts.write(r / "chair/train/a.png", "x"),
    ),
    _set(
        "a class without test meshes",
        "modelnet_off",
        layouts.modelnet_off,
        lambda r: shutil.rmtree(r / "chair" / "test"),
    ),
    _set("a damaged mesh among others", "modelnet_off", layouts.modelnet_off, _cut("chair/train/chair_0002.off", 30)),
    _set(
        "a shape list that leads out of the folder",
        "modelnet_text",
        layouts.modelnet_text,
        _text("modelnet40_train.txt", "chair_0001", "../../chair_0001"),
    ),
    _set(
        "a shape in train and test",
        "modelnet_text",
        layouts.modelnet_text,
        _text("modelnet40_test.txt", "chair_0004", "chair_0001"),
    ),
    _set(
        "a row of five numbers",
        "modelnet_text",
        layouts.modelnet_text,
        lambda r: layouts.write(r / "chair/chair_0001.txt", "1,2,3,0,0,1\n1,2,3,0,1\n"),
    ),
    _set(
        "a word in a row",
        "modelnet_text",
        layouts.modelnet_text,
        lambda r: layouts.write(r / "chair/chair_0001.txt", "1,2,3,0,0,1\n1,2,x,0,0,1\n"),
    ),
    _set("ShapeNet without its split", "shapenet", layouts.shapenet_meshes, lambda r: (r / "all.csv").unlink()),
    _set(
        "a listed model that is missing", "shapenet", layouts.shapenet_meshes, lambda r: shutil.rmtree(r / "03001627")
    ),
    _set("a split list without its columns", "shapenet", layouts.shapenet_meshes, _text("all.csv", "modelId", "model")),
    _set(
        "a label with two names",
        "shapenet",
        lambda r: layouts.shapenet_h5(r, 8),
        _text("test0_id2name.json", "bag", "cap"),
    ),
    _set("a name list that is no JSON", "shapenet", lambda r: layouts.shapenet_h5(r, 8), _cut("val0_id2name.json", 9)),
    _set(
        "a part beyond the 50",
        "shapenet_part",
        layouts.shapenet_part_text,
        lambda r: layouts.write(r / "03001627/0a04e3eab45ca15dd.txt", "0 0 0 0 0 1 12\n1 0 0 0 0 1 50\n"),
    ),
    _set(
        "part labels of another length",
        "shapenet_part",
        layouts.shapenet_part_h5,
        _h5("ply_data_val0.h5", pid=np.zeros((3, 9), "u1")),
    ),
    _set(
        "scans without the asked-for variant",
        "scanobjectnn",
        lambda r: layouts.scanobjectnn(r, 8),
        lambda r: shutil.rmtree(r / "main_split"),
    ),
    _set(
        "an empty class",
        "folder",
        layouts.folder,
        lambda r: shutil.rmtree(r / "train" / "table") or (r / "train" / "table").mkdir(),
    ),
    _set(
        "a class in test that train lacks",
        "folder",
        layouts.folder,
        lambda r: layouts.write(r / "test" / "bed" / "a.xyz", "1 2 3\n"),
    ),
    _set("train without test", "folder", layouts.folder, lambda r: shutil.rmtree(r / "test")),
    _set("clouds without folders of classes", "folder", lambda r: r, lambda r: layouts.write(r / "a.xyz", "1 2 3\n")),
    _set(
        "a file of an unknown kind",
        "folder",
        layouts.folder,
        lambda r: layouts.write(r / "train" / "椅子" / "メモ.doc", "x"),
    ),
    _set("a link that leads nowhere", "folder", layouts.folder, _loop),
    Case(
        "one cloud in train and test",
        lambda f: (layouts.folder(f / "clouds"), _shared(f / "clouds"), f / "clouds")[2],
        _strict,
    ),
    # scenes
    _scene("a scene with a label too few", lambda r: _scene_file(r / "test" / "a.npz", label=np.full(7, 2))),
    _scene("a scene with a label that nobody named", lambda r: _scene_file(r / "test" / "a.npz", label=np.full(8, 42))),
    _scene("a scene with half a label", lambda r: _scene_file(r / "test" / "a.npz", label=np.full(8, 2.5))),
    _scene("a scene without labels", lambda r: _scene_file(r / "test" / "a.npz", label=None)),
    _scene("a scene in two formats", lambda r: layouts.write(r / "test" / "a.txt", "x y z label\n0 0 0 2\n")),
    _scene(
        "a scene of which nothing was seen", lambda r: _scene_file(r / "test" / "a.npz", points=np.full((8, 3), np.nan))
    ),
    Case("a LAZ file cut off", _cut_laz, lambda path: read_scene(path, None)),
    Case("a picture named .las", _file("photo.las", b"\x89PNG\r\n\x1a\n"), lambda path: read_scene(path, None)),
    _set(
        "a scan of SemanticKITTI cut off",
        "semantickitti",
        _kitti,
        lambda r: (r / "sequences/08/velodyne/000000.bin").write_bytes(b"123"),
    ),
    # prepared data
    _set("prepared data of another version", "prepared", _prepared, _index(lambda index: index.update(version=9))),
    _set("a shard cut off", "prepared", _prepared, _cut("train/00000.points.npy", 100)),
    _set(
        "an index that leads out of its folder",
        "prepared",
        _prepared,
        _index(lambda index: index["splits"]["train"]["files"][0].update(path="../../etc/passwd")),
    ),
    _set("an index cut off", "prepared", _prepared, _cut("prepared.json", 200)),
    # archives
    _archive("an archive with `..`", "data/a", "data/../../evil"),
    _archive("an archive with an absolute name", "/etc/evil"),
    _archive("an archive with a link", "data/link", mode=stat.S_IFLNK | 0o777, content=b"/etc/passwd"),
    _archive("an archive that unpacks to a hundred thousand times its size", "data/bomb", content=bytes(64 * 2**20)),
    _archive("an archive of something else", "other/a"),
    _archive("an archive with a name that is too long", f"data/{'a' * 300}"),
    _archive("an archive of a thousand folders in one another", "data/" + "a/" * 1000 + "b"),
    _archive("an archive with a file that is a folder elsewhere", "data/a", "data/a/b"),
    _archive("an archive with a name that steers the terminal", "data\x1b[2J/a"),
    Case(
        "a web page in place of an archive",
        _file("archive.zip", "<html>404</html>"),
        lambda p: unpack_archive(p, p.parent / "data", "data"),
    ),
)
