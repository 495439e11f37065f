"""What a network says of raw clouds: a class for each, or a label for every point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from image2point.datasets.cloud import Cloud, near_origin
from image2point.datasets.files import unit_sphere
from image2point.datasets.in_memory import cloud_in_memory
from image2point.datasets.parts import CloudParts
from image2point.datasets.validate import check_cloud, check_digits
from image2point.errors import InputError
from image2point.inference.scene import SceneLabels, fitted, label_scene
from image2point.inference.usage import Usage
from image2point.networks.interface import Network, modes_kept

TOGETHER = 32
"""Clouds that go through the network at once."""


@dataclass(frozen=True, eq=False)
class CloudClass:
    """The class of one cloud.

    label: its number. name: as the network's classes are called, or the number in words where they have no names.
    probabilities: float64 [C].
    """

    label: int
    name: str
    probabilities: np.ndarray


def classify(network: Network, clouds: Sequence[Any], use: Usage, substrate: str = "sparse") -> list[CloudClass]:
    """The class of each cloud; the network is in eval mode meanwhile, and keeps its device and number type.

    clouds: as `cloud_of` takes them. Points are drawn (`use.points`) by the cloud's number in the list, so that the
    same clouds give the same answers.

    Raises InputError, which names the cloud by its number, for one that is none or lacks what the features need.
    """
    recipe, found = use.recipe(substrate), list[CloudClass]()
    with modes_kept(network), torch.no_grad():
        network.eval()
        for start in range(0, len(clouds), TOGETHER):
            names = [f"cloud {start + at}" for at in range(len(clouds[start : start + TOGETHER]))]
            given = [cloud_of(clouds[start + at], use, name) for at, name in enumerate(names)]
            ready = [
                recipe.prepare(cloud, name, index=start + at)
                for at, (cloud, name) in enumerate(zip(given, names, strict=True))
            ]
            scores = network(fitted(recipe.join(ready, names), network))
            found += [_named(row, use.classes) for row in scores.double().softmax(1).cpu().numpy()]
    return found


def label(network: Network, clouds: Sequence[Any], use: Usage) -> list[SceneLabels]:
    """A label for every point of each cloud, in its order; scenes of more than `use.tiles.voxels` voxels by tiles.

    clouds, errors and modes: as in `classify`.
    """
    if use.points is not None:
        raise InputError(f"every point gets a label, so none can be left out; found points = {use.points}")
    recipe, found = use.recipe(), list[SceneLabels]()
    with modes_kept(network), torch.no_grad():
        network.eval()
        for number, each in enumerate(clouds):
            where = f"cloud {number}"
            parts = CloudParts(cloud_of(each, use, where))
            found.append(label_scene(network, parts, recipe, where, use.tiles.voxels, use.tiles.overlap))
    return found


def cloud_of(given: Any, use: Usage, where: str) -> Cloud:
    """A cloud as `use` wants it: in the unit sphere, near its origin, or as it is.

    given: points [P, 3] as an array or a tensor; or a `datasets.Cloud`, PyG Data or a cloud of Open3D, with what else
    the features need (`datasets/in_memory.py`).

    Raises InputError, which begins with `where`, as `check_cloud` does, and where coordinates that stay as they are
    would lose the digits that tell voxels apart.
    """
    cloud = cloud_in_memory(given, where)
    check_cloud(cloud, where)
    if use.normalise or use.near_origin:
        check_digits(cloud.points, where)
    if use.normalise:
        return check_cloud(replace(cloud, points=unit_sphere(cloud.points)), where)
    if use.near_origin:
        return check_cloud(near_origin(cloud), where)
    largest = float(np.abs(cloud.points).max())
    if np.spacing(np.float32(largest)) > use.voxel_size / 4:
        raise InputError(
            f"{where}: coordinates of up to {largest:.6g} leave voxels of {use.voxel_size:g} too few digits; take the "
            "clouds relative to a point near them, as in training, or train and use the network with near_origin=True"
        )
    return check_cloud(cloud, where)


def _named(probabilities: np.ndarray, classes: Sequence[str]) -> CloudClass:
    best = int(probabilities.argmax())
    return CloudClass(best, classes[best] if classes else str(best), probabilities)
