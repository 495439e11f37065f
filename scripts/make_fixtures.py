"""Write the small examples under data/fixtures anew, from synthetic shapes; or into the folder that is given."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import h5py
import numpy as np

from image2point.datasets.meshes import Mesh
from image2point.datasets.solids import SOLIDS
from image2point.datasets.synthetic import SyntheticShapes
from image2point.files import write_bytes, write_text, writing

CLASSES = ("chair", "mug", "table", "torus")
POINTS = 64
ROWS = {"train": (12, 12), "test": (12,)}  # clouds in each h5 file


def make(folder: Path) -> None:
    make_modelnet(folder / "modelnet")
    make_clouds(folder / "clouds")


def make_modelnet(folder: Path) -> None:
    """The h5 layout of ModelNet, with four classes."""
    write_text(folder / "shape_names.txt", "".join(f"{name}\n" for name in CLASSES))
    for split, sizes in ROWS.items():
        shapes = SyntheticShapes(split, sum(sizes) // len(CLASSES), POINTS, classes=CLASSES)
        clouds = np.stack([shapes[index].points for index in range(len(shapes))])
        clouds = np.round(clouds * 256) / 256  # compresses well
        names, start = [], 0
        for number, size in enumerate(sizes):
            names.append(f"ply_data_{split}{number}.h5")
            with writing(folder / names[-1]) as path, h5py.File(path, "w", locking=False) as file:  # `writing` locks it
                rows = slice(start, start + size)
                file.create_dataset("data", data=clouds[rows], compression="gzip", shuffle=True)
                file.create_dataset("label", data=shapes.labels[rows, None].astype(np.uint8))
            start += size
        # As published, with the directories of somebody's disk in front.
        write_text(folder / f"{split}_files.txt", "".join(f"data/modelnet40_ply_hdf5_2048/{name}\n" for name in names))


def make_clouds(folder: Path) -> None:
    """One file of every format that can be read: points and meshes."""
    rng = np.random.default_rng(0)
    torus, mug, spring = (
        np.round(SyntheticShapes("test", 1, POINTS, classes=(kind,))[0].points, 3)
        for kind in ("torus", "mug", "spring")
    )
    buffer = io.BytesIO()
    np.save(buffer, torus)
    write_bytes(folder / "torus.npy", buffer.getvalue())
    write_text(folder / "mug.xyz", rows(mug))
    write_text(folder / "mug.pts", f"{len(mug)}\n{rows(mug)}")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, points=torus)
    write_bytes(folder / "torus.npz", buffer.getvalue())
    header = (
        "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\n"
        f"WIDTH {POINTS}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {POINTS}\nDATA ascii\n"
    )
    write_text(folder / "spring.pcd", header + rows(spring))

    chair, table, pyramid = (SOLIDS[kind](rng) for kind in ("chair", "table", "pyramid"))
    # ModelNet's own OFF files lack the line break after "OFF".
    write_text(folder / "chair.off", f"OFF{len(chair.vertices)} {len(chair.triangles)} 0\n{off_body(chair)}")
    properties = "".join(f"property float {axis}\n" for axis in "xyz")
    write_text(
        folder / "table.ply",
        f"ply\nformat ascii 1.0\nelement vertex {len(table.vertices)}\n{properties}"
        f"element face {len(table.triangles)}\nproperty list uchar int vertex_indices\nend_header\n{off_body(table)}",
    )
    vertices = "".join(f"v {row}\n" for row in rows(pyramid.vertices).splitlines())
    faces = "".join(f"f {a} {b} {c}\n" for a, b, c in pyramid.triangles + 1)
    write_text(folder / "pyramid.obj", vertices + faces)
    triangles = np.zeros(len(pyramid.triangles), dtype=[("floats", "<f4", (4, 3)), ("attribute", "<u2")])
    triangles["floats"][:, 1:] = pyramid.vertices[pyramid.triangles]  # before them the normal, left at zero
    header = b"binary".ljust(80) + len(triangles).to_bytes(4, "little")
    write_bytes(folder / "pyramid.stl", header + triangles.tobytes())


def rows(points: np.ndarray) -> str:
    return "".join("{:.6g} {:.6g} {:.6g}\n".format(*point) for point in points)


def off_body(mesh: Mesh) -> str:
    return rows(mesh.vertices) + "".join(f"3 {a} {b} {c}\n" for a, b, c in mesh.triangles)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "data" / "fixtures")
