"""What a fine-tuning step asks of a GPU's host, counted on a CPU: ResNet-50, `io+norm`, float32, through the real loop.

Before one kernel took norm, sum and ReLU, before a step's numbers were read late and kernels were compared once an
epoch, there were 496 launches and 4 waits in a step, and 809 launches and 52 waits for its plan, which workers make
now but for what Triton sorts; now there are 382 and none. (`launches` says what counts.)
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from tiny_runs import run_transfer, tiny

pytest.importorskip("triton", reason="triton is not installed (it comes with the extra `test` on Linux)")

from launches import as_on_a_gpu, counted

from image2point.training import loop
from image2point.training.job import Job, State
from image2point.training.journal import Journal

LAUNCHES = 400


class Over(Exception):
    """The epoch is over."""


def test_a_step_does_not_wait_and_starts_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[dict[str, Counter[str]], dict[str, Counter[str]]]] = []
    monkeypatch.setenv("IMAGE2POINT_TUNE", "0")
    monkeypatch.setattr(math, "isfinite", lambda _: True)  # kernels are counted, not run: nothing has a meaning
    with as_on_a_gpu(), counted() as counter:

        def epoch(job: Job, state: State) -> None:
            counter.clear()
            loop_epoch(job, state)
            raise Over

        def step(*_: object) -> None:
            steps.append((counter.launches, counter.waits))
            counter.clear()

        loop_epoch = loop.train_epoch
        monkeypatch.setattr(loop, "train_epoch", epoch)
        monkeypatch.setattr(loop, "close_epoch", lambda *_, **__: None)
        monkeypatch.setattr(Journal, "step", step)
        config = tiny(
            "network.arch=resnet50", "network.engine=triton", "data.voxel_size=0.1", "training.batch_size=6",
            "training.epochs=1",
        )  # fmt: skip
        with pytest.raises(Over):
            run_transfer(config, tmp_path)
    launches, waits = steps[1]
    assert not waits["step"], waits
    assert sum(launches["step"].values()) <= LAUNCHES, launches["step"].most_common()
    assert launches["step"]["_normalise"] == launches["step"]["_gradient"] == 53
    assert launches["step"]["_multiply"] > 30 and launches["plan"]["_rank"] > 10  # it is the GPU's way that was taken
