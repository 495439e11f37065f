"""A label for every point, by a finished segmentation: of clouds in memory, and of files that are written again."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from image2point.errors import InputError
from image2point.files import is_there, shown, target_path
from image2point.objects import url_of
from image2point.storage import fetched, on_disk

logger = logging.getLogger("image2point")

if TYPE_CHECKING:
    from image2point.config.data import Data
    from image2point.datasets.parts import Parts
    from image2point.datasets.recipe import Recipe
    from image2point.datasets.relabel import PointLabels
    from image2point.inference.scene import Progress, SceneLabels
    from image2point.jobs.sources import Source


@dataclass(frozen=True)
class Labeller:
    """A segmenter, with all that its input and its tiles need."""

    source: Source
    recipe: Recipe
    budget: int | None

    @property
    def data(self) -> Data:
        return self.source.data

    def label(self, parts: Parts, where: str, progress: Progress = lambda what, done, of: None) -> SceneLabels:
        from image2point.inference.scene import label_scene

        overlap = self.source.usage.tiles.overlap
        return label_scene(self.source.network, parts, self.recipe, where, self.budget, overlap, progress)


def open_labeller(run: str | Path, voxels: int | None = None) -> Labeller:
    """voxels: that the network sees at once; None for what the run or the saved network says (`tiles`).

    Raises InputError where the run is not finished, or either is damaged or of another task.
    """
    from image2point.jobs.sources import open_source, task_of

    if not (task := task_of(run)).of_points:
        raise InputError(
            f"{run} is of the task {task.name}: it has a class for each file, which `image2point predict` prints "
            "without --out, and none for the points"
        )
    source = open_source(run)
    return Labeller(source, source.usage.recipe(), voxels or source.usage.tiles.voxels)


def label_points(run: str | Path, clouds: Any, voxels: int | None = None) -> list[SceneLabels]:
    """What a finished segmentation, or a segmenter that was saved, says of each point of clouds in memory.

    clouds: as `net.predict` takes them, with the attributes, colours or normals that the run's input features need, in
    the unit and the axes that the run was trained in. voxels: that the network sees at once; None for the
    run's own `data.tiles.voxels`.

    Returns `SceneLabels` in the order of the clouds: `.labels` [P], numbers into the run's classes, and
    `.probabilities(number)[:]`, float32 [P], of one class.

    Raises InputError where the run is not a finished segmentation, and for clouds that lack what its features need.
    """
    from image2point.datasets.in_memory import clouds_of
    from image2point.datasets.parts import CloudParts
    from image2point.inference.clouds import cloud_of

    labeller = open_labeller(run, voxels)
    found = []
    for number, given in enumerate(clouds_of(clouds)):
        where = f"cloud {number}"
        found.append(labeller.label(CloudParts(cloud_of(given, labeller.source.usage, where)), where))
    return found


@dataclass(frozen=True)
class FileLabels:
    """What became of one file: points of each class, by its name, and where they were written; or why nothing did."""

    file: str
    counts: Mapping[str, int] = field(default_factory=dict)
    written: str = ""
    problem: str = ""


def label_files(
    run: str | Path,
    paths: Sequence[str | Path],
    out: str | Path | None = None,
    probabilities: bool = False,
    name: str | None = None,
    ids: Mapping[str, int] | None = None,
    overwrite: bool = False,
    voxels: int | None = None,
    progress: Progress = lambda what, done, of: None,
) -> Iterator[FileLabels]:
    """Label every point of files (.las .laz .ply .pcd .npz .npy .txt .xyz .pts .bin) with a finished segmentation.

    out: the folder that gets a file for each (`datasets.relabel`), of the same name, written again with the labels, or
    of a .bin the .label that SemanticKITTI's benchmark wants; None counts only. probabilities: write those of each
    class too, as `probability_CLASS`. name: of the field that gets the labels; None for the files' own. ids: raw ids
    by the name of a class, over those of `registry.raw_ids`. voxels: that the network sees at once; None for the run's
    own. progress: called with the file and the step, and how much of how much is done.

    A file that is bad, or lacks what the run's input features need, gets a `problem`, and keeps no other from a result.
    A warning names ids that mean other classes in LAS files (`las.CODES`).
    Raises InputError, before anything is written, where the run is not a finished segmentation, two files have one
    name, a file would be written over, and for ids of classes that the run does not have.
    """
    from image2point.datasets.registry import raw_ids

    files = [target_path(path) for path in paths]
    labeller = open_labeller(run, voxels)
    classes = labeller.source.classes
    if unknown := set(ids or {}) - set(classes):
        raise InputError(f"{sorted(unknown)[0]!r} is no class of {run}; it has {', '.join(classes)}")
    numbers = raw_ids(labeller.data, classes) | dict(ids or {})
    targets = None if out is None else _targets(files, target_path(out), overwrite)
    _tell_misnamed(numbers, set(ids or {}), targets or [], name)
    for file, target in zip(files, targets or files, strict=True):
        step = partial(_named, progress, file.name)
        try:
            source = fetched(file)
            found = labeller.label(_parts(source, labeller), shown(file), step)
            labels = found.labels
            if targets is not None:
                from image2point.datasets.relabel import write_again

                step("writing", 0, len(labels))
                with on_disk(target) as place:
                    write_again(source, place, _content(found, labels, numbers, labeller, name, probabilities))
        except InputError as error:
            text = str(error)
            yield FileLabels(shown(file), problem=text if shown(file) in text else f"{shown(file)}: {text}")
            continue
        counts = np.bincount(labels, minlength=len(classes)).tolist()
        written = "" if targets is None else shown(target)
        yield FileLabels(shown(file), dict(zip(classes, counts, strict=True)), written)


def _tell_misnamed(numbers: Mapping[str, int], given: set[str], targets: Sequence[Path], name: str | None) -> None:
    """A warning where codes that were not `given` mean other classes in the LAS files that they are written to."""
    from image2point.datasets.las import misnamed

    if name not in (None, "classification") or not any(each.suffix.lower() in (".las", ".laz") for each in targets):
        return
    wrong = misnamed({each: number for each, number in numbers.items() if each not in given})
    if wrong:
        told = ", ".join(f"{each} as {numbers[each]} (there {meaning})" for each, meaning in wrong.items())
        example = " ".join(f"--id {each}=CODE" for each in wrong)
        logger.warning(
            "the ids of this run's classes have other meanings in LAS files: %s; give the codes that you want (%s), or "
            "another --field",
            told, example,
        )  # fmt: skip


def _named(progress: Progress, name: str, what: str, done: int, of: int) -> None:
    progress(f"{name}: {what}", done, of)


def _parts(file: Path, labeller: Labeller) -> Parts:
    from image2point.datasets.parts import CloudParts, open_parts
    from image2point.datasets.registry import options_of
    from image2point.inference.clouds import cloud_of

    options, usage = options_of(labeller.data), labeller.source.usage
    as_read = usage.near_origin and not usage.normalise
    whole = labeller.recipe.normals == "estimated" or not as_read
    parts = open_parts(file, options.scenes, options.columns, whole)
    if as_read:
        return parts
    (cloud,) = parts
    there = replace(cloud, points=cloud.points.astype(np.float64) + cloud.origin, origin=np.zeros(3))
    return CloudParts(cloud_of(there, usage, str(file)))


def _content(
    found: SceneLabels,
    labels: np.ndarray,
    numbers: Mapping[str, int],
    labeller: Labeller,
    name: str | None,
    probabilities: bool,
) -> PointLabels:
    from image2point.datasets.registry import options_of
    from image2point.datasets.relabel import PointLabels, smallest_type

    options, classes = options_of(labeller.data), labeller.source.classes
    raw = np.array([numbers[each] for each in classes])
    raw = raw.astype(smallest_type(raw))
    extra = {f"probability_{each}": found.probabilities(at) for at, each in enumerate(classes)} if probabilities else {}
    return PointLabels(raw[labels], name, options.scenes.label, options.columns, extra)


def _targets(files: Sequence[Path], out: Path, overwrite: bool) -> list[Path]:
    """Where the files go; InputError where two would be one, and where something is there."""
    from image2point.datasets.relabel import target_of

    targets = [target_of(file, out) for file in files]
    count = Counter(str(target).lower() for target in targets)
    if twice := [file for file, target in zip(files, targets, strict=True) if count[str(target).lower()] > 1]:
        raise InputError(
            f"{twice[0]} and {twice[1]} have one name, and would be one file in {out}; predict them one by one, with "
            "another --out for each"
        )
    for file, target in zip(files, targets, strict=True):
        there = is_there(target)
        here = not url_of(target) and not url_of(file) and file.exists()
        if there and (target.samefile(file) if here else url_of(target) == url_of(file) is not None):
            raise InputError(f"{target} would be written over itself; name another folder in --out")
        if there and not overwrite:
            raise InputError(f"{shown(target)} exists; remove it, give --overwrite, or name another folder in --out")
    return targets
