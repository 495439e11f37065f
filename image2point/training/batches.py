"""Clouds → batches of voxels, in an order that depends on the seed and the epoch only.

Nothing here has a state: what a batch holds follows from (seed, epoch, step), whatever the number of processes and
workers, and whether the run was interrupted on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from image2point.datasets.class_split import Labelled
from image2point.datasets.cloud import Cloud
from image2point.datasets.crops import Crop, Repeated, crop, mixed
from image2point.datasets.features import GROUND_CELL, Up, input_features, scene_intensity, with_ground_height
from image2point.datasets.normals import estimate_normals
from image2point.datasets.scene_changes import SceneChanges, change
from image2point.datasets.splits import origin
from image2point.datasets.transforms import Augmentation, augment, rng_for
from image2point.datasets.validate import check_cloud
from image2point.errors import InputError
from image2point.voxels import DenseVoxels, VoxelTensor, voxelize


@dataclass(frozen=True)
class Recipe:
    """How a cloud becomes voxels.

    points: how many are drawn from each cloud (None: all); features, scaling, up, ground_cell: see
    `datasets.features`; intensity: as the clouds bring it ("given"), or by the scale of each ("scene"); normals: the
    clouds' own ("given"), or "estimated" from the points, whatever the clouds bring. For training only are
    augmentation, scene_changes, and crop: the part of a cloud that a step sees, `repeats` of each cloud in an epoch.
    """

    voxel_size: float
    features: tuple[str, ...] = ("xyz",)
    scaling: Mapping[str, float] | None = None
    normals: str = "given"
    up: Up | None = None
    ground_cell: float = GROUND_CELL
    intensity: str = "given"
    points: int | None = None
    substrate: str = "sparse"
    augmentation: Augmentation | None = None
    seed: int = 0
    crop: Crop | None = None
    scene_changes: SceneChanges | None = None
    repeats: int = 1

    def prepare(self, sample: Any, where: str, epoch: int | None = None, index: int = 0) -> Any:
        """See `prepare`."""
        return prepare(sample, where, self, epoch, index)

    def join(self, samples: Sequence[Any], where: Sequence[str] | None = None) -> VoxelTensor | DenseVoxels:
        """See `to_voxels`."""
        return self.batch(samples, where)[0]

    def batch(
        self, samples: Sequence[Any], where: Sequence[str] | None = None
    ) -> tuple[VoxelTensor | DenseVoxels, list[torch.Tensor] | None]:
        """See `to_voxels_and_rows`."""
        return to_voxels_and_rows(samples, self, where)

    def partner(self, epoch: int | None, index: int, count: int) -> int | None:
        """The training cloud, of `count`, that is mixed into this one in this epoch; None for none."""
        if epoch is None or self.scene_changes is None or not self.scene_changes.mix:
            return None
        rng = np.random.default_rng((self.seed, epoch, index, 1))
        return int(rng.integers(count)) if rng.random() < self.scene_changes.mix else None

    @cached_property
    def still(self) -> Recipe:
        """The same without random changes. With the epoch 0 it gives clouds, or crops of them, as they are."""
        return replace(self, augmentation=None, scene_changes=None)

    @cached_property
    def steady(self) -> Augmentation:
        """What happens to every cloud: points are drawn from it."""
        return Augmentation(points=self.points)

    @cached_property
    def changing(self) -> Augmentation:
        """What happens to a cloud in training."""
        return replace(self.augmentation or Augmentation(), points=self.points)

    noun = "cloud"


class Preparation(Protocol):
    """How samples become a network's input: `Recipe` for clouds, `training.images.ImageRecipe` for images."""

    def prepare(self, sample: Any, where: str, epoch: int | None = None, index: int = 0) -> Any: ...

    def batch(
        self, samples: Sequence[Any], where: Sequence[str] | None = None
    ) -> tuple[VoxelTensor | DenseVoxels | torch.Tensor, list[torch.Tensor] | None]:
        """The input of the network, and for each cloud the row of each point's voxel; None for images."""
        ...

    def partner(self, epoch: int | None, index: int, count: int) -> int | None: ...

    @property
    def still(self) -> Any:
        """The same preparation without random changes."""
        ...

    @property
    def repeats(self) -> int:
        """How often an epoch goes through the training set."""
        ...

    @property
    def noun(self) -> str: ...


class Batch:
    """Voxels of some clouds (or images [n, 3, S, S]), what a task wants of them, and their indices [n] in the dataset.

    A plain class on purpose: Fabric rebuilds every dataclass and tuple that passes through it, field by field.
    """

    def __init__(self, voxels: VoxelTensor | DenseVoxels | torch.Tensor, targets: Any, indices: torch.Tensor) -> None:
        self.voxels, self.targets, self.indices = voxels, targets, indices

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        return Batch(self.voxels.to(dtype).to(device), self.targets.to(device), self.indices)

    def pin_memory(self) -> Batch:
        return Batch(self.voxels.pin_memory(), self.targets.pin_memory(), self.indices)


def shuffled(count: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The global batches of an epoch: a permutation of 0..count-1 in ceil(count / batch_size) nearly equal parts.

    Every sample occurs once, and no batch is a small remainder (which would give noisy norm statistics).
    """
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return np.array_split(order, -(-count // batch_size))


def in_order(count: int, batch_size: int, rank: int = 0, world: int = 1) -> list[np.ndarray]:
    """The batches that process `rank` of `world` scores: its contiguous share of 0..count-1."""
    mine = np.array_split(np.arange(count), world)[rank]
    return np.array_split(mine, -(-len(mine) // batch_size)) if len(mine) else []


Targets = Callable[[Sequence[Any], Sequence[int], Sequence[torch.Tensor] | None], Any]


def labels_alone(samples: Sequence[Any], labels: Sequence[int], rows: object = None) -> torch.Tensor:
    """The labels of the samples, int64 [n]."""
    return torch.tensor(labels)


def training_samples(clouds: Labelled, recipe: Preparation) -> Labelled:
    """What an epoch goes through: every training sample, as often as the recipe says."""
    return clouds if recipe.repeats == 1 else Repeated(clouds, recipe.repeats)


def batches(
    clouds: Labelled,
    plan: Sequence[np.ndarray],
    recipe: Preparation,
    epoch: int | None = None,
    workers: int = 0,
    pin_memory: bool = False,
    targets: Targets = labels_alone,
) -> Iterator[Batch]:
    """Yield a Batch for each array of indices in `plan`.

    epoch: the epoch (from 1) whose augmentation is applied; None for none.
    workers: processes that prepare batches ahead; the batches are the same for any number.
    targets: what a task wants of a batch, from its prepared samples and their labels.
    """
    samples = _Samples(clouds, recipe, epoch, targets)
    loader = DataLoader(
        samples,
        batch_sampler=_Plan(plan),
        collate_fn=samples.collate,
        num_workers=workers,
        pin_memory=pin_memory,
        # The loader draws a seed for its workers: from its own generator, not from the global one.
        generator=torch.Generator(),
    )
    yield from loader


class _Plan:
    """The batches as lists, each made when it is its turn: ten million Python numbers would take half a gigabyte."""

    def __init__(self, plan: Sequence[np.ndarray]) -> None:
        self.plan = plan

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[int]]:
        return (indices.tolist() for indices in self.plan)


class _Samples(Dataset[tuple[int, Any, int]]):
    def __init__(self, clouds: Labelled, recipe: Preparation, epoch: int | None, targets: Targets) -> None:
        self.clouds, self.labels, self.recipe, self.epoch, self.targets = clouds, clouds.labels, recipe, epoch, targets

    def __len__(self) -> int:
        return len(self.clouds)

    def __getitem__(self, index: int) -> tuple[int, Any, int]:
        try:
            sample = self._prepared(index, index)
            partner = self.recipe.partner(self.epoch, index, len(self))
            if partner is not None:  # its own changes, another draw than where it stands alone
                sample = mixed(sample, self._prepared(partner, len(self) + index))
        except InputError as error:
            where = origin(self.clouds, index)
            raise InputError(str(error) if where in str(error) else f"{error} (in {where})") from None
        return index, sample, int(self.labels[index])

    def _prepared(self, index: int, draw: int) -> Any:
        return self.recipe.prepare(self.clouds[index], self._where(index), self.epoch, draw)

    def collate(self, samples: list[tuple[int, Any, int]]) -> Batch:
        indices, prepared, labels = zip(*samples, strict=True)
        joined, rows = self.recipe.batch(prepared, [self._where(index) for index in indices])
        return Batch(joined, self.targets(prepared, labels, rows), torch.tensor(indices))

    def _where(self, index: int) -> str:
        return f"{self.clouds.name} {self.recipe.noun} {index}"


def prepare(cloud: Cloud, where: str, recipe: Recipe, epoch: int | None = None, index: int = 0) -> Cloud:
    """The cloud as the network gets to see it: checked, with normals, intensities and heights above the ground of the
    whole cloud as the recipe says, subsampled, and where an epoch is given cropped and augmented."""
    changes = recipe.steady if epoch is None else recipe.changing
    cloud = check_cloud(cloud, where)
    if "normals" not in recipe.features and cloud.normals is not None:
        cloud = replace(cloud, normals=None)
    elif recipe.normals == "estimated":
        cloud = replace(cloud, normals=estimate_normals(cloud.points))
    if "ground_height" in recipe.features:
        cloud = with_ground_height(cloud, recipe.up, recipe.ground_cell)
    if recipe.intensity == "scene":
        cloud = scene_intensity(cloud)
    rng = rng_for(recipe.seed, epoch or 0, index)
    if epoch is not None and recipe.crop is not None:
        cloud = crop(cloud, recipe.crop, recipe.voxel_size, rng, recipe.up)
    if epoch is not None and recipe.scene_changes is not None:
        cloud = change(cloud, recipe.scene_changes, rng, recipe.up)
    cloud = augment(cloud, changes, rng)
    return check_cloud(cloud, where, recipe.voxel_size)


def to_voxels(clouds: Sequence[Cloud], recipe: Recipe, where: Sequence[str] | None = None) -> VoxelTensor | DenseVoxels:
    """Features of prepared clouds, averaged per voxel. `where` names the clouds in errors."""
    return to_voxels_and_rows(clouds, recipe, where)[0]


def to_voxels_and_rows(
    clouds: Sequence[Cloud], recipe: Recipe, where: Sequence[str] | None = None
) -> tuple[VoxelTensor | DenseVoxels, list[torch.Tensor]]:
    """The same, and for each cloud the row of each point's voxel in the batch, int64 [P_i]."""
    names = where or [f"cloud {number}" for number in range(len(clouds))]
    features = [
        input_features(cloud, recipe.features, recipe.scaling, recipe.up, name, recipe.ground_cell)
        for cloud, name in zip(clouds, names, strict=True)
    ]
    points = [cloud.points for cloud in clouds]
    return voxelize(points, recipe.voxel_size, features, recipe.substrate, return_index=True)
