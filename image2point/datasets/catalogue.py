"""What a dataset's entry holds: its reader and what a user must know. `image2point data` and configs use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from image2point.datasets.columns import parse_columns
from image2point.datasets.scene_files import SceneFields
from image2point.datasets.splits import Splits
from image2point.errors import InputError
from image2point.files import target_path
from image2point.storage import fetched


@dataclass(frozen=True)
class Options:
    """How a dataset is read. A reader ignores the options that do not apply to its data.

    variant: which of the dataset's variants, by name; None for its usual one.
    classes: how many of ModelNet's classes, 40 or 10; None takes what the folder holds.
    points: sampled from each mesh, or drawn from a longer list of points; None keeps all points, and samples 2048.
    seed: of the sampling, together with the name of the file: no cloud depends on the other files.
    normalise: move and scale each cloud into the unit sphere; None as the dataset's entry says.
    skipped: None ends reading at the first bad row; a list collects the bad rows, which are left out.
    columns, nan_points: as in `files.read_cloud`, for files that are clouds.
    labels: raw label of a point → name of its class, or `ignore`; scenes: how files of scenes are read.
    """

    variant: str | None = None
    classes: int | None = None
    points: int | None = None
    seed: int = 0
    normalise: bool | None = None
    skipped: list[str] | None = field(default=None, compare=False)
    columns: str | None = None
    nan_points: Literal["drop", "refuse"] = "drop"
    labels: Mapping[int, str] | None = None
    scenes: SceneFields = field(default_factory=SceneFields)

    def __post_init__(self) -> None:
        if self.columns is not None:
            parse_columns(self.columns, any_name=self.labels is not None)
        if self.classes not in (None, 10, 40):
            raise InputError(
                f"classes must be 40 (ModelNet40), 10 (ModelNet10) or none (all that are there), found {self.classes}"
            )

    def refuse(self, message: str) -> None:
        """Raise InputError, or record the row as skipped if bad rows are collected."""
        if self.skipped is None:
            raise InputError(message)
        self.skipped.append(message)


@dataclass(frozen=True)
class Download:
    """One file of an official source. sha256 is None where no checksum is published."""

    url: str
    folder: str
    """The folder that the archive unpacks to."""
    bytes_limit: int
    """Refuse a larger one."""
    sha256: str | None = None


@dataclass(frozen=True)
class Dataset:
    """A reader and all that a user must know of its data.

    load: (root, options) → train, validation (None unless the dataset has its own) and test; called through `read`.
    counts: clouds of each official split, where there is one, by variant; "" is the usual variant.
    """

    name: str
    title: str
    load: Callable[[Path, Options], Splits]
    layout: str
    splits: str
    classes: str
    axes: str
    normalisation: str
    terms: str
    citation: str
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    variants: tuple[str, ...] = ()
    downloads: tuple[Download, ...] = ()
    get: str = ""
    """How to get the data if they require registration."""
    centred: bool = False
    """Coordinates are those around the sensor; of other scenes, relative to the smallest ones."""
    streams: bool = False
    """`load` takes a URL too, and gets files when they are needed; of other datasets, all files come first."""

    def read(self, root: str | Path, options: Options) -> Splits:
        """The splits that lie in `root`, a folder or a URL (`storage`), with what holds for all datasets checked.

        Raises InputError as the dataset's reader does, and for names of classes that cannot be printed: they go to
        terminals, tables and pages as they are.
        """
        splits = self.load(target_path(root) if self.streams else fetched(root), options)
        odd = [name for name in splits.train.classes if not name.isprintable() or not name.strip()]
        if odd:
            raise InputError(f"{root}: the class name {odd[0]!r} is empty or holds characters that cannot be printed")
        return splits


def choose_variant(found: str | None, variants: tuple[str, ...], dataset: str) -> str:
    """The variant asked for, or the first; InputError for one that does not exist.

    >>> choose_variant(None, ("pb_t50_rs", "obj_only"), "scanobjectnn")
    'pb_t50_rs'
    """
    if found is None:
        return variants[0]
    if found not in variants:
        raise InputError(f"{dataset} has the variants {', '.join(variants)}; found {found!r}")
    return found
