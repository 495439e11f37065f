"""ModelNet40 and ModelNet10 as their authors publish them: OFF meshes, sampled here.

Wu et al., "3D ShapeNets: A Deep Representation for Volumetric Shapes", CVPR 2015.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from image2point.datasets.catalogue import Download, Options
from image2point.datasets.folder import read_file, subfolders
from image2point.datasets.listed import FileClouds, entries_of, existing_folder
from image2point.datasets.modelnet import DATASET as MODELNET
from image2point.datasets.modelnet import MODELNET10
from image2point.datasets.splits import Splits
from image2point.errors import InputError

LAYOUT = "a folder ModelNet40 or ModelNet10 with CLASS/train/CLASS_0001.off ... and CLASS/test/..."


def load_modelnet_off(root: Path, options: Options) -> Splits:
    """Train and test clouds, sampled from the meshes when they are asked for.

    Both forms of the OFF header occur in these files: `OFF` and the counts on lines of their own, and `OFF490 518 0`.

    Raises InputError for a missing folder, a class without train or test, files that are no .off.
    """
    existing_folder(root, "ModelNet", LAYOUT)
    names = tuple(subfolders(root))
    if options.classes == 40 and len(names) != 40:
        raise InputError(f"{root} has {len(names)} class folders, expected the 40 of ModelNet40: {LAYOUT}")
    if options.classes == 10:
        missing = [name for name in MODELNET10 if name not in names]
        if missing:
            raise InputError(f"{root} lacks the ModelNet10 classes {', '.join(missing)}")
        names = MODELNET10
    if not names:
        raise InputError(f"{root} has no class folders: expected {LAYOUT}")
    train, test = (_split(root, split, names, options) for split in ("train", "test"))
    return Splits(train, None, test)


def _split(root: Path, split: str, names: tuple[str, ...], options: Options) -> FileClouds:
    paths, labels = [], []
    for label, name in enumerate(names):
        place = root / name / split
        if not place.is_dir():
            options.refuse(f"{place} is missing: expected {LAYOUT}")
            continue
        found = []
        for path in entries_of(place):
            if path.suffix.lower() == ".off":
                found.append(path)
            else:
                options.refuse(f"{path}: expected only .off files in {place}")
        if not found:
            options.refuse(f"{place} has no .off files")
        paths += found
        labels += [label] * len(found)
    return FileClouds(
        f"modelnet{len(names)}/{split}", names, paths, np.array(labels), partial(read_file, options=options)
    )


DATASET = replace(
    MODELNET,
    name="modelnet_off",
    title="ModelNet40 and ModelNet10, the meshes (OFF)",
    load=load_modelnet_off,
    layout=LAYOUT,
    splits="train and test, official, by folder",
    classes="40 or 10, the names of the folders in alphabetical order",
    axes="z up in nearly all classes; ModelNet40 is not aligned otherwise",
    normalisation="each cloud is moved and scaled into the unit sphere unless told not to; meshes have all sizes",
    downloads=(
        Download("http://modelnet.cs.princeton.edu/ModelNet40.zip", "ModelNet40", 4 * 2**30),
        Download("http://3dvision.princeton.edu/projects/2014/3DShapeNets/ModelNet10.zip", "ModelNet10", 2 * 2**30),
    ),
)
