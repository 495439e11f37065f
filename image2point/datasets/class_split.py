"""A part of a dataset's classes: base classes to train on, novel classes that training never sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from image2point.errors import InputError


class Labelled(Protocol):
    """What clouds and images have in common: `labels` int64 [n], `self[i]` the sample."""

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def labels(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class OfClasses:
    """The samples of `whole` of the given classes, numbered in their order."""

    def __init__(self, whole: Labelled, classes: Sequence[str], name: str | None = None) -> None:
        number = np.full(len(whole.classes), -1, dtype=np.int64)
        number[[whole.classes.index(each) for each in classes]] = np.arange(len(classes))
        self.whole, self.classes, self.name = whole, tuple(classes), name or whole.name
        self.indices = np.flatnonzero(number[whole.labels] >= 0)
        self.labels = number[whole.labels[self.indices]]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.whole[int(self.indices[index])]

    def origin(self, index: int) -> str:
        own, known = int(self.indices[index]), getattr(self.whole, "origin", None)
        return f"{self.whole.name} cloud {own}" if known is None else str(known(own))


class Joined:
    """Several sets with the same classes, one after the other."""

    def __init__(self, *parts: Labelled) -> None:
        self.parts, self.classes = parts, parts[0].classes
        self.name = "+".join(part.name for part in parts)
        self.labels = np.concatenate([part.labels for part in parts])
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.parts[part][index - (int(self._ends[part - 1]) if part else 0)]


def split_classes(
    names: Sequence[str],
    novel: Sequence[str] | int = 0,
    base: Sequence[str] | int | None = None,
    seed: int = 0,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(base, novel) classes, both in the order of `names` and disjoint.

    A number is drawn by `seed`: the novel classes first, so that they are the same for any number of base classes,
    and more base classes contain the fewer.

    Raises InputError for a class that is not there or in both, and where there are too few.

    >>> split_classes(("bed", "chair", "sofa"), novel=["bed"])
    (('chair', 'sofa'), ('bed',))
    """
    if len(names) < 2:
        raise InputError(f"expected two or more classes, found {', '.join(names) or 'none'}")
    given = [("novel", novel), ("base", base)]
    for what, some in given:
        unknown = [] if some is None or isinstance(some, int) else sorted(set(some) - set(names))
        if unknown:
            raise InputError(f"class_split.{what} names {', '.join(unknown)}; there are {', '.join(names)}")
    drawn = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    fixed = () if base is None or isinstance(base, int) else tuple(base)
    chosen = set(novel) if not isinstance(novel, int) else set([n for n in drawn if n not in fixed][:novel])
    if chosen & set(fixed):
        raise InputError(f"class_split: {', '.join(sorted(chosen & set(fixed)))} cannot be both base and novel")
    left = [name for name in drawn if name not in chosen]
    trained = set(left if base is None else left[:base] if isinstance(base, int) else fixed)
    wanted = base if isinstance(base, int) else 2
    if len(trained) < wanted or (isinstance(novel, int) and len(chosen) < novel):
        raise InputError(
            f"class_split: {novel if isinstance(novel, int) else len(chosen)} novel and {wanted} base classes are more "
            f"than the {len(names)} there are"
        )
    return tuple(n for n in names if n in trained), tuple(n for n in names if n in chosen)
