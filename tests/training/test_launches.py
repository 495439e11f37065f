"""What a fine-tuning step asks of a GPU's host, counted on a CPU: ResNet-50, `io+norm`, float32, through the real loop.

Before one kernel took norm, sum and ReLU, before a step's numbers were read late and kernels were compared once an
epoch, there were 496 launches and 4 waits in a step, and 809 launches and 52 waits for its plan, which workers make
now but for what Triton sorts; now there are 382 and none, and 14 besides the replay of a step that was recorded.
(`launches` says what counts.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import run_transfer, tiny

pytest.importorskip("triton", reason="triton is not installed (it comes with the extra `test` on Linux)")

from launches import as_on_a_gpu, counted

from image2point.training import job, loop
from image2point.training.graphs import Outputs
from image2point.training.job import Job, State
from image2point.training.journal import Journal
from image2point.voxels.padding import Buckets

LAUNCHES, REPLAYED = 400, 20


class Over(Exception):
    """The epoch is over."""


Counts = list[tuple[dict[str, Counter[str]], dict[str, Counter[str]]]]


def count_steps(folder: Path, patch: pytest.MonkeyPatch, *settings: str) -> Counts:
    """Launches and waits of each step of an epoch, by phase."""
    steps: Counts = []
    patch.setenv("IMAGE2POINT_TUNE", "0")
    patch.setattr(math, "isfinite", lambda _: True)  # kernels are counted, not run: nothing has a meaning
    with as_on_a_gpu(), counted() as counter:

        def epoch(job: Job, state: State) -> None:
            counter.clear()
            loop_epoch(job, state)
            raise Over

        def step(*_: object) -> None:
            steps.append((counter.launches, counter.waits))
            counter.clear()

        loop_epoch = loop.train_epoch
        patch.setattr(loop, "train_epoch", epoch)
        patch.setattr(loop, "_check_weights", lambda *_: None)
        patch.setattr(loop, "close_epoch", lambda *_, **__: None)
        patch.setattr(Journal, "step", step)
        config = tiny(
            "network.arch=resnet50", "network.engine=triton", "data.voxel_size=0.1", "training.batch_size=6",
            "training.epochs=1", *settings,
        )  # fmt: skip
        with pytest.raises(Over):
            run_transfer(config, folder)
    return steps


def test_a_step_does_not_wait_and_starts_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launches, waits = count_steps(tmp_path, monkeypatch)[1]
    assert not waits["step"], waits
    assert sum(launches["step"].values()) <= LAUNCHES, launches["step"].most_common()
    assert launches["step"]["_normalise"] == launches["step"]["_gradient"] == 53
    assert launches["step"]["_multiply"] > 30 and launches["plan"]["_rank"] > 10  # it is the GPU's way that was taken


def test_a_replayed_step_starts_next_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides the replay itself: the copy of a batch, the optimizer, and the numbers of the step."""
    replays = list[int]()

    def record(run: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        return run(), lambda: replays.append(1)

    def one_size(*given: Any) -> Buckets:
        found = sizes_of(*given)
        return Buckets(found.clouds, tuple(2 * rows for rows in found.rows), step=3.0)

    sizes_of = job.sizes_of
    monkeypatch.setattr(job, "recorder", lambda device: record)
    monkeypatch.setattr(job, "sizes_of", one_size)
    steps = count_steps(tmp_path, monkeypatch, "training.graphs=auto", "data.synthetic.train_per_class=10")
    assert len(steps) == 5 and len(replays) == 4
    for launches, waits in steps[2:]:  # plans are made with the batches, on the CPU
        assert not waits["step"], waits
        assert 10 < sum(launches["step"].values()) <= REPLAYED, launches["step"].most_common()
