"""The training loop.

All that changes while training is in `State` (and in the network and the optimizer); all that does not is in `Job`.
Randomness has no state: order, augmentation and torch's own generator follow from (seed, epoch, step). Hence a run
that stops anywhere and goes on ends with the same bits.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from image2point import files
from image2point.collapse import complexity_penalty
from image2point.collapse.layers import kept, measure_layers
from image2point.config import Config, Pretrain
from image2point.datasets import Splits
from image2point.datasets.class_split import Labelled
from image2point.errors import InputError
from image2point.networks.network import Network
from image2point.runs import Run
from image2point.tasks import Scores, Task
from image2point.training import checkpoint, distributed, measure, packing
from image2point.training.batches import Batch, Preparation, batches, shuffled
from image2point.training.interrupt import Interrupted, StopSignal
from image2point.training.journal import Journal
from image2point.training.layer_features import choose_layers, layer_source, plain
from image2point.training.recalibration import drift, recalibrate
from image2point.training.schedule import learning_rate, make_optimizer

if TYPE_CHECKING:
    from lightning.fabric import Fabric

FAR = 0.5
"""Standard deviations between running and batch statistics from which on a run warns."""

COLUMNS = ("epoch", "step", "seconds", "learning_rate")


@dataclass
class State:
    """Where training stands: `epoch` epochs are done, and `step` steps of the next one."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    """Time spent in training steps."""
    elapsed: float = 0.0
    """Time of the run before this session, everything included."""
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Loss, hits and what counted, summed over the steps of this epoch."""
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
        self.journal = Journal(run, task.headline, speaks=fabric.is_global_zero)
        self.voxels: np.ndarray | None = None
        """Voxels of each training cloud, where batches are made by them."""
        self.steps = -(-len(splits.train) // config.training.batch_size)
        self.started = self.saved_at = time.monotonic()
        penalty = config.training.complexity_penalty if isinstance(config, Pretrain) else 0.0
        module = _Forward(network, penalty)
        if config.training.epochs:
            smallest = len(splits.train) // self.steps
            if config.training.batch_voxels:
                self.voxels = self._count_voxels()
                self.steps = packing.steps(self.voxels, config.training.batch_voxels, fabric.world_size)
            elif smallest < fabric.world_size:
                raise InputError(
                    f"a batch of {smallest} clouds cannot be shared by {fabric.world_size} processes; "
                    "raise training.batch_size or lower training.devices"
                )
            self.module, self.optimizer = fabric.setup(module, make_optimizer(network, config.training))
        else:
            fabric.to_device(module)

    def plan(self, epoch: int) -> list[np.ndarray]:
        """The global batches of an epoch, from 1: indices of training clouds."""
        settings, seed = self.config.training, self.config.seed
        if self.voxels is not None and settings.batch_voxels:
            return packing.packed(self.voxels, settings.batch_voxels, seed, epoch)
        return shuffled(len(self.splits.train), settings.batch_size, seed, epoch)

    def _count_voxels(self) -> np.ndarray:
        train = self.splits.train
        self.journal.say(f"counting the voxels of {len(train)} training clouds, for batches of equal size")
        found = []
        for counts in packing.count_voxels(train, self.recipe, self.config.training.workers):
            if self.stop.requested:
                raise interrupted(self, "while counting voxels, before the first epoch")
            found.append(counts)
        return np.concatenate(found)


class _Forward(nn.Module):
    """Takes a Batch, which passes through Fabric and DDP untouched; gives outputs, and what they add to the loss."""

    def __init__(self, network: Network, complexity_penalty: float = 0.0) -> None:
        super().__init__()
        self.network, self.complexity_penalty = network, complexity_penalty

    def forward(self, batch: Batch) -> tuple[Any, Tensor | float]:
        if not self.complexity_penalty:
            return self.network(batch.voxels), 0.0
        assert isinstance(batch.voxels, Tensor)
        images = batch.voxels.requires_grad_()
        features, logits = self.network.embed(images)
        return logits, self.complexity_penalty * complexity_penalty(features, images)


def fit(job: Job, state: State) -> None:
    """Train from `state` to the last epoch. Raises Interrupted, with a checkpoint written, when asked to stop."""
    epochs = job.config.training.epochs
    job.journal.begin(total=epochs * job.steps, done=state.epoch * job.steps + state.step)
    try:
        if not state.rows:
            close_epoch(job, state, epoch=0)
        while state.epoch < epochs:
            train_epoch(job, state)
            close_epoch(job, state, epoch=state.epoch + 1)
            state.epoch, state.step, state.sums = state.epoch + 1, 0, [0.0, 0.0, 0.0]
            pause(job, state, stop=False)
        save(job, state)
    finally:
        job.journal.close()


def train_epoch(job: Job, state: State) -> None:
    """The steps of one epoch, from `state.step` on."""
    settings, task, world, rank = job.config.training, job.task, job.fabric.world_size, job.fabric.global_rank
    epoch = state.epoch + 1
    plan = job.plan(epoch)[state.step :]
    shares = [np.array_split(indices, world)[rank] for indices in plan]
    on_gpu = job.fabric.device.type == "cuda"
    dtype = next(job.network.parameters()).dtype
    job.network.train()
    clock = time.monotonic()
    loader = batches(job.splits.train, shares, job.recipe, epoch, settings.workers, on_gpu, task.targets)
    for batch in loader:
        counted = distributed.total_count(job.fabric, task.count(batch.targets))
        batch = batch.to(job.fabric.device, dtype)
        _seed_torch(job.config.seed, epoch, state.step, rank)
        for group in job.optimizer.param_groups:
            group["lr"] = learning_rate(settings, state.epoch, state.step, job.steps)
        job.optimizer.zero_grad(set_to_none=True)
        outputs, penalty = job.module(batch)
        loss = task.loss(outputs, batch.targets, settings.label_smoothing)
        # DDP averages gradients over processes: times world, this is the gradient of the global batch's mean loss.
        job.fabric.backward(loss * (world / counted) + penalty)
        if settings.gradient_clip is not None:
            job.fabric.clip_gradients(job.module, job.optimizer, max_norm=settings.gradient_clip)
        job.optimizer.step()

        hits = task.hits(outputs, batch.targets)
        local = torch.stack([loss.detach().double(), hits.double(), hits.new_tensor(job.stop.requested).double()])
        batch_loss, correct, stop = distributed.total(job.fabric, local).tolist()
        state.step += 1
        state.sums = [a + b for a, b in zip(state.sums, (batch_loss, correct, counted), strict=True)]
        state.seconds, clock = state.seconds + time.monotonic() - clock, time.monotonic()
        if not math.isfinite(batch_loss):
            raise InputError(
                f"the loss became {batch_loss} in epoch {epoch}, step {state.step}; "
                "lower training.lr, add training.warmup_epochs, or set training.gradient_clip"
            )
        job.journal.step(epoch, batch_loss / counted)
        pause(job, state, stop=bool(stop) or (world == 1 and job.stop.requested))


def close_epoch(job: Job, state: State, epoch: int) -> None:
    """Validate, measure collapse where due, remember the best network, write metrics.csv."""
    row: dict[str, Any] = {"epoch": epoch, "step": epoch * job.steps, "seconds": round(state.seconds, 3)}
    if epoch:
        row["learning_rate"] = learning_rate(job.config.training, epoch - 1, job.steps - 1, job.steps)
        loss, hits, counted = state.sums
        row |= {"train_loss": loss / counted, "train_accuracy": hits / counted}
    due = _collapse_due(job, epoch)
    if due or job.splits.validation is not None:
        take_statistics_again(job, state)
    if job.splits.validation is not None:
        validated = job.task.scores(_outputs(job, state, job.splits.validation))
        row |= score_columns("validation", validated)
        better = state.best_score is None or validated.order > state.best_score
        if better and (epoch or not job.config.training.epochs):
            state.best_epoch, state.best_score = epoch, validated.order
            state.best = {name: tensor.detach().cpu().clone() for name, tensor in job.network.state_dict().items()}
    if due:
        outputs = {str(name): _outputs(job, state, getattr(job.splits, name)) for name in job.config.collapse.splits}
        row |= collapse_columns(measure.collapse(job.fabric, job.network, outputs))
        follow_layers(job, state, epoch, job.config.collapse.splits)
        if "test" in outputs:
            row |= score_columns("test", job.task.scores(outputs["test"]))
    state.rows.append(row)
    write_rows(job, state)
    job.journal.row(row, job.config.training.epochs)


def pause(job: Job, state: State, stop: bool) -> None:
    """Write a checkpoint if one is due; where `stop`, write one and raise Interrupted."""
    if stop or time.monotonic() - job.saved_at >= 60 * job.config.training.checkpoint_every_minutes:
        save(job, state)
    if stop:
        raise _stopped(job, state)


def _stopped(job: Job, state: State) -> Interrupted:
    return interrupted(job, f"in epoch {state.epoch + 1} after step {state.step} of {job.steps}")


def interrupted(job: Job, where: str) -> Interrupted:
    """The exception that says where the run stopped and how to go on."""
    command = f"image2point {job.config.command} {job.run.config} --runs {job.run.path.parent} --resume"
    return Interrupted(f"stopped {where}; continue with: {command}")


def elapsed(job: Job, state: State) -> float:
    """Seconds that the run has taken so far, over all its sessions."""
    return state.elapsed + time.monotonic() - job.started


def save(job: Job, state: State) -> None:
    """Write the checkpoint. The state is the same on every process; the first one writes it."""
    if job.fabric.is_global_zero:
        tensors = {f"network/{name}": tensor for name, tensor in job.network.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in state.best.items()}
        rest = {name: value for name, value in vars(state).items() if name != "best"}
        rest["elapsed"] = elapsed(job, state)
        if job.config.training.epochs:
            slots = checkpoint.optimizer_tensors(job.optimizer.optimizer)
            tensors |= {f"optimizer/{name}": tensor for name, tensor in slots.items()}
            rest["precision"] = job.fabric.strategy.precision.state_dict()
        name = f"epoch-{state.epoch:05d}-step-{state.step:06d}"
        checkpoint.save(job.run.checkpoint, name, tensors, rest)
    job.saved_at = time.monotonic()


def restore(job: Job) -> State:
    """The state of the newest checkpoint, with network and optimizer set to it; a fresh State where there is none."""
    path = checkpoint.latest(job.run.checkpoint)
    if path is None:
        return State()
    tensors, rest = checkpoint.load(path)
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "best": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, key = name.split("/", 1)
        parts[part][key] = tensor
    job.network.load_state_dict(parts["network"])
    precision = rest.pop("precision", None)
    if job.config.training.epochs:
        checkpoint.restore_optimizer(job.optimizer.optimizer, parts["optimizer"])
        job.fabric.strategy.precision.load_state_dict(precision)
    rest["best_score"] = rest["best_score"] and tuple(rest["best_score"])
    return State(**rest, best=parts["best"])


def write_rows(job: Job, state: State) -> None:
    """Replace metrics.csv by the rows so far. Numbers are written in full, so nothing is lost by reading them back."""
    scores = [f"{split}_{name}" for split in ("train", "validation", "test") for name in job.task.columns]
    write_table(job, job.run.metrics, (*COLUMNS, *scores), state.rows)


def write_table(job: Job, path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Replace the file by a table of rows, with `columns` first."""
    if job.fabric.is_global_zero:
        names = dict.fromkeys([*columns, *(name for row in rows for name in row)])
        text = io.StringIO()
        writer = csv.DictWriter(text, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        files.write_text(path, text.getvalue())


def follow_layers(job: Job, state: State, epoch: int, splits: Sequence[str]) -> None:
    """Measure the layers that `collapse.layers` names, and write layers.csv; nothing where it names none."""
    patterns, settings = job.config.collapse.layers, job.config.training
    if not patterns:
        return
    if job.fabric.world_size > 1:
        raise InputError("collapse.layers measures on one process; measure the finished run with image2point measure")
    names, centres = choose_layers(job.network, patterns), None
    for split in sorted(splits, key=lambda split: split != "train"):
        samples = getattr(job.splits, split)
        source = kept(
            layer_source(
                job.network, samples, job.recipe, names, settings.batch_size, False, settings.workers, job.fabric
            )
        )
        found = measure_layers(source, samples.labels, len(samples.classes), centres=centres)
        if split == "train":
            centres = {name: each.means for name, each in found.items()}
        for name in names:
            plain_values = plain(found[name])
            errors = {f"{key}_error": i["error"] for key, i in plain_values["intervals"].items()}
            state.layers.append(
                {"epoch": epoch, "split": split, "layer": name, "dim": plain_values["dim"]}
                | plain_values["values"]
                | errors
            )
    write_table(job, job.run.layers, (), state.layers)


def collapse_columns(measured: dict[str, dict[str, float | None]]) -> dict[str, float | None]:
    """{"train": {"nc1": x}} → {"collapse_train/nc1": x}"""
    return {f"collapse_{split}/{name}": value for split, values in measured.items() for name, value in values.items()}


def score_columns(split: str, scores: Scores) -> dict[str, float]:
    """{"loss": x} → {"test_loss": x}"""
    return {f"{split}_{name}": value for name, value in scores.columns.items()}


def _collapse_due(job: Job, epoch: int) -> bool:
    every, last = job.config.collapse.every, job.config.training.epochs
    chosen = epoch in job.config.collapse.at
    if not (every or chosen) or not job.config.collapse.splits:
        return False
    if epoch == last and job.splits.validation is None:
        return False  # these are the chosen weights, which are measured at the end
    return chosen or (bool(every) and (epoch % every == 0 or epoch == last))


def take_statistics_again(job: Job, state: State) -> None:
    """Recalibrate the norms that follow the batch on `training.recalibrate` training clouds, the same every time."""
    settings, train = job.config.training, job.splits.train
    if not settings.recalibrate:
        return
    world, rank = job.fabric.world_size, job.fabric.global_rank
    plan = shuffled(len(train), settings.batch_size, job.config.seed, epoch=0)
    enough = -(-min(settings.recalibrate, len(train)) * len(plan) // len(train))
    shares = [np.array_split(indices, world)[rank] for indices in plan[:enough]]
    on_gpu, dtype = job.fabric.device.type == "cuda", next(job.network.parameters()).dtype

    def inputs() -> Iterator[Any]:
        for batch in batches(train, shares, job.recipe, None, settings.workers, on_gpu):
            if job.stop.requested and world == 1:
                raise _stopped(job, state)
            yield batch.to(job.fabric.device, dtype).voxels

    try:
        with job.fabric.autocast():
            recalibrate(job.network, inputs())
    except Interrupted:  # only now do the statistics stand as they did before
        save(job, state)
        raise


def stale_statistics(job: Job) -> list[str]:
    """A warning where no statistics were taken again and those of the norms are far from the training clouds'."""
    settings, train = job.config.training, job.splits.train
    if settings.recalibrate or job.fabric.world_size > 1 or isinstance(job.config, Pretrain):
        return []
    plan = shuffled(len(train), settings.batch_size, job.config.seed, epoch=0)[:1]
    (batch,) = batches(train, plan, job.recipe)
    dtype = next(job.network.parameters()).dtype
    with job.fabric.autocast():
        distance = drift(job.network, batch.to(job.fabric.device, dtype).voxels)
    if distance < FAR:
        return []
    return [
        f"the running statistics of the norms are {distance:.2g} standard deviations from those of the clouds, "
        "so the scores may be far below what the network can do; set training.recalibrate=512"
    ]


def _outputs(job: Job, state: State, samples: Labelled) -> Any:
    settings = job.config.training

    def each_batch() -> None:
        # Processes score different numbers of batches, so several of them only stop at the next training step.
        if job.fabric.world_size == 1:
            pause(job, state, job.stop.requested)

    return measure.outputs(
        job.fabric, job.task, job.network, samples, job.recipe, settings.batch_size, settings.workers, each_batch
    )


def _seed_torch(seed: int, epoch: int, step: int, rank: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, step, rank)).generate_state(1)[0]))
