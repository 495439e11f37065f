"""ModelNet40, and ModelNet10 as ten of its classes, from a folder of h5 files.

Wu et al., "3D ShapeNets", CVPR 2015; the layout is that of Qi et al., "PointNet", CVPR 2017. The official
split has 9,843 training and 2,468 test shapes (ModelNet10: 3,991 and 908). Clouds lie in the unit sphere.
PointNet's own files have y up; other samplings of ModelNet keep the z up of its meshes. Nothing is turned
here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from image2point.datasets.splits import StoredClouds
from image2point.errors import InputError

MODELNET10 = (
    "bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet",
)  # fmt: skip

LAYOUT = (
    "expected a folder with shape_names.txt, train_files.txt, test_files.txt and the h5 files listed there "
    "(`data` float (N, P, 3), `label` integer (N, 1), perhaps `normal` float (N, P, 3)), "
    "as in modelnet40_ply_hdf5_2048; data/README.md says where to get it"
)


def load(root: str | Path, classes: int | None = 40) -> tuple[StoredClouds, StoredClouds]:
    """Read the train and the test set of an h5 folder.

    classes: 40, all of ModelNet40, which the folder must list; 10, ModelNet10, whose classes are numbered
    0..9 in their own alphabetical order; None, whatever classes `shape_names.txt` lists.

    The clouds have normals where every file of their split has the array `normal`, which PointNet's files have.

    Every value is checked on loading. Raises InputError, naming file and row, for a missing root or file, h5
    files that are damaged or lack an array, wrong shapes or types, labels outside the class list, points that
    are not finite, and a file that is listed twice.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"no ModelNet data at {root}: {LAYOUT}")
    listed = tuple(_lines(root, "shape_names.txt"))
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
    train, test = (_select(f"modelnet{len(names)}/{split}", files[split], listed, names) for split in ("train", "test"))
    return train, test


def _lines(root: Path, name: str) -> list[str]:
    try:
        text = (root / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{name} is missing in {root}: {LAYOUT}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{root / name} cannot be read: {error}") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"{root / name} is empty: {LAYOUT}")
    return lines


def _files(root: Path, split: str) -> list[Path]:
    # The published lists carry the directories of their author's disk; only the base names mean anything
    # here.
    paths = [root / line.replace("\\", "/").rsplit("/", 1)[-1] for line in _lines(root, f"{split}_files.txt")]
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path.name}, listed in {split}_files.txt, is missing in {root}: {LAYOUT}")
        if paths.count(path) > 1:
            raise InputError(f"{path.name} is listed twice in {root / f'{split}_files.txt'}")
    return paths


def _select(name: str, files: list[Path], listed: tuple[str, ...], names: tuple[str, ...]) -> StoredClouds:
    """Read the files and keep the clouds of the classes `names`, numbered in that order."""
    renumbered = np.full(len(listed), -1, dtype=np.int64)
    renumbered[[listed.index(each) for each in names]] = np.arange(len(names))
    clouds: list[np.ndarray] = []
    normals: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    width = 0
    for path in files:
        points, own_normals, old = _read(path, listed)
        if width and points.shape[1] != width:
            raise InputError(f"{path.name} has {points.shape[1]} points per cloud but {files[0].name} has {width}")
        width = points.shape[1]
        new = renumbered[old]
        clouds.append(points[new >= 0])
        labels.append(new[new >= 0])
        if own_normals is not None:
            normals.append(own_normals[new >= 0])
    if normals and len(normals) < len(files):
        raise InputError(
            f"{files[0].parent}: {len(normals)} of the {len(files)} files of {name} have `normal`; all or none"
        )
    joined = np.concatenate(normals) if normals else None
    return StoredClouds(name, names, np.concatenate(clouds), np.concatenate(labels), joined)


def _read(path: Path, listed: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Points and normals float32 [N, P, 3] and labels int64 [N] of one file, checked."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            wanted = ("data", "label", "normal")
            found = {name: file[name] for name in wanted if isinstance(file.get(name), h5py.Dataset)}
            if not {"data", "label"} <= set(found):
                raise InputError(f"{path}: expected the arrays `data` and `label`, found {sorted(file)}")
            _check_arrays(path, **found)
            points = found["data"][...].astype(np.float32, copy=False)
            normals = found["normal"][...].astype(np.float32, copy=False) if "normal" in found else None
            labels = found["label"][...].reshape(-1).astype(np.int64)
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(f"{path} is not a readable h5 file (truncated or damaged?): {error}; get it again") from None

    outside = (labels < 0) | (labels >= len(listed))
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise InputError(
            f"shape_names.txt lists {len(listed)} classes but label {labels[row]} occurs in {path.name} row {row}"
        )
    for values, what in ((points, "coordinates"), (normals, "normals")):
        finite = np.isfinite(values).all(axis=(1, 2)) if values is not None else np.ones(0, dtype=bool)
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0])
            raise InputError(f"{path.name} row {row}: NaN or infinite {what} ({int((~finite).sum())} such rows)")
    return points, normals, labels


def _check_arrays(path: Path, data, label, normal=None) -> None:  # type: ignore[no-untyped-def]  # h5py comes untyped
    if data.dtype.kind != "f" or data.ndim != 3 or data.shape[2] != 3 or 0 in data.shape:
        raise InputError(f"{path}: expected `data` floating (N, P, 3), found {data.dtype} {data.shape}")
    if label.dtype.kind not in "iu" or label.ndim not in (1, 2) or (label.ndim == 2 and label.shape[1] != 1):
        raise InputError(f"{path}: expected `label` integer (N, 1), found {label.dtype} {label.shape}")
    if len(data) != len(label):
        raise InputError(f"{path}: `data` has {len(data)} rows but `label` has {len(label)}")
    if normal is not None and (normal.dtype.kind != "f" or normal.shape != data.shape):
        raise InputError(f"{path}: expected `normal` floating {data.shape}, found {normal.dtype} {normal.shape}")
