"""A teacher's labels for the training clouds that no shot uses, for a student that learns from both.

A network that was trained on K shots labels the rest, and a student is trained on the shots and on what the teacher is
sure of (pseudo-labels: Lee 2013; for lifted networks Xu et al. 2022, with a K-shot teacher). What the dataset says of
those clouds is used for one number of the report alone: how many labels are right.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from image2point import config as configuration
from image2point.config import Config
from image2point.datasets import Splits
from image2point.datasets.arrays import read_arrays
from image2point.datasets.recipe import Recipe
from image2point.datasets.splits import Subset, few_shot
from image2point.errors import InputError
from image2point.inference.clouds import TOGETHER, classify
from image2point.jobs.artefact import home_of, load
from image2point.jobs.ingredients import check_features
from image2point.jobs.saving import save_arrays
from image2point.runs import Run
from image2point.training import distributed

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from image2point.lifting import LiftedNetwork


class Taught(Subset):
    """The shots, and after them the clouds that a teacher labelled.

    labels: int64 [n], of the shots the dataset's, of the others the teacher's; soft: float32 [n, classes], the same as
    probabilities, or None where the most probable class alone is learnt.
    """

    def __init__(self, shots: Subset, rows: np.ndarray, probabilities: np.ndarray, soft: bool) -> None:
        super().__init__(shots.whole, np.concatenate([shots.indices, rows]), shots.name)
        self.labels = np.concatenate([shots.labels, probabilities.argmax(1)])
        certain = np.eye(len(self.classes), dtype=np.float32)[shots.labels]
        self.soft = np.concatenate([certain, probabilities.astype(np.float32)]) if soft else None


@dataclass(frozen=True)
class Lesson:
    """What a teacher gave: `clouds` it was shown, `taken` of them, and the share of these whose label is `right`."""

    clouds: int
    taken: int
    right: float | None

    def told(self, config: Config) -> str:
        right = "" if self.right is None else f"; {100 * self.right:.1f} % of these labels are right"
        return (
            f"teacher {config.teacher.network}: of {self.clouds:,} training clouds that no shot uses, it labels "
            f"{self.taken:,} with a probability of {config.teacher.threshold:g} or more, which train too{right}"
        )


def open_teacher(config: Config, splits: Splits) -> LiftedNetwork | None:
    """The teacher; None where the config names none.

    Raises InputError where there is none, it knows other classes or those of points, and where it does not say how
    clouds become its input or cannot take these.
    """
    if config.teacher.network is None:
        return None
    teacher, where = load(config.teacher.network), f"teacher.network = {config.teacher.network}"
    if teacher.usage is None:
        raise InputError(f"{where} does not say how clouds become its input; save it with net.use(voxel_size=...)")
    if teacher.usage.classes != splits.train.classes:
        raise InputError(
            f"{where} knows the classes {', '.join(teacher.usage.classes) or 'none by name'}, and the run has "
            f"{', '.join(splits.train.classes)}"
        )
    if teacher.lifting.decoder:
        raise InputError(f"{where} has a class for each point; a teacher has one for each cloud")
    check_features(Splits(splits.train, None, splits.test), _recipe(teacher))
    if _saw_these(config, home_of(config.teacher.network)):
        teacher._usage = teacher.usage.changed({"normalise": False})
    return teacher


def _saw_these(config: Config, teacher: Path) -> bool:
    """Whether the teacher is a run on clouds that were read as this run reads them: then they are scaled already."""
    if not Run(teacher).config.is_file():
        return False
    its, ours = configuration.load_config(Run(teacher).config).data, config.data
    same = (its.name, its.normalise) == (ours.name, ours.normalise)
    return same and (ours.name != "prepared" or its.root == ours.root)


def untaught(config: Config, splits: Splits) -> np.ndarray:
    """Rows of the whole training set that neither shots nor the choice of the learning rate take, int64.

    Raises InputError where there are none.
    """
    assert isinstance(splits.train, Subset)
    whole, shots, seed = splits.train.whole, config.data.shots, config.data.shot_seed
    assert shots is not None
    left = np.setdiff1d(np.arange(len(whole)), few_shot(whole.labels, shots, seed, whole.classes))
    if config.choose.lr and config.choose.clouds is not None:
        judges = few_shot(whole.labels[left], config.choose.clouds, seed, whole.classes)
        left = np.delete(left, judges)
    if not len(left):
        raise InputError(f"the shots leave none of the {len(whole)} training clouds for the teacher to label")
    return left


def ask(config: Config, splits: Splits, teacher: LiftedNetwork, rows: np.ndarray, fabric: Fabric) -> np.ndarray:
    """The teacher's probabilities for these training clouds, as `predict` gives them, float32 [n, classes].

    A run on the same dataset gets them in the size in which it was trained. The numbers are the same on every process.
    rows: as `untaught` gives them. Raises InputError where nothing reaches the threshold.
    """
    assert isinstance(splits.train, Subset) and teacher.usage is not None
    clouds = Subset(splits.train.whole, rows)
    network: Any = fabric.to_device(teacher)
    mine, found = np.array_split(np.arange(len(clouds)), fabric.world_size)[fabric.global_rank], []
    for start in range(0, len(mine), TOGETHER):
        some = [clouds[int(row)] for row in mine[start : start + TOGETHER]]
        found += classify(network, some, teacher.usage, teacher.lifting.options.substrate)
    own = np.array([each.probabilities for each in found], np.float32).reshape(len(found), len(clouds.classes))
    probabilities = np.concatenate(distributed.gather(fabric, own))
    _sure(config, probabilities)
    return probabilities


def teach(
    config: Config, splits: Splits, said: np.ndarray | None, rows: np.ndarray, run: Run, fabric: Fabric
) -> tuple[Splits, Lesson]:
    """The splits with what the teacher labels among the training clouds, and what came of it.

    said: what `ask` gave. It is kept in the run, and read from there if it is None, so that a run that goes on has the
    same labels. rows: as `untaught` gives them. Raises InputError for a damaged file.
    """
    assert isinstance(splits.train, Subset)
    others = Subset(splits.train.whole, rows)
    probabilities = _kept(run, rows, len(others.classes)) if said is None else said
    if said is not None and fabric.is_global_zero:
        save_arrays({"rows": rows, "probabilities": said}, run.teacher)
    sure = _sure(config, probabilities)
    train = Taught(splits.train, rows[sure], probabilities[sure], config.teacher.soft)
    right = float((probabilities[sure].argmax(1) == others.labels[sure]).mean())
    return Splits(train, splits.validation, splits.test), Lesson(len(rows), int(sure.sum()), right)


def _sure(config: Config, probabilities: np.ndarray) -> np.ndarray:
    """Of which clouds the teacher is sure, bool [n]; InputError where of none."""
    sure = probabilities.max(1) >= config.teacher.threshold
    if not sure.any():
        raise InputError(
            f"teacher.threshold = {config.teacher.threshold:g} is above every probability; the highest is "
            f"{probabilities.max():.3f}"
        )
    return sure


def _recipe(teacher: LiftedNetwork) -> Recipe:
    assert teacher.usage is not None
    return teacher.usage.recipe(teacher.lifting.options.substrate)


def _kept(run: Run, rows: np.ndarray, classes: int) -> np.ndarray:
    """What the run has of its teacher; InputError where that does not fit these clouds."""
    found = read_arrays(run.teacher, ("rows", "probabilities"))
    kept, probabilities = found.get("rows"), found.get("probabilities")
    if kept is None or probabilities is None or probabilities.shape != (len(rows), classes) or list(kept) != list(rows):
        raise InputError(
            f"{run.teacher}: expected rows and probabilities of the {len(rows)} clouds that the teacher labelled, in "
            f"{classes} classes; it is damaged: start again with --overwrite"
        )
    return probabilities
