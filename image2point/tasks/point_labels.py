"""Labels of points and of voxels: counted, taken by majority, sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from image2point.datasets import Cloud
from image2point.datasets.class_split import Labelled
from image2point.datasets.cloud import IGNORED
from image2point.datasets.splits import origin
from image2point.errors import InputError


class PointTargets:
    """What a batch of scenes should give; a plain class, as `training.batches.Batch` is.

    labels: int64 [P], the class of each point of all scenes, −1 where ignored. index: int64 [P], the row of its voxel.
    scenes: int64 [N], the scene of each voxel. sizes: points of each scene. categories: of each scene.
    """

    def __init__(
        self, labels: Tensor, index: Tensor, scenes: Tensor, sizes: tuple[int, ...], categories: tuple[int, ...]
    ) -> None:
        self.labels, self.index, self.scenes = labels, index, scenes
        self.sizes, self.categories = sizes, categories
        known = labels != IGNORED
        self.labelled_points = int(known.sum())
        self.labelled_voxels = len(torch.unique(index[known]))

    def _each(self, change: Callable[[Tensor], Tensor]) -> PointTargets:
        other = object.__new__(PointTargets)
        other.__dict__.update({n: change(v) if isinstance(v, Tensor) else v for n, v in self.__dict__.items()})
        return other

    def to(self, device: torch.device, non_blocking: bool = False) -> PointTargets:
        return self._each(lambda values: values.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PointTargets:
        return self._each(lambda values: values.pin_memory())

    def of_voxels(self, classes: int) -> Tensor:
        """The class of each voxel, by `majority`: int64 [N]."""
        return majority(self.labels, self.index, len(self.scenes), classes)


def point_targets(clouds: Sequence[Cloud], categories: Sequence[int], rows: Sequence[Tensor]) -> PointTargets:
    """The targets of prepared clouds with labels.

    rows: int64 [P_i] for each cloud, the row of each point's voxel in the batch.

    >>> cloud = Cloud(np.zeros((3, 3)), labels=np.array([1, 1, -1]))
    >>> targets = point_targets([cloud], [0], [torch.tensor([0, 0, 1])])
    >>> targets.of_voxels(classes=2).tolist(), targets.labelled_points, targets.labelled_voxels
    ([1, -1], 2, 1)
    """
    labels = [torch.as_tensor(_labels(cloud, "a prepared cloud")) for cloud in clouds]
    index = torch.cat(list(rows)).long()
    owner = torch.repeat_interleave(torch.tensor([len(own) for own in rows]))
    scenes = torch.zeros(int(index.max()) + 1, dtype=torch.int64).index_put((index,), owner)
    return PointTargets(torch.cat(labels), index, scenes, tuple(map(len, rows)), tuple(map(int, categories)))


def majority(labels: Tensor, index: Tensor, voxels: int, classes: int) -> Tensor:
    """The class that most labelled points of each voxel have, the lowest of equal ones: int64 [voxels].

    A voxel without a labelled point is ignored (−1): ignored points have no vote.

    Args:
        labels: int64 [P], −1 where ignored.
        index: int64 [P], the voxel of each point.

    >>> majority(torch.tensor([2, 1, -1, -1, 0]), torch.tensor([0, 0, 0, 1, 2]), voxels=3, classes=3).tolist()
    [1, -1, 0]
    """
    known = labels != IGNORED
    pairs, votes = torch.unique(index[known] * classes + labels[known], return_counts=True)
    voxel = pairs // classes
    most = votes.new_zeros(voxels).scatter_reduce(0, voxel, votes, "amax")
    best = votes == most[voxel]
    found = torch.full((voxels,), classes, dtype=torch.int64, device=labels.device)
    found.scatter_reduce_(0, voxel[best], pairs[best] % classes, "amin")
    return torch.where(found == classes, IGNORED, found)


def sampled(labels: Tensor, scenes: Tensor, numbers: Tensor, classes: int, most: int) -> Tensor:
    """Rows of voxels, ascending: of each class and scene at most `most`, drawn by the number of the scene alone.

    Args:
        labels: int64 [N], class of each voxel, −1 for none, which is never drawn.
        scenes: int64 [N], the scene of each voxel, ascending.
        numbers: int64 [S], the number of each scene in its set.

    >>> row = sampled(torch.tensor([0, 0, 0, -1, 1]), torch.zeros(5, dtype=torch.int64), torch.tensor([7]), 2, most=2)
    >>> len(row), 4 in row.tolist(), 3 in row.tolist()
    (3, True, False)
    """
    ends = torch.bincount(scenes, minlength=len(numbers)).tolist()
    drawn = [np.random.default_rng((1, n)).random(size) for n, size in zip(numbers.tolist(), ends, strict=True)]
    known = (labels != IGNORED).numpy()
    rows = np.flatnonzero(known)
    group = (scenes * classes + labels).numpy()[rows]
    order = np.lexsort([np.concatenate(drawn)[rows], group])
    rows, group = rows[order], group[order]
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]]) if len(group) else np.zeros(0, dtype=np.int64)
    place = np.arange(len(group)) - np.repeat(starts, np.diff(np.r_[starts, len(group)]))
    return torch.from_numpy(np.sort(rows[place < most]))


def count_labels(scenes: Labelled) -> np.ndarray:
    """Points of each class in all scenes, int64 [C]; every scene is read once.

    Raises InputError where a scene has no labels, some of another length, or a label that is no class.
    """
    counts = np.zeros(len(scenes.classes), dtype=np.int64)
    for number in range(len(scenes)):
        labels = _labels(scenes[number], origin(scenes, number), len(counts))
        counts += np.bincount(labels[labels != IGNORED], minlength=len(counts))
    return counts


def _labels(cloud: Cloud, where: str, classes: int | None = None) -> np.ndarray:
    """The labels of a cloud, checked."""
    labels = cloud.labels
    if labels is None:
        raise InputError(f"{where}: task segmentation needs a label for every point, and this cloud has none")
    if len(labels) != len(cloud):
        raise InputError(f"{where}: expected a label for each of {len(cloud)} points, found {len(labels)}")
    if classes is not None and len(labels) and not -1 <= labels.min() <= labels.max() < classes:
        bad = labels.min() if labels.min() < -1 else labels.max()
        raise InputError(f"{where}: expected labels in 0..{classes - 1}, or -1 for ignored; found {bad}")
    return np.asarray(labels, dtype=np.int64)
