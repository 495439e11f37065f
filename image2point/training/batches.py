"""Clouds → batches of voxels, in an order that depends on the seed and the epoch only.

Nothing here has a state: what a batch holds follows from (seed, epoch, step), whatever the number of processes and
workers, and whether the run was interrupted on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from image2point.datasets.class_split import Labelled
from image2point.datasets.crops import Repeated, mixed
from image2point.datasets.splits import origin
from image2point.errors import InputError
from image2point.networks.interface import Network, modes_kept
from image2point.voxels import DenseVoxels, VoxelTensor
from image2point.voxels.ahead import Wanted, asked_of, make_ahead
from image2point.voxels.padding import Buckets, pad, rows_of


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
        """On a device. A GPU reads page-locked memory (`pin_memory`) while the host goes on."""
        voxels = self.voxels.to(dtype).to(device, non_blocking=True)
        return Batch(voxels, self.targets.to(device, non_blocking=True), self.indices)

    def pin_memory(self) -> Batch:
        return Batch(self.voxels.pin_memory(), self.targets.pin_memory(), self.indices)


def shuffled(count: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The global batches of an epoch: a permutation of 0..count-1 in ceil(count / batch_size) nearly equal parts.

    Every sample occurs once, and no batch is a small remainder (which would give noisy norm statistics).
    """
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return np.array_split(order, -(-count // batch_size))


def in_parts(plan: Sequence[np.ndarray], parts: int) -> list[np.ndarray]:
    """Each batch in so many nearly equal parts, one after the other.

    >>> in_parts([np.arange(5), np.arange(2)], 2)
    [array([0, 1, 2]), array([3, 4]), array([0]), array([1])]
    """
    return [part for batch in plan for part in np.array_split(batch, parts)]


def in_order(count: int, batch_size: int, rank: int = 0, world: int = 1) -> list[np.ndarray]:
    """The batches that process `rank` of `world` scores: its contiguous share of 0..count-1."""
    mine = np.array_split(np.arange(count), world)[rank]
    return np.array_split(mine, -(-len(mine) // batch_size)) if len(mine) else []


Targets = Callable[[Sequence[Any], Sequence[int], Sequence[torch.Tensor] | None], Any]


def labels_alone(samples: Sequence[Any], labels: Sequence[int], rows: object = None) -> torch.Tensor:
    """The labels of the samples, int64 [n]."""
    return torch.as_tensor(np.asarray(labels))


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
    wanted: Wanted | None = None,
    share: Callable[[np.ndarray], np.ndarray] | None = None,
    buckets: Buckets | None = None,
) -> Iterator[Batch]:
    """Yield a Batch for each array of indices in `plan`, or for the share of it that this process takes.

    epoch: the epoch (from 1) whose augmentation is applied; None for none.
    workers: processes that prepare batches ahead; the batches are the same for any number.
    targets: what a task wants of a batch, from its prepared samples and their labels.
    wanted: the plans that the workers make with sparse voxels; without workers they are made when they are needed.
    buckets: sizes to which sparse voxels are padded, with the plans that are wanted.
    """
    samples = _Samples(clouds, recipe, epoch, targets, wanted if workers or buckets else None, buckets)
    loader = DataLoader(
        samples,
        batch_sampler=_Plan(plan, share),
        collate_fn=samples.collate,
        num_workers=workers,
        pin_memory=pin_memory,
        # The loader draws a seed for its workers: from its own generator, not from the global one.
        generator=torch.Generator(),
    )
    yield from loader


def plans_of(network: Network, clouds: Labelled, recipe: Preparation) -> Wanted | None:
    """What plans a network asks for, found out by a pass over one sample; None where it runs on no sparse voxels."""
    (batch,) = batches(clouds, [np.zeros(1, dtype=np.int64)], recipe, 1)
    if not isinstance(batch.voxels, VoxelTensor):
        return None
    like = next(network.parameters())
    voxels = batch.to(like.device, like.dtype).voxels
    assert isinstance(voxels, VoxelTensor)
    with modes_kept(network), torch.no_grad():
        network.eval()
        network(voxels)
    return asked_of(voxels.sites)


def sizes_of(
    clouds: Labelled, plan: Sequence[np.ndarray], recipe: Preparation, wanted: Wanted, some: int = 4
) -> Buckets:
    """Sizes that batches are padded to, around those of the first few of an epoch's."""
    rows = []
    for batch in batches(clouds, plan[:some], recipe, 1):
        assert isinstance(batch.voxels, VoxelTensor)
        rows.append(rows_of(make_ahead(batch.voxels.sites, wanted)))
    typical = np.mean(rows, axis=0).round().astype(int).tolist()
    return Buckets(1 + max(map(len, plan)), tuple(typical))


class _Plan:
    """The batches as lists, each made when it is its turn: ten million Python numbers would take half a gigabyte."""

    def __init__(self, plan: Sequence[np.ndarray], share: Callable[[np.ndarray], np.ndarray] | None) -> None:
        self.plan, self.share = plan, share

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[int]]:
        return (indices.tolist() for indices in (map(self.share, self.plan) if self.share else self.plan))


class _Samples(Dataset[tuple[int, Any, Any]]):
    def __init__(
        self,
        clouds: Labelled,
        recipe: Preparation,
        epoch: int | None,
        targets: Targets,
        wanted: Wanted | None,
        buckets: Buckets | None,
    ) -> None:
        self.clouds, self.recipe, self.epoch, self.targets = clouds, recipe, epoch, targets
        self.wanted, self.buckets = wanted, buckets
        soft = getattr(clouds, "soft", None)  # probabilities of the classes, where a teacher gave them
        self.labels = clouds.labels if soft is None else soft

    def __len__(self) -> int:
        return len(self.clouds)

    def __getitem__(self, index: int) -> tuple[int, Any, Any]:
        try:
            sample = self._prepared(index, index)
            partner = self.recipe.partner(self.epoch, index, len(self))
            if partner is not None:  # its own changes, another draw than where it stands alone
                sample = mixed(sample, self._prepared(partner, len(self) + index))
        except InputError as error:
            where = origin(self.clouds, index)
            raise InputError(str(error) if where in str(error) else f"{error} (in {where})") from None
        return index, sample, self.labels[index]

    def _prepared(self, index: int, draw: int) -> Any:
        return self.recipe.prepare(self.clouds[index], self._where(index), self.epoch, draw)

    def collate(self, samples: list[tuple[int, Any, Any]]) -> Batch:
        indices, prepared, labels = zip(*samples, strict=True)
        joined, rows = self.recipe.batch(prepared, [self._where(index) for index in indices])
        if self.wanted is not None and isinstance(joined, VoxelTensor):
            joined = VoxelTensor(joined.features, make_ahead(joined.sites, self.wanted))
            if self.buckets is not None:
                joined = pad(joined, self.buckets)
        return Batch(joined, self.targets(prepared, labels, rows), torch.tensor(indices))

    def _where(self, index: int) -> str:
        return f"{self.clouds.name} {self.recipe.noun} {index}"
