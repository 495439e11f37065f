"""ShapeNetPart: 16 classes of ShapeNet with a part label at every point, as text or h5.

Yi et al., "A Scalable Active Framework for Region Annotation in 3D Shape Collections", SIGGRAPH Asia 2016.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from image2point.datasets.catalogue import Dataset, Download, Options, choose_variant
from image2point.datasets.cloud import Cloud
from image2point.datasets.files import unit_sphere, unit_spheres
from image2point.datasets.h5 import Array, flat_labels, keep_rows, read_arrays
from image2point.datasets.listed import (
    FileClouds,
    check_disjoint,
    existing_folder,
    existing_rows,
    file_seed,
    read_json_list,
    read_list,
)
from image2point.datasets.splits import FileRows, Splits, StoredClouds, join_files
from image2point.datasets.text import read_table, whole_numbers
from image2point.errors import InputError

CLASSES = (
    "airplane", "bag", "cap", "car", "chair", "earphone", "guitar", "knife", "lamp", "laptop", "motorbike", "mug",
    "pistol", "rocket", "skateboard", "table",
)  # fmt: skip

PART_STARTS = (0, 4, 6, 8, 12, 16, 19, 22, 24, 28, 30, 36, 38, 41, 44, 47, 50)
"""The parts of class c are PART_STARTS[c] .. PART_STARTS[c + 1] - 1."""

LAYOUTS = {
    "text": "a folder shapenetcore_partanno_segmentation_benchmark_v0_normal with synsetoffset2category.txt, "
    "train_test_split/shuffled_{train,val,test}_file_list.json and SYNSET/MODEL.txt, rows x y z nx ny nz part",
    "h5": "a folder hdf5_data with all_object_categories.txt, {train,val,test}_hdf5_file_list.txt and the h5 files "
    "listed there (`data` floating (N, P, 3), `label` integer (N, 1), `pid` integer (N, P))",
}
LAYOUT = "; or ".join(LAYOUTS.values())
NAMES = {"train": "train", "validation": "val", "test": "test"}


def load_shapenet_part(root: Path, options: Options) -> Splits:
    """Train, validation and test clouds; labels of points are the parts, 0..49 over all classes. Text has normals too.

    The form is `options.variant`, or else told by what lies in the folder. Text is read when it is asked for.

    Raises InputError for a folder of neither form, missing files, and labels or parts that do not exist.
    """
    existing_folder(root, "ShapeNetPart", LAYOUT)
    if options.variant is not None:
        form = choose_variant(options.variant, tuple(LAYOUTS), "shapenet_part")
    elif (root / "synsetoffset2category.txt").is_file():
        form = "text"
    elif (root / "train_hdf5_file_list.txt").is_file():
        form = "h5"
    else:
        raise InputError(f"{root} is none of the forms of ShapeNetPart: expected {LAYOUT}")
    return _text(root, options) if form == "text" else _h5(root, options)


def _text(root: Path, options: Options) -> Splits:
    synsets = _categories(root, "synsetoffset2category.txt", LAYOUTS["text"])
    sets = {}
    for split, short in NAMES.items():
        listed_in = root / "train_test_split" / f"shuffled_{short}_file_list.json"
        paths, labels = [], []
        for row, entry in enumerate(read_json_list(listed_in, "shape_data/SYNSET/MODEL")):
            parts = entry.split("/")
            if len(parts) != 3 or parts[1] not in synsets or parts[2] in ("", ".", "..") or "\\" in entry:
                options.refuse(f"{listed_in} row {row}: expected shape_data/SYNSET/MODEL, found {entry[:80]!r}")
                continue
            paths.append(root / parts[1] / f"{parts[2]}.txt")
            labels.append(synsets[parts[1]])
        kept = existing_rows(paths, labels, listed_in.name, options)
        files, own = [paths[row] for row in kept], np.array([labels[row] for row in kept], dtype=np.int64)
        sets[split] = FileClouds(f"shapenet_part/{split}", CLASSES, files, own, partial(read_shape, options=options))
    check_disjoint(sets["train"].paths, sets["test"].paths, str(root))
    return Splits(sets["train"], sets["validation"], sets["test"])


def read_shape(path: Path, options: Options) -> Cloud:
    """One file: points, normals and parts, all of them or `options.points` at random."""
    table = read_table(path, columns=(7,))
    parts = whole_numbers(table[:, 6], path, "part", 0, PART_STARTS[-1])
    points = unit_sphere(table[:, :3]) if options.normalise is not False else table[:, :3]
    cloud = Cloud(points, table[:, 3:6], labels=parts)
    if options.points is not None and options.points < len(cloud):
        rng = np.random.default_rng(file_seed(path, options.seed))
        cloud = cloud.take(rng.choice(len(cloud), options.points, replace=False))
    return cloud


def _h5(root: Path, options: Options) -> Splits:
    synsets = _categories(root, "all_object_categories.txt", LAYOUTS["h5"])
    if sorted(synsets.values()) != list(range(len(CLASSES))):
        raise InputError(f"{root / 'all_object_categories.txt'} lists {len(synsets)} categories, expected all 16")
    sets: dict[str, StoredClouds] = {}
    seen: dict[str, str] = {}
    for split, short in NAMES.items():
        listed_in = f"{short}_hdf5_file_list.txt"
        files = []
        for line in read_list(root, listed_in, LAYOUTS["h5"]):
            path = root / line.replace("\\", "/").rsplit("/", 1)[-1]
            if path.name in seen:
                raise InputError(f"{path.name} is listed in {seen[path.name]} and again in {root / listed_in}")
            seen[path.name] = listed_in
            files.append(_file(path, np.array(list(synsets.values())), options))
        sets[split] = join_files(f"shapenet_part/{split}", CLASSES, files)
    return Splits(sets["train"], sets["validation"], sets["test"])


def _file(path: Path, order: np.ndarray, options: Options) -> FileRows:
    """The clouds of one file. order [16]: the class of each label that the file may hold."""
    arrays = read_arrays(
        path,
        {
            "data": Array("f", "(N, P, 3)", (3,), 3),
            "label": Array("i", "(N, 1)", (1, 2)),
            "pid": Array("i", "(N, P)", (2,)),
        },
    )
    points, labels = arrays["data"].astype(np.float32, copy=False), flat_labels(arrays["label"], path)
    parts = arrays["pid"].astype(np.int64)
    if parts.shape[1] != points.shape[1]:
        raise InputError(f"{path}: `data` has {points.shape[1]} points per cloud but `pid` has {parts.shape[1]}")
    good: dict[str, np.ndarray] = {
        f"a label 0..{len(order) - 1}": (labels >= 0) & (labels < len(order)),
        f"parts 0..{PART_STARTS[-1] - 1}": np.asarray(((parts >= 0) & (parts < PART_STARTS[-1])).all(axis=1)),
        "finite coordinates": np.asarray(np.isfinite(points).all(axis=(1, 2))),
    }

    def wrong(row: int) -> str:
        return f"{path} row {row}: expected {next(what for what, fine in good.items() if not fine[row])}"

    rows = keep_rows(np.logical_and.reduce(list(good.values())), wrong, options)
    if not len(rows):
        raise InputError(f"{path}: no row can be used")
    points = points[rows] if options.normalise is False else unit_spheres(points[rows])
    return FileRows(path, rows, points, order[labels[rows]], point_labels=parts[rows])


def _categories(root: Path, name: str, layout: str) -> dict[str, int]:
    """Synset → class, in the order of the file."""
    found: dict[str, int] = {}
    for row, line in enumerate(read_list(root, name, layout)):
        fields = line.split()
        if len(fields) != 2 or fields[0].lower() not in CLASSES or fields[1] in found or "/" in fields[1]:
            raise InputError(
                f"{root / name} row {row}: expected one of the 16 classes and its synset, found {line[:80]!r}"
            )
        found[fields[1]] = CLASSES.index(fields[0].lower())
    return found


DATASET = Dataset(
    name="shapenet_part",
    title="ShapeNetPart (text with normals, or h5)",
    load=load_shapenet_part,
    layout=LAYOUT,
    splits="train, validation and test, official",
    classes="16 object classes in alphabetical order; 50 parts, numbered over all classes",
    axes="y up (from memory: look at a few chairs)",
    normalisation="each cloud is moved and scaled into the unit sphere unless told not to",
    terms="for non-commercial research and education, under ShapeNet's terms of use",
    citation="L. Yi, V. G. Kim, D. Ceylan, I. Shen, M. Yan, H. Su, C. Lu, Q. Huang, A. Sheffer, L. Guibas. A Scalable "
    "Active Framework for Region Annotation in 3D Shape Collections. SIGGRAPH Asia 2016.",
    counts={"": {"train": 12137, "validation": 1870, "test": 2874}},
    variants=tuple(LAYOUTS),
    downloads=(
        Download(
            "https://shapenet.cs.stanford.edu/media/shapenetcore_partanno_segmentation_benchmark_v0_normal.zip",
            "shapenetcore_partanno_segmentation_benchmark_v0_normal",
            4 * 2**30,
        ),
        Download("https://shapenet.cs.stanford.edu/media/shapenet_part_seg_hdf5_data.zip", "hdf5_data", 2 * 2**30),
    ),
)
