"""Anybody's clouds: a folder with one sub-folder for each class, one file for each cloud."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import numpy as np

from image2point.datasets.catalogue import Dataset, Options
from image2point.datasets.cloud import Cloud
from image2point.datasets.files import READERS, read_cloud
from image2point.datasets.listed import FileClouds, entries_of, existing_folder, file_seed, is_litter
from image2point.datasets.splits import Splits, hold_out
from image2point.errors import InputError
from image2point.files import files_below

logger = logging.getLogger("image2point")

TEST_FRACTION = 0.2
"""Share of each class that becomes the test set where the folder has no train and test of its own."""

NAMES = {"train": ("train", "training"), "validation": ("validation", "val", "valid"), "test": ("test", "testing")}

KINDS = {".off": "mesh", ".obj": "mesh", ".stl": "mesh"}

LAYOUT = (
    f"a folder of class folders with {' '.join(READERS)} files, or folders train and test (and perhaps validation) of "
    "class folders"
)


def load_folder(root: Path, options: Options) -> Splits:
    """Classes in alphabetical order. Litter of file managers is passed over, anything else unexpected is refused.

    Without train and test folders, a fifth of every class, drawn by `options.seed` and at least one cloud, is the test
    set; a class then needs two clouds.

    Normals and colours are kept where all files are of one suffix, or all are meshes; in a mixture, points alone are.

    Raises InputError for a folder without classes, an empty class, a class of the test set that train does not have,
    files of an unknown suffix, and one of train and test without the other.
    """
    existing_folder(root, "point-cloud", LAYOUT)
    files = (path for path in files_below(root) if path.suffix.lower() in READERS and not is_litter(path.name))
    bare = len({KINDS.get(path.suffix.lower(), path.suffix.lower()) for path in files}) > 1
    top = subfolders(root)
    places = {split: [root / name for name in top if name.lower() in known] for split, known in NAMES.items()}
    twice = [split for split, found in places.items() if len(found) > 1]
    if twice:
        raise InputError(f"{root} has several folders for {twice[0]}: {', '.join(p.name for p in places[twice[0]])}")
    if not places["train"] and not places["test"]:
        return _cut(root, top, bare, options)
    for split in ("train", "test"):
        if not places[split]:
            hint = "; with the class folders directly in it, a fifth of each is the test set"
            raise InputError(f"{root} has no folder {split}: expected {LAYOUT}{hint}")
    others = sorted(set(top) - {path.name for found in places.values() for path in found})
    if others:
        raise InputError(f"{root} has train and test folders, and {others[0]} beside them: expected {LAYOUT}")
    classes = tuple(subfolders(places["train"][0]))
    found = {split: _clouds(place[0], classes, split, bare, options) for split, place in places.items() if place}
    return Splits(found["train"], found.get("validation"), found["test"])


def read_file(path: Path, options: Options, bare: bool = False) -> Cloud:
    """One file, sampled by its own name, in the unit sphere unless the options say otherwise. `bare`: points alone.

    What is left out of the files is told of the first in each folder: the others are mostly alike.
    """
    cloud = read_cloud(
        path,
        points=options.points,
        seed=file_seed(path, options.seed),
        normalise=options.normalise is not False,
        columns=options.columns,
        nan_points=options.nan_points,
        note=lambda line: _note_once(path.parent, line),
    )
    return Cloud(cloud.points) if bare else cloud


_noted: set[Path] = set()


def _note_once(folder: Path, line: str) -> None:
    if folder not in _noted:
        _noted.add(folder)
        logger.warning("%s (other files of this folder are not listed)", line)


def subfolders(root: Path) -> list[str]:
    """Names of the folders in `root`, sorted, without litter."""
    return [path.name for path in entries_of(root) if path.is_dir()]


def _cut(root: Path, classes: list[str], bare: bool, options: Options) -> Splits:
    whole = _clouds(root, tuple(classes), "all", bare, options)
    kept, held = hold_out(whole.labels, TEST_FRACTION, options.seed)
    few = [
        whole.classes[label] for label in np.flatnonzero(np.bincount(whole.labels[held], minlength=len(classes)) == 0)
    ]
    if few:  # a fifth of one or two clouds rounds to none: take one, where there are two
        extra = [np.flatnonzero(whole.labels == whole.classes.index(name))[-1:] for name in few]
        held = np.sort(np.concatenate([held, *extra]))
        kept = np.setdiff1d(np.arange(len(whole)), held)
    left = np.bincount(whole.labels[kept], minlength=len(classes))
    if (left == 0).any():
        name = whole.classes[int(np.flatnonzero(left == 0)[0])]
        raise InputError(f"{root / name} has a single cloud; a class needs two, one to train on and one to test on")
    return Splits(_part(whole, kept, "train"), None, _part(whole, held, "test"))


def _part(whole: FileClouds, rows: np.ndarray, split: str) -> FileClouds:
    name = whole.name.replace("/all", f"/{split}")
    return FileClouds(name, whole.classes, [whole.paths[row] for row in rows], whole.labels[rows], whole.read)


def _clouds(root: Path, classes: tuple[str, ...], split: str, bare: bool, options: Options) -> FileClouds:
    if not classes:
        lying = [path for path in entries_of(root) if path.suffix.lower() in READERS]
        hint = f"; put the {len(lying)} files in it into a folder for each class" if lying else ""
        raise InputError(f"{root} has no class folders: expected {LAYOUT}{hint}")
    unknown = sorted(set(subfolders(root)) - set(classes))
    if unknown:
        raise InputError(f"{root / unknown[0]}: there is no class {unknown[0]!r} in train")
    paths, labels = [], []
    for path in entries_of(root):
        if not path.is_dir():
            options.refuse(f"{path}: expected only class folders in {root}")
    for label, name in enumerate(classes):
        found = _files(root / name, options) if (root / name).is_dir() else []
        if not found and split != "validation":
            options.refuse(f"{root / name}: the class has no clouds; expected {' '.join(READERS)} files")
        paths += found
        labels += [label] * len(found)
    read = partial(read_file, options=options, bare=bare)
    return FileClouds(f"folder/{split}", classes, paths, np.array(labels), read)


def _files(place: Path, options: Options) -> list[Path]:
    found = []
    for path in entries_of(place):
        if path.is_dir():
            options.refuse(f"{path}: a folder inside a class folder; expected files")
        elif path.suffix.lower() in READERS:
            found.append(path)
        else:
            options.refuse(f"{path}: unsupported suffix {path.suffix!r}; supported are {' '.join(READERS)}")
    return found


DATASET = Dataset(
    name="folder",
    title="your own clouds, a folder for each class",
    load=load_folder,
    layout=LAYOUT,
    splits="the folders train, test and validation; without them a fifth of each class, by seed, is the test set",
    classes="the names of the folders in alphabetical order",
    axes="as in the files",
    normalisation="each cloud is moved and scaled into the unit sphere unless told not to",
    terms="yours",
    citation="",
)
