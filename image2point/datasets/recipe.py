"""How a cloud becomes voxels: from the cloud of a dataset or a user to a network's input.

Nothing here has a state: what is drawn follows from (seed, epoch, index) alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from image2point.datasets.cloud import Cloud
from image2point.datasets.crops import Crop, crop
from image2point.datasets.features import GROUND_CELL, Up, input_features, scene_intensity, with_ground_height
from image2point.datasets.normals import estimate_normals
from image2point.datasets.scene_changes import SceneChanges, change
from image2point.datasets.transforms import Augmentation, augment, rng_for
from image2point.datasets.validate import check_cloud
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
