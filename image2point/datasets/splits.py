"""What a dataset is, and how it is split: K shots per class, and a validation part taken from train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from image2point.datasets.class_split import Labelled
from image2point.datasets.cloud import IGNORED, Cloud
from image2point.errors import InputError
from image2point.storage import home


class CloudSet(Labelled, Protocol):
    """Clouds with labels, held in memory or made on demand.

    `labels` is int64 [n]; the arrays of `self[i]` belong to the caller, who may write to them. A set that has
    `of_points = True` has the classes of points: those of `self[i].labels`.
    """

    def __getitem__(self, index: int) -> Cloud: ...


@dataclass(frozen=True)
class Origins:
    """Where each cloud of a set is from: files, and for each cloud the number of its file [n] and its row there [n]."""

    files: tuple[Path, ...]
    file: np.ndarray
    row: np.ndarray

    @classmethod
    def of_files(cls, parts: Sequence[tuple[Path, np.ndarray]]) -> Origins:
        """The origins of clouds that are the given rows of the given files, in this order."""
        sizes = [len(rows) for _, rows in parts]
        rows = np.concatenate([rows for _, rows in parts])
        return cls(tuple(path for path, _ in parts), np.repeat(np.arange(len(parts)), sizes), rows)

    def __getitem__(self, index: int) -> str:
        return f"{self.files[self.file[index]]} row {self.row[index]}"


@dataclass(frozen=True)
class StoredClouds:
    """A set of equally large clouds in one array for each field of `Cloud`, with a first axis of n clouds.

    points, normals, colours: float32 [n, P, 3]; point_labels: int64 [n, P]; labels: int64 [n], of whole clouds.
    """

    name: str
    classes: tuple[str, ...]
    points: np.ndarray
    labels: np.ndarray
    normals: np.ndarray | None = None
    colours: np.ndarray | None = None
    point_labels: np.ndarray | None = None
    origins: Origins | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def origin(self, index: int) -> str:
        return f"{self.name} cloud {index}" if self.origins is None else self.origins[index]

    def __getitem__(self, index: int) -> Cloud:
        def own(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[index].copy()

        return Cloud(self.points[index].copy(), own(self.normals), own(self.colours), own(self.point_labels))


@dataclass(frozen=True)
class FileRows:
    """The clouds of one file that are used: rows int64 [n] of it, and what lies there, as in `StoredClouds`."""

    path: Path
    rows: np.ndarray
    points: np.ndarray
    labels: np.ndarray
    normals: np.ndarray | None = None
    point_labels: np.ndarray | None = None


def join_files(name: str, classes: tuple[str, ...], files: Sequence[FileRows]) -> StoredClouds:
    """The clouds of several files as one set.

    Raises InputError where files have other numbers of points per cloud, some lack normals, or nothing is left.
    """
    first = files[0]
    for file in files:
        if file.points.shape[1] != first.points.shape[1]:
            raise InputError(
                f"{file.path} has {file.points.shape[1]} points per cloud but {first.path.name} has "
                f"{first.points.shape[1]}"
            )
    with_normals = sum(file.normals is not None for file in files)
    if 0 < with_normals < len(files):
        raise InputError(
            f"{first.path.parent}: {with_normals} of the {len(files)} files of {name} have normals; all or none"
        )
    if not sum(len(file.rows) for file in files):
        raise InputError(f"{first.path}: no row can be used")

    def joined(values: list[np.ndarray | None]) -> np.ndarray | None:
        known = [each for each in values if each is not None]
        return np.concatenate(known) if known else None

    return StoredClouds(
        name,
        classes,
        np.concatenate([file.points for file in files]),
        np.concatenate([file.labels for file in files]),
        joined([file.normals for file in files]),
        point_labels=joined([file.point_labels for file in files]),
        origins=Origins.of_files([(file.path, file.rows) for file in files]),
    )


class Subset:
    """The samples of `whole` at `indices`, in that order; the class list stays that of the whole, and so do
    `of_points` (see `CloudSet`) and `parts_of` (see `shapenet_parts`)."""

    def __init__(self, whole: Labelled, indices: np.ndarray, name: str | None = None) -> None:
        self.whole = whole
        self.indices = np.asarray(indices, dtype=np.int64)
        self.name = name or whole.name
        self.classes = whole.classes
        self.labels = whole.labels[self.indices]
        self.of_points = bool(getattr(whole, "of_points", False))
        self.parts_of: tuple[tuple[int, ...], ...] = getattr(whole, "parts_of", ())

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.whole[int(self.indices[index])]

    def origin(self, index: int) -> str:
        return origin(self.whole, int(self.indices[index]))


def origin(clouds: CloudSet, index: int) -> str:
    """Where a cloud is from, for messages: its file and row, where the set knows them.

    >>> origin(StoredClouds("made", ("a",), np.zeros((1, 8, 3)), np.zeros(1, int)), 0)
    'made cloud 0'
    """
    known = getattr(clouds, "origin", None)
    return known(index) if known is not None else f"{clouds.name} cloud {index}"


def short_names(clouds: CloudSet, root: str | Path) -> tuple[str, ...]:
    """Where each cloud is from, as `origin` says, without the folder of the dataset: the same on any machine.

    >>> rows = Origins.of_files([(Path("/data/mine/test0.h5"), np.array([5]))])
    >>> made = StoredClouds("made", ("a",), np.zeros((1, 8, 3)), np.zeros(1, int), origins=rows)
    >>> short_names(made, "/data/mine")
    ('test0.h5 row 5',)
    """
    folder = home(root)
    names = (origin(clouds, index) for index in range(len(clouds)))
    return tuple(name.removeprefix(f"{folder} ").replace(f"{folder}/", "") for name in names)


@dataclass(frozen=True)
class Splits:
    """What a run trains on, chooses by, and is scored on: clouds or images.

    Without a validation part the last epoch counts.
    """

    train: Labelled
    validation: Labelled | None
    test: Labelled


def few_shot(labels: np.ndarray, shots: int, seed: int, classes: Sequence[str] = ()) -> np.ndarray:
    """Pick `shots` samples of every class at random; return their indices, sorted, int64 [classes · shots].

    Each class is drawn on its own, so that with one seed the 1-shot set is part of the 5-shot set, and a
    class keeps its samples whatever the other classes are. `classes` (the names, in label order) is used to
    notice classes without any sample, and in errors.

    Raises InputError where a class has fewer than `shots` samples, and for `shots` < 1.

    >>> few_shot(np.array([0, 0, 0, 1, 1, 1]), shots=2, seed=0).shape
    (4,)
    """
    if shots < 1:
        raise InputError(f"shots must be at least 1, found {shots}")
    labels = np.asarray(labels)
    chosen = []
    for label, members in enumerate(_members(labels, len(classes))):
        if len(members) < shots:
            name = f"{classes[label]!r} (label {label})" if len(classes) else f"with label {label}"
            raise InputError(f"{shots} shots asked for, but the class {name} has only {len(members)} training samples")
        chosen.append(np.random.default_rng([seed, label]).permutation(members)[:shots])
    return np.sort(np.concatenate(chosen))


def hold_out(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a part of every class: return the indices that stay and those held out, each sorted, int64.

    Of a class with n samples, fraction · n are held out, rounded to the nearest whole number (halves up), but
    never all of them. The second array is empty where that leaves nothing.

    Raises InputError unless 0 <= fraction < 1.

    >>> kept, held = hold_out(np.array([0] * 10 + [1] * 5), fraction=0.2, seed=0)
    >>> len(kept), len(held)
    (12, 3)
    """
    if not 0 <= fraction < 1:
        raise InputError(f"the fraction held out for validation must be in [0, 1), found {fraction}")
    labels = np.asarray(labels)
    held = np.zeros(len(labels), dtype=bool)
    for label, members in enumerate(_members(labels)):
        count = min(int(fraction * len(members) + 0.5), len(members) - 1)
        if count > 0:
            held[np.random.default_rng([seed, label]).permutation(members)[:count]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def every_class_held(scenes: CloudSet, kept: np.ndarray, held: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Exchange held-out scenes for others until each class has points among them: the rows that stay, and those held.

    Where validation lacks a class, a network that never says it loses nothing, and the wrong learning rate or epoch may
    be chosen. No exchange takes a class from training, or another one from validation. The number held stays, and
    where they lack nothing they are those of the draw. Read are the held-out scenes, and as many others as it takes to
    find what is missing; all of them where it is nowhere. kept, held: rows of `scenes`, int64.
    """

    def classes_of(row: int) -> set[int]:
        labels = scenes[row].labels
        return set() if labels is None else set(np.unique(labels).tolist()) - {IGNORED}

    inside = {int(row): classes_of(int(row)) for row in held}
    outside: dict[int, set[int]] = {}
    unread = np.random.default_rng([seed, len(scenes)]).permutation(kept).tolist()
    while missing := set(range(len(scenes.classes))).difference(*inside.values()):
        held_by, kept_by = (Counter(chain(*found.values())) for found in (inside, outside))
        comes = [row for row in outside if outside[row] & missing and all(kept_by[one] > 1 for one in outside[row])]
        goes = [
            (old, new) for new in comes for old in inside if all(held_by[o] > 1 for o in inside[old] - outside[new])
        ]
        if goes:
            old, new = goes[0]
            outside[old], inside[new] = inside.pop(old), outside.pop(new)
        elif unread:
            row = unread.pop(0)
            outside[row] = classes_of(row)
        else:
            break
    now_held = np.sort(np.fromiter(inside, dtype=np.int64))
    return np.setdiff1d(np.concatenate([kept, held]), now_held), now_held


def make_splits(
    train: Labelled, test: Labelled, shots: int | None = None, validation: float = 0.0, seed: int = 0
) -> Splits:
    """Take `shots` per class from train (None: everything), then hold out a fraction of these for validation.

    Validation is None where nothing is held out: with K shots and a fraction below 1/(2K) that is the case.

    >>> clouds = StoredClouds("made", ("a", "b"), np.zeros((20, 8, 3), np.float32), np.arange(20) % 2)
    >>> splits = make_splits(clouds, clouds, shots=5, validation=0.2)
    >>> len(splits.train), len(splits.validation), len(splits.test)
    (8, 2, 20)
    """
    indices = np.arange(len(train)) if shots is None else few_shot(train.labels, shots, seed, train.classes)
    kept, held = hold_out(train.labels[indices], validation, seed)
    if getattr(train, "of_points", False) and len(held) and not np.any(train.labels):
        kept, held = every_class_held(Subset(train, indices), kept, held, seed)
    return Splits(
        train=Subset(train, indices[kept]),
        validation=Subset(train, indices[held], f"{train.name}/validation") if len(held) else None,
        test=test,
    )


def _members(labels: np.ndarray, classes: int = 0) -> list[np.ndarray]:
    """The indices of every class, in label order."""
    count = max(classes, int(labels.max()) + 1 if len(labels) else 0)
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(1, count))) if count else []
