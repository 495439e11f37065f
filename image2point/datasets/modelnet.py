"""ModelNet40, and ModelNet10 as ten of its classes, from a folder of h5 files.

Wu et al., "3D ShapeNets", CVPR 2015; the layout is that of Qi et al., "PointNet", CVPR 2017. The official
split has 9,843 training and 2,468 test shapes (ModelNet10: 3,991 and 908). Clouds lie in the unit sphere.
PointNet's own files have y up; other samplings of ModelNet keep the z up of its meshes. Nothing is turned
here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from image2point.datasets.catalogue import Dataset, Download, Options
from image2point.datasets.files import unit_spheres
from image2point.datasets.h5 import Array, flat_labels, keep_rows, read_arrays
from image2point.datasets.listed import existing_folder, read_list
from image2point.datasets.splits import FileRows, Splits, StoredClouds, join_files
from image2point.errors import InputError
from image2point.storage import fetched

MODELNET10 = (
    "bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet",
)  # fmt: skip

LAYOUT = (
    "a folder with shape_names.txt, train_files.txt, test_files.txt and the h5 files listed there "
    "(`data` float (N, P, 3), `label` integer (N, 1), perhaps `normal` float (N, P, 3)), "
    "as in modelnet40_ply_hdf5_2048; `image2point data fetch modelnet` gets it"
)


def load_modelnet(
    root: str | Path, classes: int | None = 40, options: Options | None = None
) -> tuple[StoredClouds, StoredClouds]:
    """Read the train and the test set of an h5 folder.

    classes: 40, all of ModelNet40, which the folder must list; 10, ModelNet10, whose classes are numbered
    0..9 in their own alphabetical order; None, whatever classes `shape_names.txt` lists.

    The clouds have normals where every file of their split has the array `normal`, which PointNet's files have.

    Every value is checked on loading. Raises InputError, naming file and row, for a missing root or file, h5
    files that are damaged or lack an array, wrong shapes or types, labels outside the class list, points that
    are not finite, and a file that is listed twice.
    """
    options = options or Options()
    root = existing_folder(fetched(root), "ModelNet", LAYOUT)
    listed = tuple(read_list(root, "shape_names.txt", LAYOUT))
    if len(set(listed)) != len(listed):
        raise InputError(f"{root / 'shape_names.txt'}: a class is listed twice")
    if classes not in (None, 10, 40):
        raise InputError(
            f"classes must be 40 (ModelNet40), 10 (ModelNet10) or none (all that are listed), found {classes}"
        )
    if classes == 40 and len(listed) != 40:
        raise InputError(f"{root / 'shape_names.txt'} lists {len(listed)} classes, expected the 40 of ModelNet40")
    names = MODELNET10 if classes == 10 else listed
    missing = [name for name in names if name not in listed]
    if missing:
        raise InputError(f"{root / 'shape_names.txt'} lacks the ModelNet10 classes {', '.join(missing)}")

    files = {split: _files(root, split) for split in ("train", "test")}
    twice = sorted({path.name for path in files["train"]} & {path.name for path in files["test"]})
    if twice:
        raise InputError(f"{root}: {twice[0]} is listed in both train_files.txt and test_files.txt")
    train, test = (
        _select(f"modelnet{len(names)}/{split}", files[split], listed, names, options) for split in ("train", "test")
    )
    return train, test


def _files(root: Path, split: str) -> list[Path]:
    # The published lists carry the directories of their author's disk; only the base names mean anything
    # here.
    listed = read_list(root, f"{split}_files.txt", LAYOUT)
    paths = [root / line.replace("\\", "/").rsplit("/", 1)[-1] for line in listed]
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path.name}, listed in {split}_files.txt, is missing in {root}: expected {LAYOUT}")
        if paths.count(path) > 1:
            raise InputError(f"{path.name} is listed twice in {root / f'{split}_files.txt'}")
    return paths


def _select(
    name: str, files: list[Path], listed: tuple[str, ...], names: tuple[str, ...], options: Options
) -> StoredClouds:
    """Read the files and keep the clouds of the classes `names`, numbered in that order."""
    renumbered = np.full(len(listed), -1, dtype=np.int64)
    renumbered[[listed.index(each) for each in names]] = np.arange(len(names))
    chosen = []
    for path in files:
        file = _read(path, listed, options)
        wanted = renumbered[file.labels] >= 0
        chosen.append(
            replace(
                file,
                rows=file.rows[wanted],
                points=unit_spheres(file.points[wanted]) if options.normalise else file.points[wanted],
                labels=renumbered[file.labels[wanted]],
                normals=None if file.normals is None else file.normals[wanted],
            )
        )
    return join_files(name, names, chosen)


def _read(path: Path, listed: tuple[str, ...], options: Options) -> FileRows:
    """The clouds of one file, checked, with labels as in the file."""
    triples = Array("f", "(N, P, 3)", (3,), 3)
    arrays = read_arrays(path, {"data": triples, "label": Array("i", "(N, 1)", (1, 2))}, {"normal": triples})
    points, labels = arrays["data"].astype(np.float32, copy=False), flat_labels(arrays["label"], path)
    normals = arrays["normal"].astype(np.float32, copy=False) if "normal" in arrays else None
    if normals is not None and normals.shape != points.shape:
        raise InputError(f"{path}: expected `normal` floating {points.shape}, found {normals.dtype} {normals.shape}")
    known = (labels >= 0) & (labels < len(listed))
    finite = [np.isfinite(each).all(axis=(1, 2)) for each in (points, normals) if each is not None]

    def wrong(row: int) -> str:
        if not known[row]:
            return (
                f"shape_names.txt lists {len(listed)} classes but label {labels[row]} occurs in {path.name} row {row}"
            )
        return (
            f"{path.name} row {row}: NaN or infinite {'normals' if np.isfinite(points[row]).all() else 'coordinates'}"
        )

    rows = keep_rows(np.asarray(np.logical_and.reduce([known, *finite])), wrong, options)
    return FileRows(path, rows, points[rows], labels[rows], None if normals is None else normals[rows])


def _load_splits(root: Path, options: Options) -> Splits:
    train, test = load_modelnet(root, options.classes, options)
    return Splits(train, None, test)


DATASET = Dataset(
    name="modelnet",
    title="ModelNet40 and ModelNet10, 2048 points a shape (h5)",
    load=_load_splits,
    layout=LAYOUT,
    splits="train and test, official; the published modelnet40_ply_hdf5_2048 has 9,840 training shapes, 3 fewer",
    classes="40, in the order of shape_names.txt; or ModelNet10, ten of them in alphabetical order",
    axes="y up in PointNet's files, z up in other samplings: look at a few chairs",
    normalisation="as in the files, which are in the unit sphere",
    terms="for academic research only; the models are other people's, collected from the web",
    citation="Z. Wu, S. Song, A. Khosla, F. Yu, L. Zhang, X. Tang, J. Xiao. 3D ShapeNets: A Deep Representation for "
    "Volumetric Shapes. CVPR 2015.",
    counts={"40": {"train": 9843, "test": 2468}, "10": {"train": 3991, "test": 908}},
    downloads=(
        Download(
            "https://shapenet.cs.stanford.edu/media/modelnet40_ply_hdf5_2048.zip", "modelnet40_ply_hdf5_2048", 2**30
        ),
    ),
)
