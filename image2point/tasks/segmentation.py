"""Segmentation: one class per point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from image2point.datasets import Cloud, Splits
from image2point.datasets.class_split import Labelled
from image2point.datasets.cloud import IGNORED
from image2point.errors import InputError
from image2point.networks.interface import Network
from image2point.tasks.confusion import Confusion
from image2point.tasks.losses import class_weights, cross_entropy, lovasz_softmax
from image2point.tasks.part_scores import part_means, part_predictions, shape_iou
from image2point.tasks.point_labels import PointTargets, count_labels, point_targets, sampled
from image2point.tasks.point_scores import PointOutputs, PointScores, confusion_table
from image2point.tasks.predictions import CloudAnswer
from image2point.tasks.task import Gather
from image2point.voxels import DenseVoxels, VoxelTensor, tiles

if TYPE_CHECKING:
    from image2point.config import Config, Pretrain

MOST_SHOWN = 4096
"""Points of each scene whose predictions are kept to be shown."""


@dataclass(frozen=True)
class Segmentation:
    """Cross-entropy over the class scores of each voxel or point, Lovász-softmax added where asked for.

    at_points: whether the loss is over points, in place of voxels with the class of most of their points. weights: of
    the classes. lovasz: weight of that loss. parts: the parts of each category, where the classes are parts of objects.
    budget, overlap: of the tiles that large scenes are scored by, in voxels. per_class: voxels per class and scene of
    which collapse is measured.
    """

    at_points: bool = False
    weights: np.ndarray | None = None
    lovasz: float = 0.0
    parts: tuple[tuple[int, ...], ...] = ()
    budget: int | None = None
    overlap: int = 0
    per_class: int = 64

    name = "segmentation"
    columns = ("loss", "accuracy", "miou")
    headline = "miou"
    of_points = True

    def for_run(self, config: Config | Pretrain, splits: Splits) -> Segmentation:
        """With the settings of a run, and weights from its training scenes.

        Raises InputError where the classes are those of whole clouds, and where no training point has some class.
        """
        from image2point.config import Pretrain

        assert not isinstance(config, Pretrain)
        if not getattr(splits.train, "of_points", False):
            raise InputError(
                f"{splits.train.name} has a class for every cloud, not for its points, which segmentation needs; "
                "of ShapeNetPart, data.name=shapenet_parts has"
            )
        settings = config.training
        counts = count_labels(splits.train)
        if absent := [name for name, n in zip(splits.train.classes, counts, strict=True) if not n]:
            raise InputError(
                f"{splits.train.name}: no training point is labelled {', '.join(absent)}; take "
                f"{'it' if len(absent) == 1 else 'them'} out of the classes, or add scenes"
            )
        return replace(
            self.for_scoring(config, splits.test),
            at_points=settings.loss_at == "points",
            weights=class_weights(counts, settings.class_weights),
            lovasz=settings.lovasz,
        )

    def for_scoring(self, config: Config, samples: Labelled) -> Segmentation:
        return replace(
            self,
            parts=tuple(getattr(samples, "parts_of", ())),
            budget=config.data.tiles.voxels,
            overlap=config.data.tiles.overlap,
            per_class=config.collapse.voxels_per_class,
        )

    def check(self, voxels: VoxelTensor | DenseVoxels) -> None:
        """Raises InputError where the voxels of a tile are too few for this scene."""
        if self.budget is not None:
            sparse = voxels.sparse() if isinstance(voxels, DenseVoxels) else voxels
            tiles.cut(sparse.coordinates[:, 1:].numpy(), self.budget, self.overlap)

    def targets(self, samples: Sequence[Cloud], labels: Sequence[int], rows: Sequence[Tensor] | None) -> PointTargets:
        """The labels of the points, and of their voxels; `labels` are categories, where scenes have them."""
        assert rows is not None
        return point_targets(samples, labels, rows)

    def _wanted(self, targets: PointTargets, classes: int) -> Tensor:
        return targets.labels if self.at_points else targets.of_voxels(classes)

    def count(self, targets: PointTargets) -> int:
        """Labelled points, or voxels with one."""
        return targets.labelled_points if self.at_points else targets.labelled_voxels

    def loss(self, outputs: Tensor, targets: PointTargets, label_smoothing: float = 0.0) -> Tensor:
        """Of class scores [N, C] of the voxels, summed over what counts."""
        logits = outputs[targets.index] if self.at_points else outputs
        wanted = self._wanted(targets, outputs.shape[1])
        total = cross_entropy(logits, wanted, self.weights, label_smoothing)
        if self.lovasz:
            total = total + self.lovasz * self.count(targets) * lovasz_softmax(logits, wanted)
        return total

    def hits(self, outputs: Tensor, targets: PointTargets) -> Tensor:
        found = outputs.argmax(1)
        found = found[targets.index] if self.at_points else found
        return (found == self._wanted(targets, outputs.shape[1])).sum()

    def answer(self, network: Network, batch: Any) -> PointOutputs:
        """Scores and sampled features of a batch of scenes, by tiles where it is too large for one pass."""
        targets: PointTargets = batch.targets.to(torch.device("cpu"))
        classes = len(network.linear_classifier()[0])
        of_voxels = targets.of_voxels(classes)
        asked = sampled(of_voxels, targets.scenes, batch.indices, classes, self.per_class)
        said = tiles.say(network.embed, batch.voxels, asked, self.budget, self.overlap)
        best = said.probabilities.argmax(1)
        predictions, labels = best[targets.index].numpy(), targets.labels.numpy()
        ends = np.cumsum([0, *targets.sizes])
        shapes = []
        if self.parts:  # only the parts of the true category can be meant
            for start, end, category in zip(ends[:-1], ends[1:], targets.categories, strict=True):
                rows, own = targets.index[start:end], self.parts[category]
                predictions[start:end] = part_predictions(said.probabilities[rows].numpy(), own)
                shapes.append((category, shape_iou(labels[start:end], predictions[start:end], own)))
            best = best.clone()
            best[targets.index] = torch.from_numpy(predictions)
        known = np.flatnonzero(labels != IGNORED)
        shares = said.probabilities[targets.index[known], targets.labels[known]]
        shown = [
            predictions[start:end][shown_rows(end - start, number)].astype(np.int16)
            for start, end, number in zip(ends[:-1], ends[1:], batch.indices.tolist(), strict=True)
        ]
        return PointOutputs(
            said.features,
            of_voxels[asked],
            said.logits,
            of_voxels[asked],
            Confusion.of(labels, predictions, classes),
            Confusion.of(of_voxels.numpy(), best.numpy(), classes),
            float(-shares.clamp_min(torch.finfo(shares.dtype).tiny).log().sum()),
            tuple(shapes),
            tuple(shown),
        )

    def join(
        self, network: Network, answers: Sequence[PointOutputs], samples: Labelled, gather: Gather, rank: int
    ) -> PointOutputs:
        """Raises InputError where all points of the set are ignored."""
        weight, _ = network.linear_classifier()
        classes, width = weight.shape
        nothing = Confusion(np.zeros((classes, classes), dtype=np.int64))
        no_features, no_logits, no_labels = torch.empty(0, width), torch.empty(0, classes), torch.empty(0).long()
        own = answers or [
            PointOutputs(no_features, no_labels, no_logits, no_labels, nothing, nothing, loss=0.0, shapes=(), shown=())
        ]
        features, labels, logits = (
            torch.cat([getattr(each, name) for each in own]) for name in ("features", "own_labels", "own_logits")
        )
        parts = [
            each
            for share in gather([replace(each, features=no_features, own_logits=no_logits) for each in own])
            for each in share
        ]
        points, voxels = (sum((getattr(each, name) for each in parts), nothing) for name in ("points", "voxels"))
        if not points.total:
            raise InputError(f"{samples.name}: all {points.ignored} points are ignored, so nothing can be scored")
        return PointOutputs(
            features,
            labels,
            logits,
            torch.cat([each.labels for each in parts]),
            points,
            voxels,
            sum(each.loss for each in parts) / points.total,
            tuple(shape for each in parts for shape in each.shapes),
            tuple(rows for each in parts for rows in each.shown),
        )

    def scores(self, outputs: PointOutputs) -> PointScores:
        instance, category = part_means([iou for _, iou in outputs.shapes], [number for number, _ in outputs.shapes])
        return PointScores(outputs.loss, outputs.points, outputs.voxels, instance, category)

    def confusion(self, outputs: PointOutputs) -> Confusion:
        """At the points of the set."""
        return outputs.points

    def answers(self, outputs: PointOutputs, names: Sequence[str]) -> tuple[CloudAnswer, ...]:
        return ()

    def final(
        self,
        test: PointScores,
        train: PointScores | None,
        validation: tuple[float, ...] | None,
        classes: Sequence[str],
    ) -> dict[str, Any]:
        """Scores at the points by plain names; of points and voxels alike under `points` and `voxels`."""
        of_parts = {"test_instance_miou": test.instance_miou, "test_category_miou": test.category_miou}
        return {
            "test_miou": test.points.miou,
            "test_miou_all": test.points.miou_all,
            "test_accuracy": test.points.accuracy,
            "test_mean_class_accuracy": test.points.mean_accuracy,
            "test_loss": test.loss,
            **({} if test.instance_miou is None else of_parts),
            "train_miou": train.points.miou if train else None,
            "validation_miou": validation[0] if validation else None,
            "per_class": dict(zip(classes, test.points.iou, strict=True)),
            "points": confusion_table(test.points, classes),
            "voxels": confusion_table(test.voxels, classes),
        }

    def examples(
        self, clouds: Sequence[Cloud], rows: np.ndarray, outputs: PointOutputs, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """points float32 [n, 3], labels and predictions int16 [n] of all scenes, one after the other; scene int64 [s],
        their numbers in the test set, and ends int64 [s], where each of them ends."""
        shown = [shown_rows(len(cloud), number) for cloud, number in zip(clouds, rows.tolist(), strict=True)]
        labels = [cloud.labels for cloud in clouds if cloud.labels is not None]
        return {
            "points": np.concatenate(
                [np.empty((0, 3), np.float32), *(c.points[r] for c, r in zip(clouds, shown, strict=True))]
            ),
            "labels": np.concatenate(
                [np.empty(0, np.int16), *(c[r] for c, r in zip(labels, shown, strict=True))]
            ).astype(np.int16),
            "predictions": np.concatenate(
                [np.empty(0, np.int16), *(outputs.shown[number] for number in rows.tolist())]
            ),
            "scene": rows.astype(np.int64),
            "ends": np.cumsum([len(r) for r in shown], dtype=np.int64),
        }

    def statement(self, final: Mapping[str, Any]) -> str:
        parts = final.get("test_instance_miou")
        own = (
            ""
            if parts is None
            else f", instance mIoU {_percent(parts)}, category mIoU {_percent(final['test_category_miou'])}"
        )
        return (
            f"test mIoU at the points {_percent(final['test_miou'])} (accuracy {_percent(final['test_accuracy'])}, "
            f"mean over classes {_percent(final['test_mean_class_accuracy'])}{own})"
        )


def shown_rows(points: int, scene: int) -> np.ndarray:
    """The points of a scene that are kept to be shown, ascending: drawn by the number of the scene.

    >>> len(shown_rows(10_000, scene=3)), shown_rows(3, scene=0).tolist()
    (4096, [0, 1, 2])
    """
    return np.sort(np.random.default_rng((0, scene)).permutation(points)[:MOST_SHOWN])


def _percent(share: float | None) -> str:
    return "undefined" if share is None else f"{100 * share:.2f} %"
