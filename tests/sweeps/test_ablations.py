"""Every config of configs/ablations can be read, and describes the runs that its name promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from image2point.sweeps.plan import read_sweep

FOLDER = Path(__file__).parents[2] / "configs" / "ablations"
CONFIGS = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.startswith("_"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_an_ablation_can_be_read(path: Path) -> None:
    sweep = read_sweep(path)
    assert sweep.name == path.stem
    seeds = {4, 5, 6, 7, 8} if sweep.name.startswith("confirm") else {1, 2, 3}
    assert {run.config.seed for run in sweep.runs} == seeds
    assert all(run.config.data.shot_seed == run.config.seed for run in sweep.runs)


def test_there_are_ablations() -> None:
    assert len(CONFIGS) >= 7
