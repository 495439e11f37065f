"""Recorded steps: on a CPU with a stand-in that runs a step again on the tensors of its recording; graphs on a GPU.

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


def train(
    net: LiftedNetwork, batches: list[tuple[VoxelTensor, Tensor]], recorded: Graphs | None, lr: float = 0.05
) -> list[float]:
    """Losses and hits of a step of SGD on each batch."""
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=lr, momentum=0.9)
    found, step = list[float](), step_of(net)
    if recorded is not None:
        wanted = wanted_by(net, batches[0][0])
        ready = [(make_ahead(copy.deepcopy(voxels.sites), wanted), voxels, labels) for voxels, labels in batches]
        buckets = Buckets(
            5, tuple(max(rows) for rows in zip(*(rows_of(sites) for sites, _, _ in ready), strict=True)), 0.2
        )
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
    moved = VoxelTensor(voxels.features, copy.deepcopy(voxels.sites)).to(DEVICE)
    with torch.no_grad():
        copy.deepcopy(net).eval()(moved)
    return asked_of(moved.sites)


def no_record(run: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
    """What a device says that cannot record a step, after some of it ran."""
    run()
    raise RuntimeError("operation not permitted when stream is capturing\nmore lines")


def silent(text: str) -> None:
    raise AssertionError(text)


@pytest.mark.parametrize("policy", ["io", "io+norm", "all"])
def test_a_step_is_the_same(policy: str) -> None:
    """Losses, hits, weights and buffers, in float64; three of four steps are replayed, with other voxels."""
    nets, record = [network(policy) for _ in range(2)], Again()
    nets[1].load_state_dict(nets[0].state_dict())
    recorded, batches = Graphs(nets[1], record, silent), list(cloud_batches(16))
    expected, found = train(nets[0], batches, None), train(nets[1], batches, recorded)
    assert record.replays >= 8 and 1 <= len(recorded) <= 4
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    for (name, ours), theirs in zip(nets[1].state_dict().items(), nets[0].state_dict().values(), strict=True):
        assert relative(ours.double(), theirs.double()) < 1e-9, name


def test_the_oldest_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST", 1)
    nets, record = [network() for _ in range(2)], Again()
    nets[1].load_state_dict(nets[0].state_dict())
    recorded, batches = Graphs(nets[1], record, silent), list(cloud_batches(12))
    torch.testing.assert_close(train(nets[1], batches, recorded), train(nets[0], batches, None), rtol=1e-10, atol=0)
    assert len(recorded) == 1 and record.replays >= 4


def test_what_cannot_be_recorded_runs_as_it_is() -> None:
    """It is told once; what moved in the attempt is put back."""
    nets, told = [network("all") for _ in range(2)], list[str]()
    nets[1].load_state_dict(nets[0].state_dict())
    batches = list(cloud_batches(8))
    found = train(nets[1], batches, Graphs(nets[1], no_record, told.append))
    torch.testing.assert_close(found, train(nets[0], batches, None), rtol=1e-10, atol=0)
    assert len(told) == 1 and told[0].endswith("operation not permitted when stream is capturing")


def test_other_weights_are_recorded_anew() -> None:
    """A graph holds what was computed of frozen kernels: with other values, modes or flags it is dropped."""
    net, record = network("io"), Again()
    recorded, batches = Graphs(net, record, silent), list(cloud_batches(8))
    train(net, batches, recorded)
    count = len(recorded)
    assert count
    recorded.begin()
    assert len(recorded) == count
    for change in (
        lambda: net.get_submodule("layer1.0.conv1").weight.data.mul_(2.0),
        lambda: net.get_submodule("layer1.0.bn1").bias.requires_grad_(),
        lambda: i2p.freeze(net, "head"),
        lambda: net.get_submodule("layer2").eval(),
        lambda: setattr(net.get_submodule("bn1"), "running_mean", net.get_submodule("bn1").running_mean.clone()),
    ):
        change()
        recorded.begin()
        assert len(recorded) == 0
        train(net, batches, recorded)
        assert len(recorded) > 0


def test_someone_who_watches_is_called() -> None:
    net, record, calls = network(), Again(), list[int]()
    net.get_submodule("layer1").register_forward_hook(lambda *_: calls.append(1))
    train(net, list(cloud_batches(6)), Graphs(net, record, silent))
    assert len(calls) == 6 + 1 and record.replays == 0  # one pass found out what plans there are


def test_someone_who_watches_later_is_called() -> None:
    net, record, calls, batches = network(), Again(), list[int](), list(cloud_batches(6))
    recorded = Graphs(net, record, silent)
    train(net, batches, recorded)
    replays = record.replays
    net.get_submodule("layer1").register_forward_hook(lambda *_: calls.append(1))
    train(net, batches, recorded)
    assert len(calls) == 6 + 1 and 0 < replays == record.replays


def test_nothing_in_a_recorded_step_waits() -> None:
    """Tables are sorted in it, and its weight gradients take the rows of columns, without a number asked of the device.

    Kernels are counted, not run; before, the plan of such a step had waits.
    """
    pytest.importorskip("triton", reason="triton is not installed (it comes with the extra `test` on Linux)")
    from launches import as_on_a_gpu, counted

    waits, launches = Counter[str](), Counter[str]()
    with as_on_a_gpu(), counted() as counter:

        def record(run: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
            run()
            counter.clear()
            outputs = run()
            for phase in counter.waits:
                waits.update(counter.waits[phase])
                launches.update(counter.launches[phase])
            return outputs, lambda: None

        net = network("all", engine="triton").float()
        recorded = Graphs(net, record, silent)
        train(net, list(cloud_batches(6, torch.float32)), recorded)
    assert len(recorded) and not waits, waits
    assert launches["_rank"] and launches["sort"] and launches["_weight_gradient"], launches


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
    expected = losses(tmp_path / "none", tiny(*given))
    assert again.replays == 0
    found = losses(tmp_path / "auto", tiny(*given, "training.graphs=auto", "training.workers=1"))
    assert again.replays >= 4
    close(found, expected, 1e-9)


def test_on_a_cpu_nothing_changes(tmp_path: Path) -> None:
    """To the bit; and it is told that nothing is recorded."""
    runs = [
        run_transfer(tiny("training.epochs=1", f"training.graphs={each}"), tmp_path / each) for each in ("none", "auto")
    ]
    assert len({run.weights.read_bytes() for run in runs}) == 1
    assert ["not recorded: the network runs on cpu" in run.log.read_text() for run in runs] == [False, True]


@pytest.mark.parametrize("penalty", ["feature_penalty", "collapse_penalty"])
def test_penalties_on_features_are_not_taken_of_padding(again: Again, tmp_path: Path, penalty: str) -> None:
    given = ("training.epochs=1", f"training.{penalty}=0.1")
    runs = [run_transfer(tiny(*given, f"training.graphs={each}"), tmp_path / each) for each in ("none", "auto")]
    assert again.replays == 0 and f"not recorded: training.{penalty} counts" in runs[1].log.read_text()
    assert len({run.weights.read_bytes() for run in runs}) == 1


def test_an_interrupted_run_ends_with_the_same_bits(again: Again, tmp_path: Path) -> None:
    """What had been recorded is gone, so other steps are recorded and replayed."""
    config = tiny("training.graphs=auto", "collapse.every=0")
    whole = run_transfer(config, tmp_path / "whole")
    replays = again.replays
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        interrupt_at(patch, "step 7")
        run_transfer(config, tmp_path / "parts")
    parts = run_transfer(config, tmp_path / "parts", resume=True)
    assert replays and again.replays > replays
    assert parts.weights.read_bytes() == whole.weights.read_bytes()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("policy", ["io+norm", "all"])
def test_graphs_on_a_gpu(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty steps in float32: losses as they are where nothing is recorded, with padding and without."""
    monkeypatch.setenv("IMAGE2POINT_TUNE", "0")
    record = graphs.recorder(torch.device(DEVICE))
    assert record is not None
    first, batches, found = network(policy).float().to(DEVICE), list(cloud_batches(20, torch.float32)), []
    for recorded_by in (None, no_record, record):
        net = copy.deepcopy(first)
        recorded = None if recorded_by is None else Graphs(net, recorded_by, lambda text: None)
        found.append(torch.tensor(train(net, batches, recorded, lr=0.002))[::2])
    assert recorded is not None and len(recorded) >= 2  # it was graphs that ran
    torch.testing.assert_close(found[2], found[1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found[1], found[0], rtol=1e-2, atol=1e-2)
