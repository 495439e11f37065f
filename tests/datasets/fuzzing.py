"""Damaged files for every reader: healthy ones with bytes flipped, cut, doubled, and numbers made huge or negative."""

from __future__ import annotations

import io
import re
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import laspy
import layouts
import numpy as np
import scene_layouts

import image2point as i2p
from image2point.datasets import registry
from image2point.datasets.files import import_open3d, read_cloud
from image2point.datasets.label_table import LabelTable
from image2point.datasets.prepare import prepare_dataset
from image2point.datasets.scene_files import read_scene
from image2point.datasets.validate import check_cloud
from image2point.errors import InputError
from image2point.lifting import artefact

WORDS = (
    b"nan", b"inf", b"-1", b"0", b"4294967295", b"999999999999", b"1e308", b"-2147483648", b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff", b"\n", b" ", b"\xe6\xa4", b"property list uchar int x\n", b"{", b"[" * 50,
)  # fmt: skip


TRISTRIPS = (
    b"ply\nformat binary_big_endian 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n"
    b"property uchar diffuse_red\nproperty uchar diffuse_green\nproperty uchar diffuse_blue\nelement tristrips 1\n"
    b"property list int int vertex_indices\nend_header\n"
    + b"".join(struct.pack(">3f3B", i & 1, i >> 1, i, i, i, i) for i in range(4))
    + struct.pack(">9i", 8, 0, 1, 2, 3, -1, 2, 1, 0)
)
OVER_LINES = (
    "COFF\n4 2 0\n" + "".join(f"{i & 1} {i >> 1} {i} 9 9 {i} 255\n" for i in range(4)) + "4 0\n1\n2 3\n3 1 2 3 7\n"
)


SCANNET = "scans/scene0011_00/scene0011_00_vh_clean_2"


def print_nothing(_: str) -> None:
    """In place of the log, where notes about thousands of files would go."""


@dataclass(frozen=True)
class Target:
    """Healthy contents of one kind of file, and what reads it; `name` is its path in the folder that is read."""

    contents: tuple[bytes, ...]
    name: str
    read: Callable[[Path], object]


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """One to four injuries."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        if not data:
            break
        at, length = int(rng.integers(len(data))), int(rng.integers(1, 1 + min(64, len(data))))
        match rng.integers(8):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at : at + length] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
            case 2:
                del data[at:]
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length]
            case 5:
                word = WORDS[rng.integers(len(WORDS))]
                data[at : at + int(rng.integers(2)) * len(word)] = word
            case _:  # one of the numbers of a text, mostly of its header
                numbers = list(re.finditer(rb"-?\d+", bytes(data[:2000] if rng.integers(2) else data)))
                if numbers:
                    found = numbers[rng.integers(len(numbers))]
                    data[found.start() : found.end()] = WORDS[rng.integers(8)]
    return bytes(data)


def read_damaged(target: Target, content: bytes, folder: Path) -> str:
    """ "cloud" or "refused" as it should be; else what went wrong."""
    path = folder / target.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    try:
        target.read(folder)
    except InputError as error:
        text = str(error)
        if not text or "\n" in text or len(text) > 2000:
            return f"the message is not one line: {text[:200]!r}"
        return "refused"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "cloud"


@cache
def targets() -> dict[str, Target]:
    """Every kind of file by a short name."""
    found = {}
    for suffix, contents in _single().items():
        name = f"file{suffix}"
        found[suffix] = Target(contents, name, lambda folder, name=name: read_cloud(folder / name, note=print_nothing))  # type: ignore[misc]
    table = LabelTable({number: f"class {number}" for number in range(256)})
    for suffix, contents in _scenes().items():
        name = f"scene{suffix}"
        found[f"scene {suffix}"] = Target(
            contents,
            name,
            lambda folder, name=name: read_scene(folder / name, table, note=print_nothing),  # type: ignore[misc]
        )
    for name, content in _network().items():
        found[f"saved {name}"] = Target((content,), name, _read_network)
    for name, dataset, make, damaged in (
        ("modelnet h5", "modelnet", layouts.modelnet_h5, "ply_data_train0.h5"),
        ("modelnet list", "modelnet", layouts.modelnet_h5, "train_files.txt"),
        ("modelnet_text", "modelnet_text", layouts.modelnet_text, "chair/chair_0001.txt"),
        ("scanobjectnn h5", "scanobjectnn", _small_scans, "main_split/test_objectdataset_augmentedrot_scale75.h5"),
        ("shapenet csv", "shapenet", layouts.shapenet_meshes, "all.csv"),
        ("shapenet h5", "shapenet", _small_shapes, "val0.h5"),
        ("shapenet json", "shapenet", _small_shapes, "val0_id2name.json"),
        ("part text", "shapenet_part", layouts.shapenet_part_text, "02691156/0a04e3eab45ca15dd.txt"),
        ("part json", "shapenet_part", layouts.shapenet_part_text, "train_test_split/shuffled_val_file_list.json"),
        ("part h5", "shapenet_part", layouts.shapenet_part_h5, "ply_data_test0.h5"),
        ("s3dis text", "s3dis", scene_layouts.s3dis_folder, "Area_5/hallway_6/Annotations/stairs_1.txt"),
        ("s3dis array", "s3dis", _rooms_of_arrays, "Area_5/hallway_6/coord.npy"),
        ("kitti scan", "semantickitti", scene_layouts.kitti_folder, "sequences/08/velodyne/000001.bin"),
        ("kitti labels", "semantickitti", scene_layouts.kitti_folder, "sequences/08/labels/000001.label"),
        ("scannet points", "scannet", scene_layouts.scannet_folder, SCANNET + ".ply"),
        ("scannet labels", "scannet", scene_layouts.scannet_folder, SCANNET + ".labels.ply"),
        ("prepared json", "prepared", _prepared, "prepared.json"),
        ("prepared points", "prepared", _prepared, "train/00000.points.npy"),
        ("prepared starts", "prepared", _prepared, "train/starts.npy"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            content = (make(Path(folder) / "x") / damaged).read_bytes()
        found[name] = Target((content,), damaged, _reader(dataset, make, damaged))
    return found


def _reader(dataset: str, make: Callable[[Path], Path], damaged: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        if not (folder / ".made").exists():
            content = (folder / damaged).read_bytes()
            make(folder)
            (folder / damaged).write_bytes(content)
            (folder / ".made").touch()
        splits = registry.load_dataset(dataset, folder)
        parts = (splits.train, splits.validation, splits.test)
        # Meshes are left alone: the lists that lead to them are what is damaged.
        if damaged.endswith(".csv"):
            return [len(part) for part in parts if part is not None]
        return [check_cloud(part[i], "cloud") for part in parts if part is not None for i in range(len(part))]

    return read


def _single() -> dict[str, tuple[bytes, ...]]:
    """Single clouds and meshes, in every encoding that a format has."""
    points = layouts.points(0, 12)
    open3d = import_open3d()
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    cloud.normals = open3d.utility.Vector3dVector(points)
    cloud.colors = open3d.utility.Vector3dVector(np.abs(points))
    mesh = open3d.geometry.TriangleMesh.create_box()
    with tempfile.TemporaryDirectory() as folder:

        def saved(suffix: str, write: Callable[[str], object]) -> bytes:
            path = Path(folder) / f"file{suffix}"
            write(str(path))
            return path.read_bytes()

        def of_cloud(suffix: str, **options: bool) -> bytes:
            return saved(suffix, lambda path: open3d.io.write_point_cloud(path, cloud, **options))

        def of_mesh(suffix: str, **options: bool) -> bytes:
            return saved(suffix, lambda path: open3d.io.write_triangle_mesh(path, mesh, **options))

        ply = (of_cloud(".ply", write_ascii=True), of_cloud(".ply"), of_mesh(".ply", write_ascii=True), of_mesh(".ply"))
        pcd = tuple(of_cloud(".pcd", **o) for o in ({"write_ascii": True}, {}, {"compressed": True}))  # type: ignore[arg-type]
        boxes = of_mesh(".obj"), of_mesh(".off")
    rows = "".join(f"{x} {y} {z}\n" for x, y, z in points)
    triangles = np.zeros(4, dtype=[("floats", "<f4", (4, 3)), ("attribute", "<u2")])
    triangles["floats"] = layouts.points(1, 4, 4)
    facets = "".join(
        "facet normal 0 0 1\nouter loop\n" + "".join(f"vertex {x} {y} {z}\n" for x, y, z in corners[1:])
        + "endloop\nendfacet\n" for corners in triangles["floats"]
    )  # fmt: skip
    array, archive = io.BytesIO(), io.BytesIO()
    np.save(array, points)
    np.savez_compressed(archive, points=points, normals=points)
    return {
        ".ply": (*ply, TRISTRIPS),
        ".pcd": (*pcd, pcd[0].replace(b"x y z", b"X Y Z"), pcd[0].replace(b"\n0", b"\nnan", 3)),
        ".xyz": (
            rows.encode(),
            f"//X,Y,Z,R,G,B\n{rows}".replace("\n", ",1,2,3\n").replace("B,1,2,3", "B").replace(" ", ",").encode(),
            rows.encode("utf-16"),
        ),
        ".pts": (
            f"12\n{rows}".encode(),
            f"12\n{rows}".replace("\n", " 1 2 3 4\n").replace("12 1 2 3 4", "12").encode(),
        ),
        ".off": (layouts.off().encode(), layouts.off(joined=True).encode(), boxes[1], OVER_LINES.encode()),
        ".obj": (
            layouts.obj().encode(),
            boxes[0],
            f"{layouts.obj()}f 1 2 3 4\n".encode(),
            f"{layouts.obj()}usemtl a\nf -4/-1 -3/-1 \\\n -2/-1\n".encode(),
        ),
        ".stl": (
            bytes(80) + (4).to_bytes(4, "little") + triangles.tobytes(),
            f"solid a\n{facets}endsolid a\n".encode(),
        ),
        ".npy": (array.getvalue(),),
        ".npz": (archive.getvalue(),),
    }


def _scenes() -> dict[str, tuple[bytes, ...]]:
    """Single scenes with a label for each point."""
    points, labels = layouts.points(0, 12), np.arange(12, dtype=np.uint8) % 3
    found: dict[str, tuple[bytes, ...]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".las", ".laz"):
            contents = []
            for version, kind in (("1.2", 3), ("1.4", 7)):
                scene = laspy.LasData(laspy.LasHeader(version=version, point_format=kind))
                scene.x, scene.y, scene.z = points.T
                scene.classification, scene.intensity, scene.red = labels, labels, labels
                scene.write(Path(folder) / f"scene{suffix}")
                contents.append((Path(folder) / f"scene{suffix}").read_bytes())
            found[suffix] = tuple(contents)
    rows = "".join(f"{x} {y} {z} {label}\n" for (x, y, z), label in zip(points, labels, strict=True))
    archive, records = io.BytesIO(), io.BytesIO()
    np.savez(archive, coord=points, segment=labels[:, None], intensity=labels)
    fields = np.zeros(12, [("x", "<f8"), ("y", "<f4"), ("z", "<f4"), ("label", "u1")])
    fields["x"], fields["y"], fields["z"], fields["label"] = *points.T, labels
    np.save(records, fields)
    head = "ply\nformat ascii 1.0\nelement vertex 12\n" + "".join(f"property float {axis}\n" for axis in "xyz")
    return found | {
        ".ply": (f"{head}property uchar label\nend_header\n{rows}".encode(),),
        ".npz": (archive.getvalue(),),
        ".npy": (records.getvalue(),),
        ".txt": (f"x y z label\n{rows}".encode(), f"# x,y,z,class\n{rows}".encode()),
    }


def _network() -> dict[str, bytes]:
    """The files of a saved network, which `_read_network` puts beside the damaged one."""
    with tempfile.TemporaryDirectory() as folder:
        net = i2p.lift("test_resnet", weights="random", num_classes=3)
        home = net.save(Path(folder) / "net", voxel_size=0.1, classes=["a", "b", "c"], scores={"accuracy": 0.5})
        return {path.name: path.read_bytes() for path in sorted(home.iterdir())}


_kept: dict[str, bytes] = {}


def _read_network(folder: Path) -> object:
    _kept.update({} if _kept else _network())
    for name, content in _kept.items():
        if not (folder / name).exists():
            (folder / name).write_bytes(content)
    return artefact.read(folder)


def _rooms_of_arrays(root: Path) -> Path:
    return scene_layouts.s3dis_folder(root, scene_layouts.pointcept_room)


def _small_scans(root: Path) -> Path:
    return layouts.scanobjectnn(root, size=16)


def _small_shapes(root: Path) -> Path:
    return layouts.shapenet_h5(root, size=16)


def _prepared(root: Path) -> Path:
    with tempfile.TemporaryDirectory() as folder:
        splits = registry.load_dataset("modelnet", layouts.modelnet_h5(Path(folder)))
        out = Path(folder) / "out"
        prepare_dataset(splits, out, "modelnet")
        for path in sorted(out.rglob("*")):
            if path.is_file():
                layouts.write(root / path.relative_to(out), path.read_bytes())
    return root
