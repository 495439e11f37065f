"""ModelNet40 and ModelNet10 as 10,000 points with normals a shape, in text: modelnet40_normal_resampled.

Qi et al., "PointNet++", NeurIPS 2017, of the shapes of Wu et al., CVPR 2015.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from image2point.datasets.catalogue import Download, Options
from image2point.datasets.cloud import Cloud
from image2point.datasets.files import unit_sphere
from image2point.datasets.listed import FileClouds, check_disjoint, existing_folder, existing_rows, file_seed, read_list
from image2point.datasets.modelnet import DATASET as MODELNET
from image2point.datasets.splits import Splits
from image2point.datasets.text import read_table
from image2point.errors import InputError

LAYOUT = (
    "a folder modelnet40_normal_resampled with modelnet40_shape_names.txt, modelnet40_train.txt, modelnet40_test.txt "
    "(for ten classes modelnet10_...) and CLASS/CLASS_0001.txt, rows x,y,z,nx,ny,nz"
)


def load_modelnet_text(root: Path, options: Options) -> Splits:
    """Train and test clouds, read when they are asked for. Classes are numbered as in the list of names.

    Raises InputError for missing lists and files, names of unknown classes, and a shape in both splits.
    """
    existing_folder(root, "ModelNet", LAYOUT)
    prefix = f"modelnet{options.classes or 40}"
    names = tuple(read_list(root, f"{prefix}_shape_names.txt", LAYOUT))
    if len(set(names)) != len(names):
        raise InputError(f"{root / f'{prefix}_shape_names.txt'}: a class is listed twice")
    train, test = (_split(root, prefix, split, names, options) for split in ("train", "test"))
    check_disjoint(train.paths, test.paths, str(root))
    return Splits(train, None, test)


def _split(root: Path, prefix: str, split: str, names: tuple[str, ...], options: Options) -> FileClouds:
    listed_in = f"{prefix}_{split}.txt"
    paths, labels = [], []
    for row, shape in enumerate(read_list(root, listed_in, LAYOUT)):
        name = shape.rpartition("_")[0]
        if name not in names or "/" in shape or "\\" in shape:
            options.refuse(f"{root / listed_in} row {row}: {shape!r} is no CLASS_NUMBER of a listed class")
            continue
        paths.append(root / name / f"{shape}.txt")
        labels.append(names.index(name))
    kept = existing_rows(paths, labels, listed_in, options)
    clouds, own = [paths[row] for row in kept], np.array([labels[row] for row in kept], dtype=np.int64)
    return FileClouds(f"{prefix}/{split}", names, clouds, own, partial(read_shape, options=options))


def read_shape(path: Path, options: Options) -> Cloud:
    """One file: points and normals, all of them or `options.points` at random."""
    table = read_table(path, columns=(6,), delimiter=",")
    if options.points is not None and options.points < len(table):
        rng = np.random.default_rng(file_seed(path, options.seed))
        table = table[rng.choice(len(table), options.points, replace=False)]
    points = table[:, :3] if options.normalise is False else unit_sphere(table[:, :3])
    return Cloud(points, table[:, 3:])


DATASET = replace(
    MODELNET,
    name="modelnet_text",
    title="ModelNet40 and ModelNet10, 10,000 points with normals a shape (text)",
    load=load_modelnet_text,
    layout=LAYOUT,
    splits="train and test, official, listed in text files",
    classes="40 or 10, in the order of the list of names",
    axes="y up in nearly all classes (from memory: look at a few chairs)",
    normalisation="each cloud is moved and scaled into the unit sphere unless told not to, as PointNet++ does",
    downloads=(
        Download(
            "https://shapenet.cs.stanford.edu/media/modelnet40_normal_resampled.zip",
            "modelnet40_normal_resampled",
            4 * 2**30,
        ),
    ),
)
