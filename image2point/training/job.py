"""What a training is made of: `Job` stays the same while it lasts, `State` is where it stands."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor, nn

from image2point.config import Config, Pretrain, Training
from image2point.datasets import Splits
from image2point.errors import InputError
from image2point.finetune import freeze
from image2point.lifting import LiftedNetwork
from image2point.networks.interface import Network
from image2point.runs import Run
from image2point.tasks.task import Task
from image2point.training import distributed, packing, sharding
from image2point.training.anchor import Anchor
from image2point.training.averaging import Average, average_of
from image2point.training.batches import Batch, Preparation, plans_of, shuffled, sizes_of, training_samples
from image2point.training.graphs import Graphs, Record, problem, recorder
from image2point.training.groups import anchored
from image2point.training.interrupt import Interrupted, StopSignal, stopped
from image2point.training.journal import Journal
from image2point.training.penalties import scores_and_penalty
from image2point.training.schedule import make_optimizer
from image2point.voxels import DenseVoxels, VoxelTensor
from image2point.voxels.ahead import Wanted
from image2point.voxels.padding import Buckets

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass
class State:
    """Where training stands: `epoch` epochs are done, and `step` steps of the next one."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    """Time spent in training steps."""
    peak: int | None = None
    """Most bytes in use at once while it trained, on the first process (`training.memory`)."""
    elapsed: float = 0.0
    """Time of the run before this session, everything included."""
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Loss, hits and what counted, summed over the steps of this epoch."""
    penalty: float = 0.0
    """What penalties on features added to the loss, summed over the steps of this epoch."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    """The rows of layers.csv."""
    best_epoch: int | None = None
    best_score: tuple[float, ...] | None = None
    """What the choice of the best epoch went by (`Scores.order`)."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """The network of the best epoch; empty without a validation split."""


class Job:
    """What stays the same during a run. Freeze the network before making one: the optimizer is made here."""

    def __init__(
        self,
        fabric: Fabric,
        task: Task,
        network: Network,
        splits: Splits,
        recipe: Preparation,
        config: Config | Pretrain,
        run: Run,
        stop: StopSignal,
    ) -> None:
        self.fabric, self.task, self.network, self.splits, self.recipe = fabric, task, network, splits, recipe
        self.config, self.run, self.stop = config, run, stop
        self.samples = training_samples(splits.train, recipe)
        self.journal = Journal(run, config, task.headline, speaks=fabric.is_global_zero)
        self.voxels: np.ndarray | None = None
        """Voxels of each training cloud, where batches are made by them."""
        self.wanted: Wanted | None = None
        """The plans that are made with each batch, by workers where there are some."""
        self.buckets: Buckets | None = None
        """The sizes to which batches are padded, where steps are recorded."""
        self.graphs: Graphs | None = None
        self.steps = -(-len(self.samples) // config.training.batch_size)
        self.started = self.saved_at = time.monotonic()
        self.average: Average | None = None
        self.policy = getattr(network, "_policy", None)
        """Of a lifted network: under which it was frozen."""
        self.anchor: Anchor | None = None
        self.trained: Any = network
        """What steps move: the network, or, where processes keep parts of it, a copy of which each has its part."""
        if config.training.epochs:
            smallest = len(self.samples) // self.steps
            if config.training.batch_voxels:
                self.voxels = self._count_voxels()
                self.steps = packing.steps(self.voxels, config.training.batch_voxels, fabric.world_size)
            elif smallest < fabric.world_size * config.training.accumulate:
                if (parts := config.training.accumulate) > 1:
                    raise InputError(
                        f"a batch of {smallest} clouds cannot be divided into {parts} parts for each of "
                        f"{fabric.world_size} processes; raise training.batch_size or lower training.accumulate"
                    )
                raise InputError(
                    f"a batch of {smallest} clouds cannot be shared by {fabric.world_size} processes; "
                    "raise training.batch_size or lower training.devices"
                )
            parts = config.training.accumulate
            alone = isinstance(config, Pretrain) or config.network.head == "batchnorm"
            if parts > 1 and alone and smallest // parts < 2:
                raise InputError(
                    f"training.accumulate = {parts} makes parts of one sample of a batch of {smallest}, of which a "
                    "norm over samples takes no variance; lower it"
                )
            record = self._recorder()
            if config.training.workers or record is not None:
                self.wanted = plans_of(fabric.to_device(network), self.samples, recipe)
            if record is not None and self.wanted is not None:
                assert isinstance(network, nn.Module)
                self.buckets = sizes_of(self.samples, self.plan(1), recipe, self.wanted)
                self.graphs = Graphs(network, record, self.journal.say)
            if sharding.is_on(fabric):
                self.trained = copy.deepcopy(fabric.to_device(network))
            self.module = fabric.setup_module(_Forward(self.trained, config.training))
            self.optimizer = cast(Any, fabric.setup_optimizers(make_optimizer(self.trained, config.training)))
            self.average = average_of(network, config.training)
            if pulled := anchored(self.trained, config.training):
                self.anchor = Anchor(pulled, self.optimizer.optimizer, config.training.l2_sp)
        else:
            fabric.to_device(network)

    @property
    def scored(self) -> Network:
        """The network that is scored, measured and kept: with averaged weights where there are some."""
        averaged: Network | None = None if self.average is None else self.average.network()
        return self.network if averaged is None else averaged

    def gather(self) -> None:
        """Give the network the values that training has by now, where that moves a copy in parts. By all processes."""
        if self.trained is not self.network:
            sharding.gather(self.trained, self.fabric.to_device(self.network))

    def scatter(self) -> None:
        """Let training go on from the values of the network."""
        if self.trained is not self.network:
            assert isinstance(self.network, nn.Module)
            sharding.scatter(self.network, self.trained)

    def begin_epoch(self, epoch: int) -> None:
        """Let that train which trains in an epoch, counted from 0: the head alone, or what the policy says."""
        if self.trained is not self.network:
            assert isinstance(self.network, nn.Module)
            self.network.cpu()  # the device has the parts
        first = self.config.training.head_first
        if first:
            for network in (self.network, *([] if self.average is None else [self.average.holder()])):
                assert isinstance(network, LiftedNetwork) and self.policy is not None
                freeze(network, "head" if epoch < first else self.policy)

    def plan(self, epoch: int) -> list[np.ndarray]:
        """The global batches of an epoch, from 1: indices of training clouds."""
        settings, seed = self.config.training, self.config.seed
        if self.voxels is not None and settings.batch_voxels:
            return packing.packed(self.voxels, settings.batch_voxels, seed, epoch)
        return shuffled(len(self.samples), settings.batch_size, seed, epoch)

    def share(self, indices: np.ndarray) -> np.ndarray:
        """What this process takes of a global batch."""
        rank, world = self.fabric.global_rank, self.fabric.world_size
        if self.voxels is not None and world > 1:
            return packing.share(indices, self.voxels, rank, world)
        return np.array_split(indices, world)[rank]

    def interrupted(self, where: str) -> Interrupted:
        """The exception that says where the run stopped and how to go on."""
        return stopped(where, self.config.command, self.run)

    def _recorder(self) -> Record | None:
        """What records steps, where they are to be recorded and can be; where they cannot, it is told why."""
        settings = self.config.training
        if settings.graphs == "none":
            return None
        record = recorder(self.fabric.device)
        reason: str | None = None
        if record is None:
            reason = f"the network runs on {self.fabric.device}, not on a GPU"
        elif self.fabric.world_size > 1:
            reason = "there are several processes"
        elif settings.accumulate > 1:
            reason = "training.accumulate adds gradients up, and a recorded step begins with none"
        elif settings.precision == "16-mixed":
            reason = "precision 16-mixed looks at gradients on the host"
        elif settings.batch_voxels or self.task.of_points or getattr(self.recipe, "substrate", None) != "sparse":
            reason = "batches are not a number of clouds as sparse voxels, with a class for each"
        elif settings.feature_penalties:
            reason = f"training.{settings.feature_penalties[0]} counts the clouds of the padding"
        elif getattr(self.samples, "soft", None) is not None:
            reason = "teacher.soft gives a probability for each class, and padding has none"
        else:
            assert isinstance(self.network, nn.Module)
            reason = problem(self.network)
        if reason is not None:
            self.journal.say(f"training.graphs: steps are not recorded: {reason}")
        return record if reason is None else None

    def _count_voxels(self) -> np.ndarray:
        train, fabric = self.samples, self.fabric
        self.journal.say(f"counting the voxels of {len(train)} training clouds, for batches of equal size")
        found, workers = [np.empty(0, np.int64)], self.config.training.workers
        for counts in packing.count_voxels(train, self.recipe, workers, fabric.global_rank, fabric.world_size):
            if self.stop.requested:  # the others are told below, where they wait
                break
            found.append(counts)
        shares = distributed.gather(fabric, np.concatenate(found))
        if sum(map(len, shares)) < len(train):
            raise self.interrupted("while counting voxels, before the first epoch")
        return np.concatenate(shares)


def rows_of(outputs: Tensor | VoxelTensor | DenseVoxels) -> Tensor:
    """What a network gives, a row for each cloud or voxel."""
    if isinstance(outputs, VoxelTensor):
        return outputs.features
    return outputs.rows if isinstance(outputs, DenseVoxels) else outputs


class _Forward(nn.Module):
    """Takes a Batch, which passes through Fabric and DDP untouched; gives outputs, and what they add to the loss."""

    def __init__(self, network: Network, training: Training) -> None:
        super().__init__()
        self.network, self.settings = network, training

    def forward(self, batch: Batch) -> tuple[Any, Tensor | float]:
        if self.settings.feature_penalties:
            return scores_and_penalty(self.network, batch.voxels, batch.targets, self.settings)
        return rows_of(self.network(batch.voxels)), 0.0
