"""Geometric complexity of the features before the classifier, of images or of clouds (through voxel features)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from image2point.collapse import Complexity, geometric_complexity, input_scale
from image2point.datasets.class_split import Labelled
from image2point.experiments.measure import Subject
from image2point.voxels import DenseVoxels

BATCH = 8


def evenly(samples: Labelled, count: int) -> np.ndarray:
    """The indices of `count` samples from all over the set."""
    return np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(int)


def of_each_class(samples: Labelled, count: int) -> np.ndarray:
    """The indices of about `count` samples, equally many of each class where it has them, from all over the class."""
    each = max(1, round(count / len(samples.classes)))
    places = [np.flatnonzero(samples.labels == label) for label in range(len(samples.classes))]
    spread = [np.linspace(0, len(own) - 1, min(each, len(own))).astype(int) for own in places]
    return np.sort(np.concatenate([own[some] for own, some in zip(places, spread, strict=True)]))


def feature_complexity(subject: Subject, samples: Labelled, chosen: np.ndarray, probes: int = 16) -> Complexity:
    """Hutchinson's estimate on the samples of these indices (`evenly`, `of_each_class`), for inputs scaled to unit
    deviation.

    The inputs are pixels, or the features of occupied voxels; scaled alike, 2D and 3D compare (see
    `Complexity.normalised`). Where points lie counts as given.
    """
    network, recipe = subject.network, subject.recipe
    first = next(network.parameters())
    parts, inputs = [], []
    for number, some in enumerate(np.array_split(chosen, -(-len(chosen) // BATCH))):
        names = [f"{samples.name} {recipe.noun} {i}" for i in some]
        prepared = [recipe.prepare(samples[int(i)], name) for i, name in zip(some, names, strict=True)]
        batch = recipe.batch(prepared, names)[0].to(first.dtype).to(first.device)
        if isinstance(batch, Tensor):
            found = geometric_complexity(lambda x: network.embed(x)[0], batch, probes=probes, seed=number)
            inputs.append(batch)
        else:
            voxels = batch.sparse() if isinstance(batch, DenseVoxels) else batch

            def embed(features: Tensor, voxels=voxels) -> Tensor:  # type: ignore[no-untyped-def]
                return network.embed(voxels.replace(features))[0]

            owner = voxels.sites.batch.long()
            found = geometric_complexity(embed, voxels.features, probes=probes, samples=owner, seed=number)
            inputs.append(voxels.features)
        parts.append(found)
    return Complexity.join(parts).normalised(input_scale(torch.cat(inputs)))
