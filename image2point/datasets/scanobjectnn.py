"""ScanObjectNN: 15 classes of objects cut out of scans of real rooms, in six variants.

Uy et al., "Revisiting Point Cloud Classification", ICCV 2019.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from image2point.datasets.catalogue import Dataset, Options, choose_variant
from image2point.datasets.files import unit_spheres
from image2point.datasets.h5 import Array, flat_labels, keep_rows, read_arrays
from image2point.datasets.listed import existing_folder
from image2point.datasets.splits import FileRows, Splits, StoredClouds, join_files
from image2point.errors import InputError

CLASSES = (
    "bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table", "bed", "pillow", "sink",
    "sofa", "toilet",
)  # fmt: skip

FILES = {
    "pb_t50_rs": ("main_split", "objectdataset_augmentedrot_scale75"),
    "pb_t50_r": ("main_split", "objectdataset_augmentedrot"),
    "pb_t25_r": ("main_split", "objectdataset_augmented25rot"),
    "pb_t25": ("main_split", "objectdataset_augmented25_norot"),
    "obj_bg": ("main_split", "objectdataset"),
    "obj_only": ("main_split_nobg", "objectdataset"),
}
"""Variant → folder and file. `obj_only`: the objects alone; `obj_bg`: with the background in their box; the others:
perturbed boxes, shifted by up to 25 or 50 % of their size, then rotated (r) and scaled (s)."""

BACKGROUND = -1
"""What `mask` has for points that are not of the object."""

LAYOUT = (
    "a folder h5_files with main_split/training_objectdataset*.h5, main_split/test_objectdataset*.h5 and "
    "main_split_nobg/ (`data` floating (N, 2048, 3), `label` integer (N,), perhaps `mask` integer (N, 2048))"
)


def load_scanobjectnn(root: Path, options: Options) -> Splits:
    """Train and test clouds of one variant, in memory. Labels of a point: 1 on the object, 0 in the background.

    Raises InputError for missing or damaged files, labels outside the 15 classes and values that are not finite.
    """
    variant = choose_variant(options.variant, tuple(FILES), "scanobjectnn")
    existing_folder(root, "ScanObjectNN", LAYOUT)
    place, stem = FILES[variant]
    homes = [home for home in (root / place, root / "h5_files" / place) if home.is_dir()]
    if not homes:
        raise InputError(f"{root} has no folder {place} for the variant {variant}: expected {LAYOUT}")
    train, test = (
        _split(homes[0] / f"{prefix}_{stem}.h5", f"scanobjectnn-{variant}/{split}", options)
        for split, prefix in (("train", "training"), ("test", "test"))
    )
    return Splits(train, None, test)


def _split(path: Path, name: str, options: Options) -> StoredClouds:
    arrays = read_arrays(
        path,
        {"data": Array("f", "(N, P, 3)", (3,), 3), "label": Array("i", "(N,)", (1, 2))},
        {"mask": Array("n", "(N, P)", (2,))},
    )
    points = arrays["data"].astype(np.float32, copy=False)
    labels = flat_labels(arrays["label"], path)
    known = (labels >= 0) & (labels < len(CLASSES))
    finite = np.isfinite(points).all(axis=(1, 2))
    rows = keep_rows(known & finite, lambda row: _wrong(path, row, labels), options)
    if not len(rows):
        raise InputError(f"{path}: no row can be used")
    points, labels = points[rows], labels[rows]
    mask = arrays.get("mask")
    if mask is not None and mask.shape[1] != points.shape[1]:
        raise InputError(f"{path}: `data` has {points.shape[1]} points per cloud but `mask` has {mask.shape[1]}")
    if options.normalise is not False:
        points = unit_spheres(points)
    parts = None if mask is None else (mask[rows] != BACKGROUND).astype(np.int64)
    return join_files(name, CLASSES, [FileRows(path, rows, points, labels, point_labels=parts)])


def _wrong(path: Path, row: int, labels: np.ndarray) -> str:
    if not 0 <= labels[row] < len(CLASSES):
        return f"{path} row {row}: expected a label 0..{len(CLASSES) - 1}, found {labels[row]}"
    return f"{path} row {row}: NaN or infinite coordinates"


DATASET = Dataset(
    name="scanobjectnn",
    title="ScanObjectNN, objects from real scans (h5)",
    load=load_scanobjectnn,
    layout=LAYOUT,
    splits="train and test, the official main split",
    classes="15, in the order of the files' labels",
    axes="y up (from memory: look at a few chairs); pb_* variants with r are turned about it at random",
    normalisation="each cloud is moved and scaled into the unit sphere unless told not to",
    terms="for research; its authors ask everyone to agree to their terms of use on the project page before a "
    "download, and the terms of ScanNet and SceneNN, from whose scans it is cut, hold too",
    citation="M. A. Uy, Q.-H. Pham, B.-S. Hua, D. T. Nguyen, S.-K. Yeung. Revisiting Point Cloud Classification: A New "
    "Benchmark Dataset and Classification Model on Real-World Data. ICCV 2019.",
    counts={
        "obj_only": {"train": 2309, "test": 581},
        "obj_bg": {"train": 2309, "test": 581},
        "pb_t50_rs": {"train": 11416, "test": 2882},
    },
    variants=tuple(FILES),
    get="agree to the terms on https://hkust-vgd.github.io/scanobjectnn/ and unpack h5_files.zip from there",
)
