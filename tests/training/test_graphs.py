"""Recorded steps: on a CPU with a stand-in that runs a step again on the tensors that were recorded; on a GPU as graphs.

The stand-in keeps to what a graph does: it reads the tensors that the step read when it was recorded, whatever they
hold now, and writes what it gives into those that the step gave then.
"""

from __future__ import annotations

import copy
import csv
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lifting_samples import relative, small_resnet
from tiny_runs import interrupt_at, run_transfer, tiny
from torch import Tensor

import image2point as i2p
from image2point.config import Config
from image2point.lifting import LiftedNetwork
from image2point.training import graphs, job
from image2point.training.batches import Batch
from image2point.training.graphs import Graphs, Outputs, Step
from image2point.training.interrupt import Interrupted
from image2point.voxels import VoxelTensor
from image2point.voxels.ahead import Wanted, asked_of, make_ahead
from image2point.voxels.modules import kernels_unchanging
from image2point.voxels.padding import Buckets, pad, rows_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Again:
    """Runs a function again, for a graph."""

    def __init__(self) -> None:
        self.replays = 0

    def __call__(self, run: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        with torch.random.fork_rng(devices=[]):
            outputs = [None if tensor is None else tensor.detach().clone() for tensor in run()]

        def again() -> None:
            self.replays += 1
            for own, new in zip(outputs, run(), strict=True):
                assert (own is None) == (new is None)
                if own is not None:
                    own.copy_(new)

        return outputs, again


@pytest.fixture
def again(monkeypatch: pytest.MonkeyPatch) -> Again:
    found = Again()
    monkeypatch.setattr(job, "recorder", lambda device: found)
    return found


def cloud_batches(count: int, dtype: torch.dtype = torch.float64) -> Iterator[tuple[VoxelTensor, Tensor]]:
    """Batches of three or four clouds of varying size, and their classes."""
    draw = torch.Generator().manual_seed(0)
    for number in range(count):
        points = [torch.rand(60 + 20 * (number % 3), 3, generator=draw) for _ in range(4 - number % 2)]
        features = [torch.randn(len(cloud), 3, generator=draw) for cloud in points]
        voxels = i2p.voxelize(points, 0.15, features).to(dtype)
        yield voxels, torch.randint(5, (len(points),), generator=draw)


def network(policy: str = "io+norm", **options: object) -> LiftedNetwork:
    net = i2p.lift(small_resnet(channels=(4, 4, 8, 8)), num_classes=5, **options)  # type: ignore[arg-type]
    i2p.freeze(net, policy)
    return net.train()


def step_of(net: LiftedNetwork) -> Step:
    def step(batch: Batch, factor: float | Tensor) -> tuple[Tensor, Tensor]:
        scores = net(batch.voxels)
        loss = F.cross_entropy(scores, batch.targets, reduction="sum")
        (loss * factor).backward()
        return loss.detach(), (scores.argmax(1) == batch.targets).sum()

    return step


def train(net: LiftedNetwork, batches: list[tuple[VoxelTensor, Tensor]], recorded: Graphs | None) -> list[float]:
    """Losses and hits of a step of SGD on each batch."""
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    found, step = list[float](), step_of(net)
    if recorded is not None:
        wanted = wanted_by(net, batches[0][0])
        ready = [(make_ahead(copy.deepcopy(voxels.sites), wanted), voxels, labels) for voxels, labels in batches]
        buckets = Buckets(5, tuple(max(rows) for rows in zip(*(rows_of(sites) for sites, _, _ in ready), strict=True)), 0.2)
        batches = [(pad(VoxelTensor(voxels.features, sites), buckets), labels) for sites, voxels, labels in ready]
    with kernels_unchanging(net):
        if recorded is not None:
            recorded.begin()
        for voxels, labels in batches:
            optimizer.zero_grad(set_to_none=True)
            batch = Batch(voxels.to(DEVICE), labels.to(DEVICE), torch.arange(len(labels)))
            factor = 1 / len(labels)
            loss, hits = step(batch, factor) if recorded is None else recorded.step(batch, factor, step)
            found += [float(loss), float(hits)]
            optimizer.step()
    return found


def wanted_by(net: LiftedNetwork, voxels: VoxelTensor) -> Wanted:
    other, sites = copy.deepcopy(net).eval(), copy.deepcopy(voxels.sites)
    with torch.no_grad():
        other(VoxelTensor(voxels.features, sites).to(DEVICE))
        fresh = VoxelTensor(voxels.features.to(next(net.parameters())), sites.to("cpu"))
    return asked_of(fresh.sites) if DEVICE == "cpu" else asked_of(sites)


def losses(folder: Path, config: Config) -> list[dict[str, str]]:
    run = run_transfer(config, folder)
    with open(run.metrics, encoding="utf-8") as file:
        return [
            {name: value for name, value in row.items() if "loss" in name or "accuracy" in name}
            for row in csv.DictReader(file)
        ]


def close(found: list[dict[str, str]], expected: list[dict[str, str]], bound: float) -> None:
    assert len(found) == len(expected) > 1
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name] == theirs[name] or math.isclose(float(ours[name]), float(theirs[name]), rel_tol=bound)


def test_the_same_losses_and_scores(again: Again, tmp_path: Path) -> None:
    """In float64, through the real loop, over batches of which some have one cloud less."""
    given = ("training.precision=64", "training.label_smoothing=0.1", "training.gradient_clip=0.5", "collapse.every=0")
    expected = losses(tmp_path / "off", tiny(*given))
    assert again.replays == 0
    found = losses(tmp_path / "auto", tiny(*given, "training.graphs=auto"))
    assert again.replays >= 4
    close(found, expected, 1e-9)
