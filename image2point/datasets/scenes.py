"""Anybody's scenes: a folder of files whose points have labels, read by the names that a config gives."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from image2point.datasets.catalogue import Dataset, Options
from image2point.datasets.cloud import Cloud
from image2point.datasets.label_table import IGNORE, LabelTable, whole_labels
from image2point.datasets.las import CODES
from image2point.datasets.listed import FileClouds, check_disjoint, entries_of, existing_folder, is_litter
from image2point.datasets.scene_files import SUFFIXES, label_field, read_columns, read_scene
from image2point.datasets.splits import Splits
from image2point.errors import InputError
from image2point.files import files_below

FOLDERS = {"train": ("train", "training"), "validation": ("validation", "val", "valid"), "test": ("test", "testing")}

LAYOUT = (
    f"a folder with {' '.join(SUFFIXES)} files in the folders train and test (and perhaps validation), or anywhere in "
    "it with the names or patterns of each split in data.scenes.train, .test and .validation; and in data.labels what "
    f"the raw labels are called, such as {{2: ground, 6: building, 1: {IGNORE}}}"
)


class SceneFiles(FileClouds):
    """A set of scenes, one file each, read on demand. `classes` are those of points; `labels`, of whole clouds, are 0
    unless given."""

    of_points = True
    chunk = 1  # scenes that a worker reads at a time: they are large

    def __init__(
        self,
        name: str,
        table: LabelTable,
        paths: Sequence[Path],
        read: Callable[[Path], Cloud],
        labels: np.ndarray | None = None,
    ) -> None:
        own = np.zeros(len(paths), dtype=np.int64) if labels is None else labels
        super().__init__(name, table.classes, paths, own, read)
        self.table = table


def load_scenes(root: Path, options: Options) -> Splits:
    """The splits of a folder; nothing of the files is read yet.

    Raises InputError for a folder without scenes, patterns that find nothing or point elsewhere, a file in two splits,
    two files of one name, and a config without a table of labels: the message then has one to begin with.
    """
    existing_folder(root, "scenes", LAYOUT)
    found = _by_patterns(root, options) if options.scenes.train or options.scenes.test else _by_folders(root)
    for first, second in (("train", "test"), ("train", "validation"), ("validation", "test")):
        if first in found and second in found:
            check_disjoint(found[first], found[second], str(root))
    _one_name_each(found, root)
    if options.labels is None:
        raise InputError(_proposal(found["train"][0], options))
    table = LabelTable(options.labels)
    read = partial(
        read_scene, table=table, fields=options.scenes, columns=options.columns, nan_points=options.nan_points
    )
    sets = {split: SceneFiles(f"scenes/{split}", table, paths, read) for split, paths in found.items()}
    return Splits(sets["train"], sets.get("validation"), sets["test"])


def _by_patterns(root: Path, options: Options) -> dict[str, list[Path]]:
    found = {}
    for split in FOLDERS:
        patterns: Sequence[str] = getattr(options.scenes, split)
        paths: list[Path] = []
        for pattern in patterns:
            if Path(pattern).is_absolute() or ".." in Path(pattern).parts or not pattern.strip():
                raise InputError(f"data.scenes.{split}: expected names or patterns under {root}, found {pattern!r}")
            try:
                # `**` of pathlib does not look behind links.
                linked = (root / name for name in glob.glob(pattern, root_dir=root, recursive=True))
                there = {*root.glob(pattern), *linked}
                here = sorted(path for path in there if path.is_file() and not is_litter(path.name))
            except ValueError as error:
                raise InputError(f"data.scenes.{split}: {pattern!r} is no pattern of file names: {error}") from None
            kept = [path for path in here if path.suffix.lower() in SUFFIXES]
            if not kept:
                raise InputError(
                    f"data.scenes.{split}: {pattern!r} finds {len(here)} files in {root} and no scene among them; "
                    f"{_nearest(root, pattern)}scenes are {' '.join(SUFFIXES)}"
                )
            paths += [path for path in kept if path not in paths]
        if paths:
            found[split] = paths
        elif split != "validation":
            raise InputError(f"data.scenes.{split} is empty: name the files of train and of test, or of neither")
    return found


def _nearest(root: Path, pattern: str) -> str:
    """The name with its suffix, where that was forgotten; else a scene that lies there, if any does."""
    there = sorted(path.relative_to(root) for path in files_below(root) if path.suffix.lower() in SUFFIXES)
    meant = [path for path in there if path.with_suffix("").match(pattern)]
    if not there:
        return ""
    return f"did you mean {meant[0].as_posix()!r}? " if meant else f"there is, for example, {there[0].as_posix()!r}; "


def _by_folders(root: Path) -> dict[str, list[Path]]:
    folders = [path for path in entries_of(root) if path.is_dir()]
    found = {}
    for split, names in FOLDERS.items():
        places = [path for path in folders if path.name.lower() in names]
        if len(places) > 1:
            raise InputError(f"{root} has several folders for {split}: {', '.join(path.name for path in places)}")
        if not places:
            if split == "validation":
                continue
            raise InputError(f"{root} has no folder {split}: expected {LAYOUT}")
        found[split] = _scenes_in(places[0])
        if not found[split]:
            raise InputError(f"{places[0]}: no scenes were found; expected {' '.join(SUFFIXES)} files")
    return found


def _scenes_in(folder: Path) -> list[Path]:
    paths: list[Path] = []
    for path in entries_of(folder):
        if path.is_dir():
            paths += _scenes_in(path)
        elif path.suffix.lower() in SUFFIXES:
            paths.append(path)
        else:
            raise InputError(f"{path}: unsupported suffix {path.suffix!r}; scenes are {' '.join(SUFFIXES)}")
    return paths


def _one_name_each(found: Mapping[str, Sequence[Path]], root: Path) -> None:
    """Refuse a.las beside a.laz: it is one scene twice, and what is written of it would have one name."""
    seen: dict[str, Path] = {}
    for paths in found.values():
        for path in paths:
            name = str(path.with_suffix("")).lower()
            if name in seen and seen[name] != path:
                raise InputError(f"{root}: two files of one name: {seen[name]} and {path.name}; keep one of them")
            seen[name] = path


def _proposal(path: Path, options: Options) -> str:
    """What to write into data.labels, by what one file holds."""
    found = read_columns(path, options.scenes, options.columns)
    name = label_field(found, options.scenes, str(path))
    ids, counts = np.unique(whole_labels(found[name.lower()], str(path)), return_counts=True)
    las = path.suffix.lower() in (".las", ".laz")
    names = [CODES.get(int(i), f"class_{i}").replace(" ", "_") if las else f"class_{i}" for i in ids]
    table = ", ".join(f"{i}: {each}" for i, each in zip(ids[:40], names, strict=False))
    return (
        f"data.labels is empty: say what the labels are called, and `{IGNORE}` for those that do not count. {path} has "
        f"{len(ids)}, of {counts.min():,} to {counts.max():,} points, for example data.labels={{{table}}}"
    )


DATASET = Dataset(
    name="scenes",
    title="your own scenes, a label for every point",
    load=load_scenes,
    layout=LAYOUT,
    splits="the folders train, test and validation, or names and patterns in the config",
    classes="the names in data.labels, by their smallest raw label; several raw labels may have one name",
    axes="as in the files",
    normalisation="none; each scene is moved so that its smallest coordinates lie in 0..1, and remembers where it was",
    terms="yours",
    citation="",
)
