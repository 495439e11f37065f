"""Labels of points as files have them → class names → labels as networks have them, and back; keyed by name.

Ids differ between releases of one data set (some count from 0, some from 1), names do not. So a table says what each
raw id is called; several ids may have one name, and `ignore` is the name of what is neither trained on nor scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from image2point.datasets.cloud import IGNORED
from image2point.errors import InputError, one_line

IGNORE = "ignore"


@dataclass(frozen=True)
class LabelTable:
    """names: raw id → class name, or `ignore`. order: the classes as networks number them, by their smallest raw id
    unless given. raw: the id that a class is written back as, its smallest unless given.

    Raises InputError for a table without a class, and for an order or raw ids that do not fit its names.

    >>> table = LabelTable({0: "ignore", 1: "ground", 3: "vegetation", 4: "vegetation", 5: "building"})
    >>> table.classes
    ('ground', 'vegetation', 'building')
    >>> table.encode(np.array([5, 0, 4]), "a.laz")
    array([ 2, -1,  1])
    >>> table.decode(np.array([2, 1]))
    array([5, 3])
    """

    names: Mapping[int, str]
    order: Sequence[str] = ()
    raw: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = {name for name in self.names.values() if name != IGNORE}
        odd = [name for name in found if not name.isprintable() or not name.strip()]
        if odd or not found:
            wrong = f"the name {odd[0]!r}" if odd else "none"
            raise InputError(f"a table of labels needs classes with names that can be printed; found {wrong}")
        if self.order and (set(self.order) != found or len(self.order) != len(found)):
            raise InputError(f"the classes {', '.join(self.order)} are not those of the table: {', '.join(found)}")
        wrong_ids = [name for name, number in self.raw.items() if self.names.get(number) != name]
        if wrong_ids:
            raise InputError(f"the id {self.raw[wrong_ids[0]]} is not called {wrong_ids[0]!r} in the table of labels")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their labels 0, 1, ..."""
        by_id = dict.fromkeys(self.names[number] for number in sorted(self.names))
        return tuple(self.order) or tuple(name for name in by_id if name != IGNORE)

    @cached_property
    def raw_ids(self) -> np.ndarray:
        """The raw id of each class, int64 [classes]."""
        smallest = {name: min(i for i, other in self.names.items() if other == name) for name in self.classes}
        return np.array([self.raw.get(name, smallest[name]) for name in self.classes], dtype=np.int64)

    def encode(self, values: Any, where: str) -> np.ndarray:
        """Labels int64 [P], −1 where ignored, of raw ids [P], whole numbers of any type.

        where: begins messages, mostly the file. Raises InputError for other numbers and for ids that the table does
        not have, with how often they occur.
        """
        raw = whole_labels(values, where)
        known = np.array(sorted(self.names), dtype=np.int64)
        number = {name: label for label, name in enumerate(self.classes)} | {IGNORE: IGNORED}
        labels = np.array([number[self.names[int(each)]] for each in known], dtype=np.int64)
        place = np.minimum(np.searchsorted(known, raw), len(known) - 1)
        strange = known[place] != raw
        if strange.any():
            ids, counts = np.unique(raw[strange], return_counts=True)
            listed = ", ".join(f"{i} ({count:,} points)" for i, count in zip(ids[:8], counts[:8], strict=True))
            raise InputError(
                f"{where}: {strange.sum():,} of {len(raw):,} points have labels that the table does not name: {listed}"
                f"{', ...' if len(ids) > 8 else ''}; name them in data.labels, or say {IGNORE} there"
            )
        return labels[place]

    def decode(self, labels: np.ndarray, ignored: int = 0) -> np.ndarray:
        """Raw ids int64 [P] of labels [P]; `ignored` where a label is −1."""
        labels = np.asarray(labels)
        if len(labels) and not (labels.min() >= IGNORED and labels.max() < len(self.classes)):
            raise InputError(
                f"expected labels {IGNORED}..{len(self.classes) - 1}, found {labels.min()}..{labels.max()}"
            )
        return np.append(self.raw_ids, ignored)[labels]


def whole_labels(values: Any, where: str) -> np.ndarray:
    """Raw ids as int64 [P], from numbers of any type [P] or [P, 1] that are whole.

    >>> whole_labels(np.array([[2.0], [3.0]]), "a.npy")
    array([2, 3])
    """
    array = np.asarray(values)
    array = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind not in "fiu" or array.ndim != 1:
        raise InputError(f"{where}: expected a label for each point, found {array.dtype} {array.shape}")
    if array.dtype.kind == "f":
        wrong = ~(np.isfinite(array) & (array == np.floor(array)) & (np.abs(array) < 2**53))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InputError(
                f"{where}: expected whole numbers as labels, found {one_line(array[row])} at point {row} "
                f"({wrong.sum():,} such points)"
            )
    return array.astype(np.int64)
