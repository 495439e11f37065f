"""Run directories for the tests of the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_writer import write_answers, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """One finished run."""
    return write_run(tmp_path / "runs" / "imagenet-0", epochs=6)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two arms of three seeds, to be read only."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        write_answers(write_run(folder / f"{arm}-{seed}", arm, seed, policy, control, skill, epochs=12), skill=skill)
        for arm, policy, control, skill in (("imagenet", "io+norm", "none", 0.8), ("scratch", "all", "scratch", 0.6))
        for seed in (0, 1, 2)
    ]
