"""What a task is: all that the loop, the measures and a run's files leave to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor

from image2point.datasets import Cloud, Splits
from image2point.datasets.class_split import Labelled
from image2point.networks.interface import Network
from image2point.tasks.confusion import Confusion
from image2point.tasks.predictions import CloudAnswer

if TYPE_CHECKING:
    from image2point.config import Config, Pretrain

Gather = Callable[[Any], list[Any]]
"""The values of all processes, in order, on all."""


class Outputs(Protocol):
    """What a network said about a set of samples in eval mode, without augmentation.

    `features` [m, p], `own_labels` int64 [m] and `own_logits` [m, classes] are the rows of this process, of which
    collapse is measured; `labels` int64 [n] those of all processes.
    """

    @property
    def features(self) -> Tensor: ...

    @property
    def own_labels(self) -> Tensor: ...

    @property
    def own_logits(self) -> Tensor: ...

    @property
    def labels(self) -> Tensor: ...


class Scores(Protocol):
    """How good a set of outputs is."""

    @property
    def columns(self) -> Mapping[str, float]:
        """By name, as metrics.csv has them behind `test_` and the like."""
        ...

    @property
    def order(self) -> tuple[float, ...]:
        """What a choice between epochs goes by: the larger, the better."""
        ...


class Task(Protocol):
    """A task. It has no state, and knows nothing of devices, processes or files."""

    @property
    def name(self) -> str: ...

    @property
    def columns(self) -> tuple[str, ...]:
        """The scores that every split has in metrics.csv; of training, the loss and the share of hits."""
        ...

    @property
    def headline(self) -> str:
        """The column by which people know a run; a share in 0..1."""
        ...

    @property
    def of_points(self) -> bool:
        """Whether it is points that have classes: then the network has a decoder, clouds keep their size and place,
        and files get a label for each point; else a class for each cloud."""
        ...

    def for_run(self, config: Config | Pretrain, splits: Splits) -> Task:
        """The task with what the settings of a run and its training samples say of it."""
        ...

    def for_scoring(self, config: Config, samples: Labelled) -> Task:
        """The task with what the settings of a run say of scoring these samples alone: no training set is needed."""
        ...

    def check(self, voxels: Any) -> None:
        """Raise InputError where a sample, as the network gets it, is none that the task can score."""
        ...

    def targets(self, samples: Sequence[Any], labels: Sequence[int], rows: Sequence[Tensor] | None) -> Any:
        """What the outputs of a batch should be, from its prepared samples, their labels, and for each sample the row
        of each point's voxel (None of images). A tensor, or what moves as one: `to(device)`, `pin_memory()`."""
        ...

    def count(self, targets: Any) -> int:
        """How many of them count in the loss."""
        ...

    def loss(self, outputs: Any, targets: Any, label_smoothing: float = 0.0) -> Tensor:
        """The loss, summed over all that count."""
        ...

    def hits(self, outputs: Any, targets: Any) -> Tensor:
        """How many of them the network has right, without gradient."""
        ...

    def answer(self, network: Network, batch: Any) -> Any:
        """What is kept of a batch (`training.batches.Batch`, on the network's device), on the CPU."""
        ...

    def join(self, network: Network, answers: Sequence[Any], samples: Labelled, gather: Gather, rank: int) -> Any:
        """The `Outputs` of all samples, from this process's answers; the processes have shares one after the other."""
        ...

    def scores(self, outputs: Any) -> Any:
        """The `Scores` of these outputs."""
        ...

    def confusion(self, outputs: Any) -> Confusion:
        """How often each class was taken for each: of clouds, or of points."""
        ...

    def answers(self, outputs: Any, names: Sequence[str]) -> tuple[CloudAnswer, ...]:
        """What was said of each sample, by these names in order; nothing where it is points that have classes."""
        ...

    def final(
        self, test: Any, train: Any | None, validation: tuple[float, ...] | None, classes: Sequence[str]
    ) -> dict[str, Any]:
        """What summary.json keeps under `final`: the scores of the chosen weights, and by what they were chosen."""
        ...

    def examples(
        self, clouds: Sequence[Cloud], rows: np.ndarray, outputs: Any, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """What examples.npz keeps of the test clouds at `rows`, which are given as the network saw them."""
        ...

    def statement(self, final: Mapping[str, Any]) -> str:
        """The result in a few words."""
        ...
