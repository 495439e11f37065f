"""The collapse of classes of points at any layers of a segmenter: measures, nulls, and intervals over scenes.

A row is a voxel of the input: what a layer says where that voxel lies, its class that of most of its points. A fixed
number of rows of each class and scene is drawn, so that neither large scenes nor common classes decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from image2point.collapse import CentreDecisions, Statistics, StatisticsError, closest_means, metrics
from image2point.collapse.bootstrap import bootstrap, merge_repeated
from image2point.collapse.imbalance import class_nc1, imbalanced_nc2
from image2point.collapse.intervals import Interval
from image2point.collapse.labels_at_random import BIASED, null
from image2point.collapse.layers import LayerMeasures
from image2point.datasets.class_split import Labelled
from image2point.networks.interface import modes_kept
from image2point.tasks.point_labels import PointTargets, sampled
from image2point.training.batches import Preparation, batches
from image2point.voxels import DenseVoxels, Voxels, VoxelTensor

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from image2point.lifting import LiftedNetwork
    from image2point.tasks.segmentation import Segmentation

OF_STATISTICS = ("nc1", "nc1_trace_ratio", "cdnv", "cdnv_median")
SCENES = {
    "nc1": 8, "nc2_orthogonal": 8, "nc2_equiangle": 8, "nc2_etf": 8, "nc1_trace_ratio": 20, "cdnv": 20,
}  # fmt: skip
"""Scenes from which on the interval of a measure holds the truth in nine of ten simulated cases, at nominal 95 %
(`scripts/scene_intervals.py`); other measures have none."""


@dataclass(frozen=True)
class PointLayer:
    """A layer's measures; the two classes whose means are closest, with their cosine; why there are no intervals."""

    measures: LayerMeasures
    closest: tuple[str, str, float] | None
    problem: str = ""


@dataclass(frozen=True)
class PointRows:
    """Features [n, d] of drawn voxels by layer, their classes int64 [n] and scenes int64 [n]."""

    features: dict[str, Tensor]
    labels: Tensor
    scenes: Tensor


def rows_of_points(
    network: LiftedNetwork,
    task: Segmentation,
    samples: Labelled,
    recipe: Preparation,
    names: Sequence[str],
    plan: Sequence[np.ndarray],
    workers: int = 0,
    fabric: Fabric | None = None,
) -> PointRows:
    """Run scenes through the network, in the batches of `plan`, in eval mode and without augmentation, and draw the
    rows of named layers."""
    observe, first, classes = network.observe_maps(names), next(network.parameters()), len(samples.classes)
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    labels, scenes = [], []
    with modes_kept(network):
        network.eval()
        for batch in batches(samples, plan, recipe, None, workers, first.device.type == "cuda", task.targets):
            targets: PointTargets = batch.targets
            of_voxels = targets.of_voxels(classes)
            drawn = sampled(of_voxels, targets.scenes, batch.indices, classes, task.per_class)
            x = batch.to(first.device, first.dtype).voxels
            with torch.no_grad(), fabric.autocast() if fabric else nullcontext():
                for name, layer in observe(x).items():
                    found[name].append(_at(layer, x, drawn.to(first.device)).cpu())
            labels.append(of_voxels[drawn])
            scenes.append(batch.indices[targets.scenes[drawn]])
    return PointRows({name: torch.cat(parts) for name, parts in found.items()}, torch.cat(labels), torch.cat(scenes))


def joined(parts: Sequence[PointRows]) -> PointRows:
    """The rows of several parts of a set of scenes, one after the other."""
    features = {name: torch.cat([part.features[name] for part in parts]) for name in parts[0].features}
    labels, scenes = (torch.cat([getattr(part, name) for part in parts]) for name in ("labels", "scenes"))
    return PointRows(features, labels, scenes)


def _at(layer: Voxels, x: Any, rows: Tensor) -> Tensor:
    """What a layer says at rows of the input voxels x, [n, d]."""
    layer, x = (each.sparse() if isinstance(each, DenseVoxels) else each for each in (layer, x))
    assert isinstance(layer, VoxelTensor)
    return layer.features[x.sites.rows_in(layer.sites, layer.stride // x.stride)[rows]]


def measure_points(
    rows: PointRows,
    classes: Sequence[str],
    counts: np.ndarray,
    centres: Mapping[str, Tensor] | None = None,
    permutations: int = 20,
    draws: int = 200,
) -> dict[str, PointLayer]:
    """Measures of every layer.

    Args:
        counts: points of each class in training [C], for the geometry that they imply.
        centres: class means [C, d] by layer for nearest-centre decisions; None takes those of these rows.
        permutations: of the labels, for the nulls; 0 for none.
        draws: of scenes, for the intervals.
    """
    return {
        name: _layer(rows, features, classes, counts, None if centres is None else centres[name], permutations, draws)
        for name, features in rows.features.items()
    }


def _layer(
    rows: PointRows,
    features: Tensor,
    classes: Sequence[str],
    counts: np.ndarray,
    centres: Tensor | None,
    permutations: int,
    draws: int,
) -> PointLayer:
    number, labels = len(classes), rows.labels
    parts = [
        Statistics(number, features.shape[1], "pooled").update(features[own], labels[own])
        for own in (rows.scenes == scene for scene in rows.scenes.unique())
    ]
    S = merge_repeated(parts, torch.ones(len(parts), dtype=torch.int64))
    values = _values(S, counts)
    behind = S.count if centres is None else None
    decisions = CentreDecisions(S.means if centres is None else centres, count=behind).update(features, labels)
    values["ncc_accuracy"] = decisions.ncc_accuracy
    each = class_nc1(Statistics(number, features.shape[1], "class").update(features, labels))
    values |= {f"nc1 {name}": float(value) for name, value in zip(classes, each, strict=True)}
    intervals, problem = _intervals(parts, counts, draws)
    biased = [name for name in values if name in BIASED]
    nulls = null(features, labels, biased, permutations, centres=centres) if permutations else {}
    cosine, first, second = closest_means(S.means)
    closest = None if first < 0 else (classes[first], classes[second], cosine)
    return PointLayer(LayerMeasures(values, intervals, S.means, S.count, nulls), closest, problem)


def _values(S: Statistics, counts: np.ndarray) -> dict[str, float]:
    return {**metrics(S, ask=OF_STATISTICS), **imbalanced_nc2(S, counts)}


def _intervals(parts: Sequence[Statistics], counts: np.ndarray, draws: int) -> tuple[dict[str, Interval], str]:
    """Intervals over scenes of what has trustworthy ones, or why there are none."""
    trusted = {name for name, least in SCENES.items() if len(parts) >= least}
    if not trusted:
        return {}, f"no intervals over {len(parts)} scenes; they are trustworthy from {min(SCENES.values())} on"
    try:
        found = bootstrap(parts, lambda S: {n: v for n, v in _values(S, counts).items() if n in trusted}, draws)
    except StatisticsError as reason:
        return {}, f"no intervals over scenes: {reason}"
    return found, ""
