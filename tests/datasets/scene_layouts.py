"""S3DIS, SemanticKITTI and ScanNet: small folders in the layouts of the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np

from image2point.datasets import semantickitti

XYZ = np.float32([[-22.5, 40.25, 0.5], [-21.0, 41.0, 1.5], [-20.0, 42.0, 2.5]])
RGB = np.uint8([[0, 51, 255], [102, 0, 0], [0, 0, 153]])


def raw_room(room: Path) -> None:
    rows = [" ".join(map(str, (*xyz.tolist(), *rgb.tolist()))) for xyz, rgb in zip(XYZ, RGB, strict=True)]
    layouts.write(room / f"{room.name}.txt", "\n".join(rows))
    for name, row in (("stairs_1", rows[0]), ("ceiling_1", rows[1]), ("chair_12", rows[2])):
        layouts.write(room / "Annotations" / f"{name}.txt", row + "\n")
    layouts.write(room / "Annotations" / "Icon\r", "")
    layouts.write(room / "Annotations" / ".DS_Store", "")
    layouts.write(room.parent / f"{room.parent.name}_alignmentAngle.txt", "## angles\n")


def pointcept_room(room: Path) -> None:
    room.mkdir(parents=True, exist_ok=True)
    arrays = {"coord": XYZ, "color": RGB, "segment": np.int16([[12], [0], [8]]), "instance": np.int16([[1], [2], [3]])}
    for name, values in {**arrays, "normal": np.tile(np.float32([0, 0, 1]), (3, 1))}.items():
        np.save(room / f"{name}.npy", values)


def indoor3d_room(room: Path) -> None:
    room.parent.parent.mkdir(exist_ok=True)
    path = room.parent.parent / f"{room.parent.name}_{room.name}.npy"
    np.save(path, np.column_stack([XYZ, RGB, [12, 0, 8]]).astype(np.float64))


LAYOUTS = {"raw": raw_room, "pointcept": pointcept_room, "indoor3d": indoor3d_room}


def s3dis_folder(root: Path, make: Callable[[Path], None] = raw_room) -> Path:
    for area, rooms in {
        "Area_1": ("office_1", "hallway_10"),
        "Area_5": ("hallway_6",),
        "Area_6": ("lounge_1",),
    }.items():
        for room in rooms:
            make(root / area / room)
    return root


# Raw ids and the class that the benchmark's semantic-kitti.yaml gives each, written out (0: ignored).
KITTI = {
    0: 0, 1: 0, 52: 0, 99: 0, 10: 1, 11: 2, 13: 5, 15: 3, 16: 5, 18: 4, 20: 5, 30: 6, 31: 7, 32: 8, 40: 9, 44: 10,
    48: 11, 49: 12, 50: 13, 51: 14, 60: 9, 70: 15, 71: 16, 72: 17, 80: 18, 81: 19, 252: 1, 253: 7, 254: 6, 255: 8,
    256: 5, 257: 5, 258: 4, 259: 5,
}  # fmt: skip
INVERSE = [10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81]


def kitti_folder(root: Path) -> Path:
    for sequence in ("00", "08"):
        for number in range(2):
            scan = root / "sequences" / sequence / "velodyne" / f"{number:06}.bin"
            points = np.float32(np.random.default_rng(number).uniform(-50, 50, (len(KITTI), 4)))
            points[:, 3] = np.linspace(0, 1, len(KITTI))
            for path in (scan, semantickitti.label_file(scan)):
                path.parent.mkdir(parents=True, exist_ok=True)
            points.tofile(scan)
            labels = np.array(list(KITTI), dtype=np.uint32) | np.uint32(number + 3) << np.uint32(16)
            labels.tofile(semantickitti.label_file(scan))
    return root


def ply(path: Path, properties: str, rows: list[str], faces: int = 0) -> None:
    head = f"ply\nformat ascii 1.0\nelement vertex {len(rows)}\n{properties}"
    tail = f"element face {faces}\nproperty list uchar int vertex_indices\nend_header\n"
    layouts.write(path, head + tail + "".join(f"{row}\n" for row in rows) + "3 0 1 2\n" * faces)


COORDINATES = "".join(f"property float {axis}\n" for axis in "xyz")
SHADES = "".join(f"property uchar {name}\n" for name in ("red", "green", "blue", "alpha"))


def scannet_folder(root: Path, labels: tuple[int, ...] = (1, 39, 13, 40)) -> Path:
    for scene in ("scene0000_00", "scene0001_00", "scene0011_00"):
        place = root / "scans" / scene
        rows = [f"{number} {number / 2} 1.5 255 0 51 255" for number in range(4)]
        ply(place / f"{scene}_vh_clean_2.ply", COORDINATES + SHADES, rows, faces=2)
        told = [f"{row} {label}" for row, label in zip(rows, labels, strict=False)]
        ply(place / f"{scene}_vh_clean_2.labels.ply", COORDINATES + SHADES + "property ushort label\n", told, faces=1)
    layouts.write(root / "scannetv2_train.txt", "scene0000_00\nscene0001_00\n")
    layouts.write(root / "scannetv2_val.txt", "scene0011_00\n")
    return root
