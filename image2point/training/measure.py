"""Run a set of samples through a network, and measure how its features gather around their class centres."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from image2point.collapse import CentreDecisions, Plane, Statistics, centred_cosines, metrics, null
from image2point.collapse.labels_at_random import BIASED, with_nulls
from image2point.datasets.class_split import Labelled
from image2point.files import finite
from image2point.networks.interface import Network, modes_kept
from image2point.tasks.task import Outputs, Task
from image2point.training import distributed
from image2point.training.batches import Preparation, batches, in_order
from image2point.training.health import check_said

if TYPE_CHECKING:
    from lightning.fabric import Fabric


CORRECTED = ("nc1_trace_ratio_corrected", "cdnv_median")
"""Measures of a run beside those that `metrics` gives unasked."""


def outputs(
    fabric: Fabric,
    task: Task,
    network: Network,
    samples: Labelled,
    recipe: Preparation,
    batch_size: int,
    workers: int = 0,
    each_batch: Callable[[], None] = lambda: None,
) -> Any:
    """The task's `Outputs` of all samples, each process running its share; `each_batch` is called after each batch."""
    plan = in_order(len(samples), batch_size, fabric.global_rank, fabric.world_size)
    dtype = next(network.parameters()).dtype
    answers = []
    with modes_kept(network), torch.no_grad():
        network.eval()
        for batch in batches(samples, plan, recipe, None, workers, fabric.device.type == "cuda", task.targets):
            with fabric.autocast():
                answers.append(task.answer(network, batch.to(fabric.device, dtype)))
            each_batch()
    return task.join(network, answers, samples, partial(distributed.gather, fabric), fabric.global_rank)


def collapse(fabric: Fabric, network: Network, splits: Mapping[str, Outputs]) -> dict[str, dict[str, float | None]]:
    """The measures of collapse of each split; the class centres are those of `splits["train"]`.

    Those that say something of the number of samples too (`BIASED`) stand beside their null, the same with the labels
    permuted within the split (`collapse.null`). A measure that is undefined (with one cloud per class, say) is None; a
    split with samples of one class has none.
    """
    weight, bias = network.linear_classifier()
    classifier = (weight.detach().cpu(), None if bias is None else bias.detach().cpu())
    check_said(*(each.features for each in splits.values()))
    statistics = {split: _statistics(fabric, each, len(weight)) for split, each in splits.items()}
    centres = statistics["train"].means
    result: dict[str, dict[str, float | None]] = {}
    for split, each in splits.items():
        if len(statistics[split].present) < 2:
            result[split] = {}
            continue
        values: dict[str, Any] = dict(metrics(statistics[split], classifier=classifier))
        values |= metrics(statistics[split], ask=CORRECTED)
        behind = statistics["train"].count if split == "train" else None
        own = CentreDecisions(centres, count=behind).update(each.features, each.own_labels, each.own_logits)
        parts = [CentreDecisions.from_state(state) for state in distributed.gather(fabric, own.state())]
        decisions = parts[0]
        for part in parts[1:]:
            decisions = decisions.merge(part)
        values |= {"nc4": decisions.nc4, "ncc_accuracy": decisions.ncc_accuracy}
        features, labels = (torch.cat(distributed.gather(fabric, rows)) for rows in (each.features, each.own_labels))
        given = None if split == "train" else centres
        biased = [name for name in BIASED if name in values]
        values |= with_nulls(values, null(features, labels, biased, classifier=classifier, centres=given))
        result[split] = finite(values)
    return result


def geometry(fabric: Fabric, network: Network, splits: Mapping[str, Outputs]) -> dict[str, np.ndarray]:
    """How the class means of each split lie, and its features as seen in the plane of the training means.

    By name, float32: `SPLIT_cosines` [C, C] between centred means and `SPLIT_means` [C, 2], NaN for a class without
    samples; `SPLIT_points` [n, 2] in the order of the split, with `SPLIT_labels` int64 [n]; `classifier_cosines` [C, C]
    of the training means (rows) with the classifier's rows (columns); `shares` [2] of the variance between the training
    means along each axis. Nothing where fewer than two classes have training samples.
    """
    weight = network.linear_classifier()[0].detach().cpu()
    means = {split: _statistics(fabric, each, len(weight), "none").means for split, each in splits.items()}
    if torch.isfinite(means["train"]).all(1).sum() < 2:
        return {}
    plane = Plane.of_means(means["train"])
    result = {"shares": plane.shares, "classifier_cosines": centred_cosines(means["train"], weight)}
    for split, each in splits.items():
        points = torch.cat(distributed.gather(fabric, plane.project(each.features)))
        result |= {f"{split}_cosines": centred_cosines(means[split]), f"{split}_means": plane.project(means[split])}
        result |= {f"{split}_points": points, f"{split}_labels": each.labels}
    return {name: (v.float() if v.is_floating_point() else v).numpy() for name, v in result.items()}


def _statistics(fabric: Fabric, outputs: Outputs, classes: int, covariance: str = "pooled") -> Statistics:
    """Statistics of the features of all processes."""
    own = Statistics(classes, outputs.features.shape[1], covariance).update(outputs.features, outputs.own_labels)
    parts = [Statistics.from_state(state) for state in distributed.gather(fabric, own.state())]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    return merged
