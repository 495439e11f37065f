"""Batches by voxels: every cloud once, nearly equal loads, the same number of batches in every epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_runs import interrupt_at, rows, tiny

from image2point.datasets.recipe import Recipe, to_voxels
from image2point.datasets.splits import StoredClouds
from image2point.errors import InputError
from image2point.jobs.transfer import run_transfer
from image2point.training.interrupt import Interrupted
from image2point.training.job import Job
from image2point.training.packing import count_voxels, packed, share, steps


@pytest.mark.parametrize("seed", range(5))
def test_batches_are_nearly_equal_and_drop_nothing(seed: int) -> None:
    counts = np.random.default_rng(seed).integers(1, 100, 1000)
    plans = [packed(counts, 1000, seed, epoch) for epoch in (1, 2)]
    assert len(plans[0]) == len(plans[1]) == int(counts.sum()) // 1000
    assert not np.array_equal(plans[0][0], plans[1][0])
    for plan in plans:
        assert sorted(np.concatenate(plan)) == list(range(1000))
        loads = np.array([counts[batch].sum() for batch in plan])
        assert abs(loads - counts.sum() / len(plan)).max() < 100
    lengths = [len(batch) for batch in plans[0]]
    assert min(lengths) < max(lengths)


def test_a_run_packs_each_epoch_anew() -> None:
    job = object.__new__(Job)
    job.config, job.voxels = tiny("training.batch_voxels=300", "seed=4"), np.arange(10, 60)
    first, second = job.plan(1), job.plan(2)
    assert [list(batch) for batch in first] == [list(batch) for batch in packed(job.voxels, 300, 4, 1)]
    assert [list(batch) for batch in second] == [list(batch) for batch in packed(job.voxels, 300, 4, 2)]
    assert [list(batch) for batch in first] != [list(batch) for batch in second]


def test_each_process_gets_a_cloud_of_every_batch() -> None:
    counts = np.array([50] * 3 + [1] * 2 + [50] * 40)
    assert steps(counts, 150, processes=2) == 14
    for seed in range(50):
        assert min(len(batch) for batch in packed(counts, 150, seed, epoch=1)) >= 2
    with pytest.raises(InputError, match=r"largest cloud has 50 voxels, .* 2 clouds; expected at least 150"):
        steps(counts, 149, processes=2)
    assert steps(counts, 10**9) == len(packed(counts, 10**9, 0, 1)) == 1


@pytest.mark.parametrize("world", [1, 3, 8, 50])
def test_processes_share_a_batch_so_that_their_voxels_are_nearly_equal(world: int) -> None:
    rng = np.random.default_rng(world)
    counts, indices = rng.lognormal(6, 0.8, 1000).astype(np.int64), rng.permutation(1000)[:403]
    shares = [share(indices, counts, rank, world) for rank in range(world)]
    assert sorted(np.concatenate(shares)) == sorted(indices) and min(map(len, shares)) >= 1
    assert all(list(part) == [i for i in indices if i in part] for part in shares)  # in the batch's order
    loads = np.array([counts[part].sum() for part in shares])
    by_number = np.array([counts[part].sum() for part in np.array_split(indices, world)])
    assert world == 1 or np.ptp(loads) < np.ptp(by_number) / 3


def test_processes_count_the_voxels_of_their_own_clouds() -> None:
    points = np.random.default_rng(0).uniform(0, 1, (70, 20, 3)).astype(np.float32)
    clouds, recipe = StoredClouds("cubes", ("a", "b"), points, np.arange(70) % 2), Recipe(0.2)
    whole = np.concatenate(list(count_voxels(clouds, recipe)))
    parts = [np.concatenate(list(count_voxels(clouds, recipe, rank=rank, world=3))) for rank in range(3)]
    assert [len(part) for part in parts] == [24, 23, 23] and np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("substrate", ["sparse", "dense"])
def test_voxels_are_those_of_the_clouds(substrate: str) -> None:
    points = np.random.default_rng(0).uniform(0, 1, (70, 20, 3)).astype(np.float32)
    points[:, 1:] *= np.linspace(0.01, 1, 70, dtype=np.float32)[:, None, None]  # of all sizes
    clouds, recipe = StoredClouds("cubes", ("a", "b"), points, np.arange(70) % 2), Recipe(0.2, substrate=substrate)
    found = np.concatenate(list(count_voxels(clouds, recipe)))
    alone = [len(to_voxels([clouds[i]], Recipe(0.2)).sites) for i in range(70)]  # type: ignore[union-attr]
    assert found.tolist() == alone and len(set(alone)) > 5


def test_a_run_trains_on_them_and_resumes_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("training.batch_voxels=150")
    whole = run_transfer(config, tmp_path / "whole").path
    interrupt_at(monkeypatch, "step 3")
    with pytest.raises(Interrupted):
        run_transfer(config, tmp_path)
    monkeypatch.undo()
    run = run_transfer(config, tmp_path, resume=True).path
    assert (run / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    assert rows(run) == rows(whole)
    assert rows(run)[-1]["step"] != rows(run_transfer(tiny(), tmp_path / "usual").path)[-1]["step"]


def test_the_count_can_be_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(monkeypatch, "counting")
    with pytest.raises(Interrupted, match="while counting voxels"):
        run_transfer(tiny("training.batch_voxels=150"), tmp_path)
    monkeypatch.undo()
    assert run_transfer(tiny("training.batch_voxels=150"), tmp_path, resume=True).summary.exists()


def test_images_have_none(tmp_path: Path) -> None:
    from image2point.config import Pretrain, load_config_as

    path = tmp_path / "images.yaml"
    path.write_text("training: {batch_voxels: 100}\n")
    with pytest.raises(InputError, match="batch_voxels counts voxels"):
        load_config_as(Pretrain, path, ())
