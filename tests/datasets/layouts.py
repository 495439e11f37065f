"""Small datasets in exactly the layouts of the real ones, made of random points and boxes."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

CLASSES = ("chair", "night_stand")
TETRAHEDRON = "0 0 0\n1 0 0\n0 2 0\n0 0 3\n", "3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"


def off(joined: bool = False, scale: float = 1.0) -> str:
    """A tetrahedron; `joined`: with the counts on the header's line, as in a part of ModelNet."""
    vertices = "".join(
        " ".join(f"{float(value) * scale:g}" for value in line.split()) + "\n" for line in TETRAHEDRON[0].splitlines()
    )
    return ("OFF4 4 0\n" if joined else "OFF\n4 4 0\n") + vertices + TETRAHEDRON[1]


def obj() -> str:
    return (
        "mtllib model.mtl\n"
        + "".join(f"v {line}\n" for line in TETRAHEDRON[0].splitlines())
        + "".join(
            "f " + " ".join(str(int(i) + 1) for i in line.split()[1:]) + "\n" for line in TETRAHEDRON[1].splitlines()
        )
    )


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def points(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (*shape, 3)).astype(np.float32)


def modelnet_off(root: Path, train: int = 3, test: int = 2) -> Path:
    for name in CLASSES:
        for number in range(train + test):
            split = "train" if number < train else "test"
            mesh = off(joined=number % 2 == 1, scale=number + 1)
            write(root / name / split / f"{name}_{number + 1:04}.off", mesh)
    write(root / "README.txt", "as in ModelNet10.zip")
    write(root / ".DS_Store", b"\0")
    return root


def modelnet_text(root: Path, rows: int = 40) -> Path:
    write(root / "modelnet40_shape_names.txt", "\n".join(CLASSES) + "\n")
    listed: dict[str, list[str]] = {"train": [], "test": []}
    for label, name in enumerate(CLASSES):
        for number in range(4):
            shape = f"{name}_{number + 1:04}"
            listed["train" if number < 3 else "test"].append(shape)
            table = np.random.default_rng([label, number]).uniform(-1, 1, (rows, 6))
            write(root / name / f"{shape}.txt", "".join(",".join(f"{v:.6f}" for v in row) + "\n" for row in table))
    for split, shapes in listed.items():
        write(root / f"modelnet40_{split}.txt", "\n".join(shapes) + "\n")
    return root


def h5(path: Path, **arrays: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, compression="gzip" if np.ndim(values) > 1 else None)
    return path


def modelnet_h5(root: Path, clouds: int = 6, size: int = 16) -> Path:
    write(root / "shape_names.txt", "\n".join(CLASSES) + "\n")
    for seed, split in enumerate(("train", "test")):
        for number in range(2):
            labels = (np.arange(clouds, dtype=np.uint8) % 2)[:, None]
            h5(root / f"ply_data_{split}{number}.h5", data=points(10 * seed + number, clouds, size), label=labels)
        write(root / f"{split}_files.txt", "".join(f"data/x/ply_data_{split}{number}.h5\n" for number in range(2)))
    return root


SYNSETS = ("02691156", "03001627")


def shapenet_meshes(root: Path, version: int = 2) -> Path:
    """The published list has the columns id, synsetId, subSynsetId, modelId, split."""
    rows = ["id,synsetId,subSynsetId,modelId,split"]
    for synset in SYNSETS:
        for number, split in enumerate(("train", "train", "val", "test")):
            model = f"{number}a04e3eab45ca15dd86060f189eb133"
            inner = "models/model_normalized.obj" if version == 2 else "model.obj"
            write(root / synset / model / inner, obj())
            rows.append(f"{len(rows):06},{synset},{synset},{model},{split}")
    write(root / "all.csv", "\n".join(rows) + "\n")
    write(root / "taxonomy.json", "[]")
    return root


def shapenet_h5(root: Path, size: int = 2048) -> Path:
    for seed, (split, files) in enumerate({"train": 2, "val": 1, "test": 1}.items()):
        for number in range(files):
            labels = np.array([[0], [1], [0]], dtype=np.int64)
            h5(root / f"{split}{number}.h5", data=points(10 * seed + number, 3, size), label=labels)
            names = ["airplane", "bag", "airplane"]
            write(root / f"{split}{number}_id2name.json", json.dumps(names))
            write(root / f"{split}{number}_id2file.json", json.dumps([f"02691156/{i}" for i in range(3)]))
    return root


def shapenet55(root: Path, size: int = 8192) -> Path:
    for split, numbers in {"train": range(3), "test": range(3, 5)}.items():
        names = [f"{synset}-{number}a04e3eab45ca15dd.npy" for synset in SYNSETS for number in numbers]
        write(root / "ShapeNet-55" / f"{split}.txt", "\n".join(names) + "\n")
        for seed, name in enumerate(names):
            (root / "shapenet_pc").mkdir(parents=True, exist_ok=True)
            np.save(root / "shapenet_pc" / name, points(seed + 100 * (split == "test"), size))
    return root


def shapenet_pc15k(root: Path, size: int = 15000) -> Path:
    for synset in SYNSETS:
        for seed, split in enumerate(("train", "val", "test")):
            for number in range(2):
                place = root / synset / split
                place.mkdir(parents=True, exist_ok=True)
                np.save(place / f"{split}{number}a04e3eab45.npy", points(10 * seed + number, size))
    return root


def shapenet_part_text(root: Path, rows: int = 30) -> Path:
    write(root / "synsetoffset2category.txt", "Airplane\t02691156\nChair\t03001627\n")
    listed: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for label, synset in enumerate(SYNSETS):
        for number, split in enumerate(("train", "train", "val", "test")):
            rng = np.random.default_rng([label, number])
            parts = rng.integers(*((0, 4) if label == 0 else (12, 16)), rows)
            table = rng.uniform(-1, 1, (rows, 6))
            lines = (
                " ".join(f"{v:.6f}" for v in row) + f" {part:.6f}\n" for row, part in zip(table, parts, strict=True)
            )
            model = f"{number}a04e3eab45ca15dd"
            write(root / synset / f"{model}.txt", "".join(lines))
            listed[split].append(f"shape_data/{synset}/{model}")
    for split, names in listed.items():
        write(root / "train_test_split" / f"shuffled_{split}_file_list.json", json.dumps(names))
    return root


PART_NAMES = (
    "Airplane", "Bag", "Cap", "Car", "Chair", "Earphone", "Guitar", "Knife", "Lamp", "Laptop", "Motorbike", "Mug",
    "Pistol", "Rocket", "Skateboard", "Table",
)  # fmt: skip


def shapenet_part_h5(root: Path, size: int = 32) -> Path:
    write(root / "all_object_categories.txt", "".join(f"{name}\t{i:08}\n" for i, name in enumerate(PART_NAMES)))
    for seed, (split, files) in enumerate({"train": 2, "val": 1, "test": 1}.items()):
        for number in range(files):
            labels = np.array([[0], [4], [15]], dtype=np.uint8)
            parts = np.repeat(np.array([[3], [12], [49]], dtype=np.uint8), size, axis=1)
            h5(root / f"ply_data_{split}{number}.h5", data=points(10 * seed + number, 3, size), label=labels, pid=parts)
        write(
            root / f"{split}_hdf5_file_list.txt", "".join(f"ply_data_{split}{number}.h5\n" for number in range(files))
        )
    return root


def scanobjectnn(root: Path, size: int = 2048) -> Path:
    stems = ("objectdataset_augmentedrot_scale75", "objectdataset")
    for place in ("main_split", "main_split_nobg"):
        for stem in stems:
            for seed, prefix in enumerate(("training", "test")):
                labels = np.array([0, 7, 14, 4][: 4 - seed], dtype=np.int32)
                mask = np.where(np.arange(size) % 3 == 0, -1, labels[:, None]).astype(np.int32)
                data = points(10 * seed + len(stem), len(labels), size) * 3 + 5
                h5(root / place / f"{prefix}_{stem}.h5", data=data, label=labels, mask=mask)
    return root


def folder(root: Path) -> Path:
    """A file of every kind, in classes with and without Latin names."""
    for split, first in {"train": 0, "test": 100}.items():
        write(root / split / "椅子" / "tetra.off", off(scale=first + 1))
        write(root / split / "椅子" / "tetra.obj", obj())
        write(root / split / "椅子" / "scan 1.xyz", "".join(f"{x} {y} {z}\n" for x, y, z in points(first, 20)))
        np.save(root / split / "椅子" / "a.npy", points(first + 1, 30))
        rows = "".join(f"{x} {y} {z} -1000 10 20 30\n" for x, y, z in points(first + 3, 25))
        write(root / split / "table" / "scan.pts", "25\n" + rows)
        np.savez(root / split / "table" / "a.npz", points=points(first + 2, 30))
    return root
