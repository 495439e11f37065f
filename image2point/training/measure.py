"""Score a network on a set of clouds, and measure how its features gather around their class centres."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from image2point.collapse import CentreDecisions, Plane, Statistics, centred_cosines, metrics
from image2point.datasets.class_split import Labelled
from image2point.training import distributed
from image2point.training.batches import Preparation, batches, in_order

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass(frozen=True)
class Outputs:
    """What the network says in eval mode, without augmentation.

    features [m, p] and own_labels [m] belong to the clouds of this process; logits float64 [n, classes] and
    labels int64 [n] to all clouds of the set, in its order, on every process.
    """

    features: Tensor
    own_labels: Tensor
    logits: Tensor
    labels: Tensor

    @property
    def own_logits(self) -> Tensor:
        return self.logits[self._start : self._start + len(self.own_labels)]

    _start: int = 0


@dataclass(frozen=True)
class Scores:
    """Accuracies are shares in 0..1; `per_class` has one per class, None where the set has no cloud of it."""

    loss: float
    accuracy: float
    mean_class_accuracy: float
    per_class: tuple[float | None, ...]


def outputs(
    fabric: Fabric,
    network: nn.Module,
    clouds: Labelled,
    recipe: Preparation,
    batch_size: int,
    workers: int = 0,
    each_batch: Callable[[], None] = lambda: None,
) -> Outputs:
    """Run all clouds (or images) through the network, each process its share; `each_batch` is called after each."""
    plan = in_order(len(clouds), batch_size, fabric.global_rank, fabric.world_size)
    dtype = next(network.parameters()).dtype
    width, classes = network.linear_classifier()[0].shape[1], len(clouds.classes)  # type: ignore[operator]
    features, logits = [torch.empty(0, width)], [torch.empty(0, classes)]
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            for batch in batches(clouds, plan, recipe, None, workers, fabric.device.type == "cuda"):
                with fabric.autocast():
                    embedded, scores = network.embed(batch.to(fabric.device, dtype).voxels)  # type: ignore[operator]
                features.append(embedded.cpu())
                logits.append(scores.cpu())
                each_batch()
    finally:
        network.train(was_training)
    shares = distributed.gather(fabric, torch.cat(logits).double())
    start = sum(len(share) for share in shares[: fabric.global_rank])
    labels = torch.as_tensor(clouds.labels)
    own = torch.cat(features[1:] or features)
    return Outputs(own, labels[start : start + len(own)], torch.cat(shares), labels, start)


def scores(found: Outputs) -> Scores:
    """Cross-entropy without label smoothing, accuracy, and accuracy per class."""
    loss = nn.functional.cross_entropy(found.logits, found.labels).item()
    correct = (found.logits.argmax(1) == found.labels).double()
    classes = found.logits.shape[1]
    count = torch.bincount(found.labels, minlength=classes)
    hits = torch.bincount(found.labels, weights=correct, minlength=classes)
    per_class = [float(h / n) if n else None for h, n in zip(hits, count, strict=True)]
    present = [share for share in per_class if share is not None]
    return Scores(loss, correct.mean().item(), float(np.mean(present)), tuple(per_class))


def collapse(fabric: Fabric, network: nn.Module, found: dict[str, Outputs]) -> dict[str, dict[str, float | None]]:
    """The measures of collapse of each split in `found`; the class centres are those of `found["train"]`.

    A measure that is undefined (with one cloud per class, say) is None.
    """
    weight, bias = network.linear_classifier()  # type: ignore[operator]
    classifier = (weight.detach().cpu(), None if bias is None else bias.detach().cpu())
    statistics = {split: _statistics(fabric, each, len(weight)) for split, each in found.items()}
    centres = statistics["train"].means
    result = {}
    for split, each in found.items():
        values: dict[str, Any] = dict(metrics(statistics[split], classifier=classifier))
        own = CentreDecisions(centres).update(each.features, each.own_labels, each.own_logits)
        parts = [CentreDecisions.from_state(state) for state in distributed.gather(fabric, own.state())]
        decisions = parts[0]
        for part in parts[1:]:
            decisions = decisions.merge(part)
        values |= {"nc4": decisions.nc4, "ncc_accuracy": decisions.ncc_accuracy}
        result[split] = {name: value if math.isfinite(value) else None for name, value in values.items()}
    return result


def geometry(fabric: Fabric, network: nn.Module, found: dict[str, Outputs]) -> dict[str, np.ndarray]:
    """How the class means of each split in `found` lie, and its features as seen in the plane of the training means.

    By name, float32: `SPLIT_cosines` [C, C] between centred means and `SPLIT_means` [C, 2], NaN for a class without
    samples; `SPLIT_points` [n, 2] in the order of the split, with `SPLIT_labels` int64 [n]; `classifier_cosines` [C, C]
    of the training means (rows) with the classifier's rows (columns); `shares` [2] of the variance between the training
    means along each axis. Nothing where fewer than two classes have training samples.
    """
    weight, _ = network.linear_classifier()  # type: ignore[operator]
    weight = weight.detach().cpu()
    means = {split: _statistics(fabric, each, len(weight), "none").means for split, each in found.items()}
    if torch.isfinite(means["train"]).all(1).sum() < 2:
        return {}
    plane = Plane.of_means(means["train"])
    result = {"shares": plane.shares, "classifier_cosines": centred_cosines(means["train"], weight)}
    for split, each in found.items():
        points = torch.cat(distributed.gather(fabric, plane.project(each.features)))
        result |= {f"{split}_cosines": centred_cosines(means[split]), f"{split}_means": plane.project(means[split])}
        result |= {f"{split}_points": points, f"{split}_labels": each.labels}
    return {name: (v.float() if v.is_floating_point() else v).numpy() for name, v in result.items()}


def _statistics(fabric: Fabric, found: Outputs, classes: int, covariance: str = "pooled") -> Statistics:
    """Statistics of the features of all processes."""
    own = Statistics(classes, found.features.shape[1], covariance).update(found.features, found.own_labels)
    parts = [Statistics.from_state(state) for state in distributed.gather(fabric, own.state())]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    return merged
